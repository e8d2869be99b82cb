"""The engine's HTTP face over a scripted engine: the token, streams, errors within them, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import uvicorn

from models.errors import BadRequest, Overloaded
from models.local.asgi import MAX_HELD_EVENTS, create_app, joined
from models.local.vocabulary import EngineDead, EngineLoad
from models.types import Endpoint, Json

TOKEN = {"authorization": "Bearer secret"}
EVENT = 'data: {"n": %d}\n\n'


class Scripted:
    """An engine that does as the body says; `ended` counts answers that were finished or given up."""

    def __init__(self) -> None:
        self.ready = True
        self.dead = False
        self.ended = 0
        self.started = 0

    async def answer(
        self, endpoint: Endpoint, body: Json, headers: Mapping[str, str]
    ) -> bytes | AsyncGenerator[str, None]:
        self.started += 1
        fail = body.get("fail")
        if fail == "bad":
            raise BadRequest("n is odd", param="n")
        if fail == "full":
            raise Overloaded("full", retry_after_s=1.2)
        if fail == "bug":
            raise KeyError("/secret/path")
        if body.get("stream"):
            return self._events(body)
        try:
            await asyncio.sleep(body.get("delay_s", 0))
        finally:
            self.ended += 1
        return b'{"whole": true}'

    async def _events(self, body: Json) -> AsyncGenerator[str, None]:
        try:
            for n in range(body["stream"]):
                if n == body.get("error_at"):
                    yield 'data: {"error": {"message": "the queue is full", "code": 503}}\n\n'
                if n == body.get("bug_at"):
                    raise KeyError("/secret/path")
                yield EVENT % n
                await asyncio.sleep(body.get("word_s", 0))
            yield "data: [DONE]\n\n"
        finally:
            self.ended += 1

    async def models(self) -> bytes:
        return b'{"data": []}'

    def load(self) -> EngineLoad:
        return EngineLoad(running=3)

    async def check_health(self) -> None:
        if self.dead:
            raise EngineDead


@pytest.fixture
def engine() -> Scripted:
    return Scripted()


@pytest.fixture
async def http(engine: Scripted) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the routes, served bare: nobody cancels their handlers here."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(engine, "secret"), log_level="critical", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}") as session:
            yield session
    finally:
        server.should_exit = True
        await task


async def ask(http: aiohttp.ClientSession, **body: Any) -> tuple[int, bytes]:
    async with http.post("/v1/chat/completions", json=body, headers=TOKEN) as response:
        return response.status, await response.read()


@pytest.mark.parametrize("path", ["/v1/models", "/load", "/ready", "/nowhere"])
@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}])
async def test_without_the_token_nothing_but_health_answers(
    http: aiohttp.ClientSession, path: str, sent: dict[str, str]
) -> None:
    async with http.get(path, headers=sent) as response:
        assert response.status == 401
        assert (await response.json())["error"]["code"] == "invalid_api_key"
    async with http.get("/health") as response:
        assert response.status == 200


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(ValueError, match="token is empty"):
        app = create_app(Scripted(), "")
        app.build_middleware_stack()


async def test_ready_health_load_and_models(http: aiohttp.ClientSession, engine: Scripted) -> None:
    async with http.get("/load", headers=TOKEN) as response:
        assert (await response.json())["running"] == 3
    engine.ready = False
    async with http.get("/ready", headers=TOKEN) as response:
        assert response.status == 503
    async with http.get("/v1/models", headers=TOKEN) as response:
        assert (response.status, await response.json()) == (200, {"data": []})
    engine.dead = True
    for path in ("/health", "/v1/models"):
        async with http.get(path, headers=TOKEN) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "engine_dead")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"fail": "bad"}, 400, "invalid_request"),
        ({"fail": "full"}, 503, "overloaded"),
        ({"fail": "bug"}, 500, "internal_error"),
        ({"stream": 3, "error_at": 0}, 503, "overloaded"),
        ({"stream": 3, "bug_at": 0}, 500, "internal_error"),
    ],
)
async def test_a_failure_before_the_first_event_has_a_status_of_its_own(
    http: aiohttp.ClientSession, body: dict[str, Any], status: int, code: str
) -> None:
    told, raw = await ask(http, **body)
    assert (told, json.loads(raw)["error"]["code"]) == (status, code)
    assert b"secret" not in raw


async def test_retry_after_is_a_header(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/completions", json={"fail": "full"}, headers=TOKEN) as response:
        assert response.headers["retry-after"] == "2"


@pytest.mark.parametrize("raw", [b"{bad", b"[]", b"", b"\xff"])
async def test_a_body_that_is_no_object_is_a_bad_request(http: aiohttp.ClientSession, raw: bytes) -> None:
    async with http.post("/v1/chat/completions", data=raw, headers=TOKEN) as response:
        assert response.status == 400


@pytest.mark.parametrize("fault", ["error_at", "bug_at"])
async def test_an_error_within_a_stream_is_its_last_event_and_no_done_follows(
    http: aiohttp.ClientSession, fault: str
) -> None:
    status, raw = await ask(http, stream=6, word_s=0.02, **{fault: 3})
    events = [e for e in raw.decode().split("\n\n") if e]
    assert status == 200 and [EVENT.strip() % n for n in range(3)] == events[:3]
    assert "error" in json.loads(events[3].removeprefix("data: ")) and len(events) == 4
    assert b"[DONE]" not in raw and b"secret" not in raw


@pytest.mark.parametrize("body", [{"delay_s": 30}, {"stream": 1000, "word_s": 0.05}], ids=["whole", "stream"])
async def test_a_client_that_leaves_frees_the_engine(
    http: aiohttp.ClientSession, engine: Scripted, body: dict[str, Any]
) -> None:
    asked = asyncio.create_task(ask(http, **body))
    while not engine.started:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert engine.ended == 0
    asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asked
    async with asyncio.timeout(2):
        while not engine.ended:
            await asyncio.sleep(0.01)


async def events(count: int, gap_s: float, error_at: int | None = None) -> AsyncGenerator[str, None]:
    for n in range(count):
        if n == error_at:
            yield 'data: {"error": {"message": "m", "code": 400}}\n\n'
        yield EVENT % n
        if gap_s:
            await asyncio.sleep(gap_s)


async def test_events_that_come_together_are_joined_and_the_first_goes_alone_at_once() -> None:
    blocks = [block async for block in joined(events(100, 0.002), window_s=0.05)]
    assert blocks[0] == (EVENT % 0).encode()
    assert len(blocks) < 20
    assert b"".join(blocks) == "".join(EVENT % n for n in range(100)).encode()


async def test_a_stream_slower_than_the_window_is_never_held() -> None:
    assert len([block async for block in joined(events(5, 0.03), window_s=0.01)]) == 5


async def test_what_came_before_an_error_goes_out_and_nothing_after_it() -> None:
    seen = b""
    with pytest.raises(BadRequest):
        async for block in joined(events(10, 0, error_at=4), window_s=0.01):
            seen += block
    assert seen == "".join(EVENT % n for n in range(4)).encode()


async def test_a_reader_that_stops_reading_stops_the_engine_after_a_bounded_number_of_events() -> None:
    produced = 0

    async def many() -> AsyncGenerator[str, None]:
        nonlocal produced
        for n in range(10_000):
            produced = n
            yield EVENT % n

    blocks = joined(many(), window_s=0.001)
    await anext(blocks)
    await asyncio.sleep(0.1)
    assert produced <= 2 * MAX_HELD_EVENTS
    await blocks.aclose()

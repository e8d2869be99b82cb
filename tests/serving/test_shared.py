"""A gateway away from the head asks the head for what all share, and for nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from models.errors import FarthingError, Unavailable
from serving import shared
from serving.asgi import Exchange
from serving.courier import Courier
from serving.runtime import Runtime
from serving.shared import Away


class Silent:
    """A head that takes every call and answers none."""

    def __getattr__(self, name: str) -> Any:
        async def call(*_arguments: Any) -> None:
            await asyncio.Event().wait()

        return call


def away(folder: Path, url: str) -> Away:
    head = cast(Any, Silent())
    runtime = Runtime(folder, url, metrics_in_service=False, clustered=True).on_node("192.0.2.2")
    return Away(head, Courier(runtime, head), url, None)


@contextlib.asynccontextmanager
async def answering(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def deletion(headers: dict[str, str], sent: list[Any]) -> Exchange:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "DELETE", "path": "/v1/farthing/cache", "query_string": b"tenant=a%26b%3D"}
    return Exchange.of({**scope, "headers": raw}, receive, send)


async def test_what_is_passed_on_comes_whole(tmp_path: Path) -> None:
    got: list[Any] = []

    async def head(request: web.Request) -> web.Response:
        got.append((request.method, request.path, request.query["tenant"], request.headers["authorization"]))
        return web.json_response({"deleted": 3}, status=202, headers={"retry-after": "7"})

    sent: list[Any] = []
    async with answering(head) as url, aiohttp.ClientSession() as session:
        await away(tmp_path, url).passes_on(session)(deletion({"authorization": "Bearer fk-x"}, sent))
    assert got == [("DELETE", "/v1/farthing/cache", "a&b=", "Bearer fk-x")]
    assert sent[0]["status"] == 202 and sent[1]["body"] == b'{"deleted": 3}'
    assert (b"retry-after", b"7") in sent[0]["headers"]


async def test_a_request_is_passed_on_once(tmp_path: Path) -> None:
    """While no gateway of the head is up its HAProxy asks another node's, which must not ask the head again."""
    seen: list[FarthingError] = []

    async with aiohttp.ClientSession() as session:

        async def another_node(request: web.Request) -> web.Response:
            assert not seen, "it goes round"
            try:
                await away(tmp_path, url).passes_on(session)(deletion(dict(request.headers), []))
            except FarthingError as exc:
                seen.append(exc)
            return web.Response(status=503)

        async with answering(another_node) as url:
            async with asyncio.timeout(5):
                await away(tmp_path, url).passes_on(session)(deletion({}, []))
    assert [type(exc) for exc in seen] == [Unavailable]


async def test_an_answer_that_never_comes_does_not_keep_revoked_keys_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps the keys fresh must get to ask again."""
    monkeypatch.setattr(shared, "KEYS_WAIT_S", 0.05)
    asking = asyncio.ensure_future(away(tmp_path, "http://192.0.2.1:8000").load(1))
    await asyncio.wait([asking], timeout=2)
    with pytest.raises(TimeoutError):
        asking.result()

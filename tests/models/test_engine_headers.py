"""What a server does to the headers of one answer must not reach the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import orjson

from models.local.asgi import create_app
from models.local.vocabulary import EngineLoad
from models.types import Endpoint, Json


class Stub:
    """Streams two events."""

    ready = True

    async def answer(self, endpoint: Endpoint, body: Json, headers: Mapping[str, str]) -> AsyncGenerator[str, None]:
        async def events() -> AsyncGenerator[str, None]:
            yield 'data: {"choices": []}\n\n'
            yield "data: [DONE]\n\n"

        return events()

    async def models(self) -> bytes:
        return b"{}"

    def load(self) -> EngineLoad:
        return EngineLoad()

    async def check_health(self) -> None: ...


async def ask_stream(app: Any) -> list[dict[str, Any]]:
    """What the application sends; the server adds a header to its start, in place, as Ray Serve does."""
    asked = [{"type": "http.request", "body": orjson.dumps({"stream": True}), "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not asked:
            await asyncio.Event().wait()  # the client stays
        return asked.pop()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"].append((b"x-request-id", b"one of many"))
        sent.append(message)

    headers = [(b"authorization", b"Bearer secret")]
    path = "/v1/chat/completions"
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return sent


async def test_what_a_server_adds_to_one_answer_is_not_in_the_next() -> None:
    """Else every stream carries the headers of all before it, until a proxy refuses the block as too long."""
    app = create_app(Stub(), "secret")
    starts = [(await ask_stream(app))[0] for _ in range(3)]
    assert [len(start["headers"]) for start in starts] == [4, 4, 4]

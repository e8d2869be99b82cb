"""A streamed answer leaves a connection that the next request can use, however late HTTP ends it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from models.types import Call, Capabilities, Deadline
from models.upstream import openai
from models.upstream.anthropic import AnthropicBackend
from models.upstream.openai import HttpBackend, OpenAIBackend, make_session

CHOICE = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [CHOICE]}
OPENAI = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"
ANTHROPIC_EVENTS = [
    {"type": "message_start", "message": {"id": "c", "model": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
]
ANTHROPIC = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in ANTHROPIC_EVENTS)


@contextlib.asynccontextmanager
async def ending_late(wait_s: float) -> AsyncIterator[tuple[str, set[int]]]:
    """A server that says it is done so long before HTTP does. Yields its URL and the ports it was asked from."""
    asked_from: set[int] = set()

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        asked_from.add(request.transport.get_extra_info("peername")[1])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write((ANTHROPIC if request.path.endswith("messages") else OPENAI).encode())
        await asyncio.sleep(wait_s)
        return response

    app = web.Application()
    app.router.add_post("/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked_from
    finally:
        await runner.cleanup()


async def ask(backend: HttpBackend, times: int) -> None:
    for _ in range(times):
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        stream = backend.stream(Call("chat/completions", body, "req_1", Deadline.after(20), stream=True))  # type: ignore[attr-defined]
        assert b"hi" in b"".join([chunk.data async for chunk in stream])


@pytest.mark.parametrize("kind", [OpenAIBackend, AnthropicBackend])
async def test_streams_share_a_connection_although_its_end_comes_after_theirs(
    kind: type[OpenAIBackend] | type[AnthropicBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "END_WAIT_S", 10.0)  # a busy machine is no reason to give up here
    async with ending_late(0.05) as (url, asked_from), make_session() as session:
        await ask(kind("a", f"{url}/v1", "m", session, lambda: "sk", Capabilities()), 3)
    assert len(asked_from) == 1


async def test_a_connection_that_does_not_end_holds_nobody_up() -> None:
    async with ending_late(60.0) as (url, asked_from), make_session() as session:
        began_s = time.monotonic()
        await ask(OpenAIBackend("a", f"{url}/v1", "m", session, None, Capabilities()), 2)
        assert time.monotonic() - began_s < 30.0
    assert len(asked_from) == 2

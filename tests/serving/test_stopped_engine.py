"""An engine told to stop ends its answers as if they were whole, but for one word: they are not taken as such."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
from aiohttp import web

from models.types import Capabilities
from models.upstream.openai import OpenAIBackend, make_session
from serving.wire.assemble import event
from tests.serving.cascades import text
from tests.serving.conftest import Running, Setup, running

WHOLE = "a farthing is a quarter"
SEEN = "a farthing"


def chunk(delta: Any, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]})


class Engine:
    """The first answer is given up after what is `said`, as vLLM gives it up on SIGTERM."""

    def __init__(self, said: str = SEEN) -> None:
        self.said = said
        self.bodies: list[Any] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.bodies.append(body)
        begun = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
        stopped = len(self.bodies) == 1
        said = self.said if stopped else WHOLE.removeprefix(begun)
        ends = "abort" if stopped else "stop"
        if not body["stream"]:
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": ends}
            return web.json_response({"id": "c", "choices": [choice]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for word in re.findall(r"\s*\S+", said):
            await response.write(chunk({"content": word}))
        await response.write(chunk({"content": ""}, ends) + b"data: [DONE]\n\n")
        return response


@contextlib.asynccontextmanager
async def asked(setup: Setup, engine: Engine) -> AsyncIterator[Running]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", engine.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with make_session() as session:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            setup.small = OpenAIBackend("small/0", url, "tiny", session, None, Capabilities())
            async with running(setup) as service:
                yield service
    finally:
        await runner.cleanup()


async def test_a_stream_is_carried_on(setup: Setup) -> None:
    async with asked(setup, engine := Engine()) as service:
        _, body = await service.stream("x")
        (row,) = await service.rows(1)
    assert text(body) == WHOLE and b"abort" not in body
    assert engine.bodies[1]["messages"][-1] == {"role": "assistant", "content": SEEN}
    assert (row["status"], row["attempts"]) == ("answered", 2)


async def test_a_stream_without_a_word_yet_is_asked_anew(setup: Setup) -> None:
    async with asked(setup, engine := Engine("")) as service:
        _, body = await service.stream("x")
    assert text(body) == WHOLE and b"abort" not in body
    assert len(engine.bodies) == 2 and "continue_final_message" not in engine.bodies[1]


async def test_a_whole_answer_is_asked_anew(setup: Setup) -> None:
    async with asked(setup, engine := Engine()) as service:
        _, body = await service.ask("x")
    assert body["choices"][0]["message"]["content"] == WHOLE and len(engine.bodies) == 2

"""Scripted model servers: what they are told to do, whatever wire format they speak."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from models.backend import Backend
from models.types import Call, Deadline, Json

WORDS = ("A", " farthing", " is", " a", " quarter", " of", " a", " penny.")
TEXT = "".join(WORDS)
INPUT_TOKENS, CACHED_TOKENS = 20, 4


@dataclass(frozen=True)
class Script:
    """One behaviour. An `error_code` is the provider-neutral name of a refusal that comes with `status`."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error_code: str = ""
    message: str = "because the script says so"
    delay_s: float = 0.0  # before the answer begins
    word_s: float = 0.0
    cut_after: int | None = None  # words, then the connection closes
    garbage_after: int | None = None  # words, then what no parser takes
    error_after: int | None = None  # words, then an error event
    usage: bool = True
    crlf: bool = False
    comments: bool = False
    tool: bool = False
    one_write: bool = False


class ScriptedServer(ABC):
    """A local server; subclasses speak a wire format. `received` are parsed bodies, `left` counts clients that left."""

    def __init__(self) -> None:
        self.script = Script()
        self.received: list[Json] = []
        self.request_headers: list[dict[str, str]] = []
        self.left = 0
        self.finished = 0
        self.url = ""

    @abstractmethod
    def backend(self, session: aiohttp.ClientSession, **facts: Any) -> Backend: ...

    @abstractmethod
    def whole(self) -> Json: ...

    @abstractmethod
    def error(self) -> Json: ...

    @abstractmethod
    def events(self) -> list[bytes]:
        """The whole stream, one item an event; item n of `words()` stands at `first_word() + n`."""

    @abstractmethod
    def first_word(self) -> int: ...

    @abstractmethod
    def error_event(self) -> bytes: ...

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.received.append(body)
        self.request_headers.append(dict(request.headers))
        script = self.script
        try:
            await asyncio.sleep(script.delay_s)
            if script.status != 200:
                return web.json_response(self.error(), status=script.status, headers=script.headers)
            if not body.get("stream"):
                await asyncio.sleep(script.word_s * len(WORDS))
                if script.garbage_after is not None:
                    return web.Response(text='{"half": ', content_type="application/json")
                return web.json_response(self.whole())
            return await self._stream(request)
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.finished += 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        script = self.script
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        written: list[bytes] = []
        for at, event in enumerate(self.events()):
            word = at - self.first_word()
            if word >= 0:
                await asyncio.sleep(script.word_s)
            if word == script.cut_after:
                await response.write(b"".join(written))
                assert request.transport is not None
                request.transport.close()
                return response
            if word == script.garbage_after:
                event = b"data: {not json\n\n"
            if word == script.error_after:
                event = self.error_event()
            written.append(event.replace(b"\n", b"\r\n") if script.crlf else event)
            if script.comments:
                written.append(b": still here\n\n")
            if not script.one_write:
                try:
                    await response.write(b"".join(written))
                except ConnectionError:
                    self.left += 1
                    raise
                written.clear()
        await response.write(b"".join(written))
        return response

    @contextlib.asynccontextmanager
    async def running(self, path: str) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post(path, self.handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield
        finally:
            await runner.cleanup()


def call(stream: bool = False, deadline_s: float = 10.0, **fields: Any) -> Call:
    body = {"model": "asked", "messages": [{"role": "user", "content": "What is a farthing?"}], **fields}
    return Call("chat/completions", body, "req_test", Deadline.after(deadline_s), stream=stream)

"""An OpenAI-compatible server that costs almost nothing: what remains of a measurement through it is the gateway.

    python -m benchmarks.scripted --port 9000 [--ttft-ms 50 --itl-ms 10]

The answer to a request of N tokens is always `text(N)`. Without timing options it comes at once, streams one event per
turn of the loop, as an engine's tokens come, not in one block. With them, token i is due `ttft + i * itl` after its
request, however many requests there are: an engine of known timing. Knows nothing of gateways.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httptools
import orjson
import uvloop

DEFAULT_TOKENS = 50
ID = "chatcmpl-scripted"
CREATED = 1_760_000_000  # seconds; fixed, so that equal requests get equal bytes
LAST_CHUNK = b"0\r\n\r\n"
DONE_EVENT = b"data: [DONE]\n\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
STATUS_TEXT = {200: b"200 OK", 400: b"400 Bad Request", 404: b"404 Not Found"}


def text(tokens: int) -> str:
    """The answer of that many tokens."""
    return "".join(_token(i) for i in range(tokens))


def _token(index: int) -> str:
    return f" w{index}"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds to the first token and between tokens; both zero: at once."""

    ttft_s: float = 0.0
    itl_s: float = 0.0

    @property
    def instant(self) -> bool:
        return self.ttft_s == self.itl_s == 0.0


@dataclass(slots=True)
class Counts:
    """What was asked of the server, for those who must know whether a gateway asked at all."""

    completions: int = 0
    cut: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """The parts of a request that change the answer."""

    model: str
    tokens: int
    prompt_tokens: int
    stream: bool
    include_usage: bool

    @classmethod
    def parse(cls, raw: bytes, default_tokens: int) -> Question:
        """Raises ValueError, LookupError, TypeError or AttributeError on a body that is no chat request."""
        return cls.of(orjson.loads(raw), default_tokens)

    @classmethod
    def of(cls, body: dict[str, Any], default_tokens: int) -> Question:
        """As `parse`, from a body already read."""
        tokens = body.get("max_completion_tokens") or body.get("max_tokens") or default_tokens
        if int(tokens) < 1:
            raise ValueError("max_tokens must be at least 1")
        words = sum(_words(message["content"]) for message in body["messages"])
        options = body.get("stream_options") or {}
        return cls(body["model"], int(tokens), words, bool(body.get("stream")), bool(options.get("include_usage")))

    def usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens, "total_tokens": total}


def _words(content: Any) -> int:
    if isinstance(content, str):
        return content.count(" ") + 1
    return sum(_words(part.get("text", "")) for part in content)


def _shared(model: str, kind: str) -> dict[str, Any]:
    return {"id": ID, "object": kind, "created": CREATED, "model": model}


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@lru_cache(maxsize=256)
def sse_events(model: str, tokens: int) -> tuple[bytes, ...]:
    """One event per token; the first also names the role, the last the reason of the end."""
    events = []
    for i in range(tokens):
        delta = {"role": "assistant", "content": _token(i)} if i == 0 else {"content": _token(i)}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if i == tokens - 1 else None}
        event = {**_shared(model, "chat.completion.chunk"), "choices": [choice]}
        events.append(b"data: %b\n\n" % orjson.dumps(event))
    return tuple(events)


@lru_cache(maxsize=256)
def stream_events(model: str, tokens: int) -> tuple[bytes, ...]:
    """One HTTP chunk per token."""
    return tuple(map(_http_chunk, sse_events(model, tokens)))


def sse_end(asked: Question) -> bytes:
    """Usage if it was asked for, and the end mark."""
    tail = DONE_EVENT
    if asked.include_usage:
        event = {**_shared(asked.model, "chat.completion.chunk"), "choices": [], "usage": asked.usage()}
        tail = b"data: %b\n\n" % orjson.dumps(event) + tail
    return tail


def unary_body(asked: Question) -> bytes:
    message = {"role": "assistant", "content": _cached_text(asked.tokens)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({**_shared(asked.model, "chat.completion"), "choices": [choice], "usage": asked.usage()})


_cached_text = lru_cache(maxsize=256)(text)


@dataclass(slots=True)
class Script:
    """What every connection shares."""

    timing: Timing = Timing()
    tokens: int = DEFAULT_TOKENS
    model: str = "scripted"
    counts: Counts = field(default_factory=Counts)


class Connection(asyncio.Protocol):
    """One client, one request at a time."""

    def __init__(self, script: Script, loop: asyncio.AbstractEventLoop) -> None:
        self._script, self._loop = script, loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._url = b""
        self._body = b""
        self._next: asyncio.Handle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._script.counts.connections += 1

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._reply(400, _error(f"not HTTP/1.1: {exc}"))
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
            self._script.counts.cut += 1

    def on_url(self, url: bytes) -> None:
        self._url, self._body = url, b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._url == b"/v1/chat/completions":
            self._complete()
        elif self._url == b"/v1/models":
            model = {"id": self._script.model, "object": "model", "created": CREATED, "owned_by": "scripted"}
            self._reply(200, orjson.dumps({"object": "list", "data": [model]}))
        elif self._url == b"/health":
            self._reply(200, b"{}")
        elif self._url == b"/stats":
            counts = self._script.counts
            self._reply(200, orjson.dumps({"completions": counts.completions, "cut": counts.cut}))
        else:
            self._reply(404, _error(f"nothing at {self._url.decode('latin-1')}; ask /v1/chat/completions"))

    def _complete(self) -> None:
        try:
            asked = Question.parse(self._body, self._script.tokens)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            self._reply(400, _error(f"not a chat request: {exc!r}"))
            return
        self._script.counts.completions += 1
        timing = self._script.timing
        start_s = self._loop.time()
        if asked.stream:
            self._transport.write(STREAM_HEAD)
            self._schedule(start_s, asked, 0)
        elif timing.instant:
            self._reply(200, unary_body(asked))
        else:
            due_s = start_s + timing.ttft_s + (asked.tokens - 1) * timing.itl_s
            self._next = self._loop.call_at(due_s, self._finish_unary, asked)

    def _finish_unary(self, asked: Question) -> None:
        self._next = None
        self._reply(200, unary_body(asked))

    def _schedule(self, start_s: float, asked: Question, index: int) -> None:
        timing = self._script.timing
        if timing.instant:
            self._next = self._loop.call_soon(self._send, start_s, asked, index)
        else:
            due_s = start_s + timing.ttft_s + index * timing.itl_s
            self._next = self._loop.call_at(due_s, self._send, start_s, asked, index)

    def _send(self, start_s: float, asked: Question, index: int) -> None:
        events = stream_events(asked.model, asked.tokens)
        if index == asked.tokens - 1:
            self._next = None
            self._transport.write(events[index] + _http_chunk(sse_end(asked)) + LAST_CHUNK)
            return
        self._transport.write(events[index])
        self._schedule(start_s, asked, index + 1)

    def _reply(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (STATUS_TEXT[status], len(body)) + body)


def _error(message: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "invalid_request_error", "code": "scripted"}})


async def serve(script: Script, port: int = 0) -> asyncio.Server:
    """Listen on loopback; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(script, loop), "127.0.0.1", port, backlog=1024)


def port_of(server: asyncio.Server) -> int:
    sock: socket.socket = server.sockets[0]
    return int(sock.getsockname()[1])


async def _main(script: Script, port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await serve(script, port)
    print(f"ready http://127.0.0.1:{port_of(server)}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one; it is printed")
    parser.add_argument("--ttft-ms", type=float, default=0.0)
    parser.add_argument("--itl-ms", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="when a request sets no max_tokens")
    parser.add_argument("--model", default="scripted")
    arguments = parser.parse_args()
    timing = Timing(arguments.ttft_ms / 1000, arguments.itl_ms / 1000)
    uvloop.run(_main(Script(timing, arguments.tokens, arguments.model), arguments.port))


if __name__ == "__main__":
    main()

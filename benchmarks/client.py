"""One caller of a closed loop: asks, reads the answer to its end, checks it, asks again.

Written on the bare protocol, because it shares the machine's cores with what it measures: about 60 µs an exchange.
Every answer is checked whole. Knows neither how many callers there are nor when to stop: its `Source` does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import httptools
import orjson

from benchmarks.measure import Sample

CONTENT_KEY = b'"content"'
DONE = b"[DONE]"


class WrongAnswerError(Exception):
    """The answer is not the one asked for."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a good answer is; None: anything. `header` is a name in lower case and its value."""

    stream: bool = False
    text: str | None = None
    tokens: int | None = None
    header: tuple[str, str] | None = None


@dataclass(slots=True)
class Reply:
    """An answer as it comes in."""

    asked_s: float
    stream: bool
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    first_s: float | None = None
    last_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)

    def arrived(self, now_s: float, seen_bytes: int) -> None:
        """Note an arrival; what it brought is the body from `seen_bytes` on."""
        if self.first_s is None:
            if any(_content(event) for event in _events(self.body)):
                self.first_s = self.last_s = now_s
        elif self.body.find(CONTENT_KEY, seen_bytes) >= 0:
            self.gaps_s.append(now_s - self.last_s)
            self.last_s = now_s


def _events(body: bytes | bytearray) -> list[dict[str, Any]]:
    """The whole events of an SSE body, its end mark left out."""
    lines = body[: body.rfind(b"\n") + 1].split(b"\n")
    data = [line[5:] for line in lines if line.startswith(b"data:") and DONE not in line]
    found: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(data) + b"]")
    return found


def _content(event: dict[str, Any]) -> str:
    choices = event.get("choices")
    return (choices[0]["delta"].get("content") or "") if choices else ""


def check(reply: Reply, expected: Expected, now_s: float) -> Sample:
    """The measured sample of a good answer. Raises WrongAnswerError saying what is wrong with it."""
    if reply.status != 200:
        raise WrongAnswerError(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
    if expected.header is not None:
        name, wanted = expected.header
        found = reply.headers.get(name.encode(), b"").decode()
        if found != wanted:
            raise WrongAnswerError(f"header {name} is '{found}', not '{wanted}'")
    try:
        text, count, usage = _streamed(reply) if expected.stream else _whole(reply)
    except (ValueError, LookupError, TypeError) as exc:
        raise WrongAnswerError(f"unreadable ({exc!r}): {reply.body[-300:].decode(errors='replace')}") from exc
    if expected.text is not None and text != expected.text:
        raise WrongAnswerError(
            f"text of {len(text)} characters in {count} chunks is not the expected one: {text[:80]!r}"
        )
    if not text:
        raise WrongAnswerError("no text")
    tokens = usage.get("completion_tokens") or count
    if expected.tokens is not None and tokens != expected.tokens:
        raise WrongAnswerError(f"{tokens} tokens instead of {expected.tokens}")
    ttft_s = None if reply.first_s is None else reply.first_s - reply.asked_s
    return Sample(now_s - reply.asked_s, ttft_s, reply.gaps_s, tokens, usage.get("prompt_tokens") or 0)


def _whole(reply: Reply) -> tuple[str, int, dict[str, Any]]:
    body = orjson.loads(reply.body)
    return body["choices"][0]["message"]["content"] or "", 1, body["usage"]


def _streamed(reply: Reply) -> tuple[str, int, dict[str, Any]]:
    if not reply.body.rstrip().endswith(DONE):
        raise ValueError("the stream has no [DONE]")
    events = _events(reply.body)
    failed = [event for event in events if "error" in event]
    if failed:
        raise ValueError(f"error event {failed[0]}")
    parts = [part for part in map(_content, events) if part]
    usage: dict[str, Any] = next((event["usage"] for event in reversed(events) if event.get("usage")), {})
    return "".join(parts), len(parts), usage


class Source(Protocol):
    """Where a caller gets its requests, and whom it tells what became of them."""

    expected: Expected

    def next_request(self) -> bytes | None:
        """The bytes of a whole HTTP request, or None: rest."""
        ...

    def answered(self, sample: Sample) -> None: ...

    def failed(self, why: str) -> None: ...

    def disconnected(self) -> None:
        """A connection is gone; a new one may be wanted."""
        ...


class Caller(asyncio.Protocol):
    """One connection, one request at a time. `ask` starts it; it goes on by itself until the source says rest.

    `leaving`: the server wants no more requests on this connection, and `disconnected` is still to come.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._parser: Any = None
        self._transport: Any = None
        self._complete = self._stays = False
        self.connected = self.leaving = False
        self.reply: Reply | None = None

    def ask(self) -> None:
        request = self._source.next_request()
        if request is None:
            return
        self.reply = Reply(perf_counter(), self._source.expected.stream)
        self._transport.write(request)

    def close(self) -> None:
        """Hang up; a request under way ends nowhere."""
        self.reply = None
        self._transport.abort()

    def give_up(self, why: str) -> None:
        """Fail the request under way and hang up."""
        self._broken(why)

    def connection_made(self, transport: Any) -> None:
        self._transport, self.connected = transport, True
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.connected = self.leaving = False
        if self.reply is not None:
            self.reply = None
            self._source.failed(f"the connection was closed before the answer was whole ({error})")
        self._source.disconnected()

    def data_received(self, data: bytes) -> None:
        now_s = perf_counter()
        reply = self.reply
        if reply is None:
            self._broken(f"the server spoke unasked: {data[:80]!r}")
            return
        seen_bytes = len(reply.body)
        try:
            self._parser.feed_data(data)
            if reply.stream and reply.status == 200 and len(reply.body) > seen_bytes:
                reply.arrived(now_s, seen_bytes)
        except (httptools.HttpParserError, ValueError, LookupError, TypeError) as exc:
            self._broken(f"unreadable ({exc!r}): {data[:300]!r}")
            return
        if self._complete:
            self._finish(reply, now_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.reply is not None:
            self.reply.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self.reply is not None:
            self.reply.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if self.reply is not None:
            self.reply.body += data

    def on_message_complete(self) -> None:
        self._complete = True
        self._stays = self._parser.should_keep_alive()  # once the message is over the parser says no to all

    def _finish(self, reply: Reply, now_s: float) -> None:
        self.reply, self._complete = None, False
        try:
            self._source.answered(check(reply, self._source.expected, now_s))
        except WrongAnswerError as exc:
            self._source.failed(str(exc))
        if self._stays:
            self.ask()
        else:
            self.leaving = True
            self._transport.close()

    def _broken(self, why: str) -> None:
        self.reply = None
        self._source.failed(why)
        self._transport.abort()

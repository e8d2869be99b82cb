"""Server-sent events, framed from byte blocks as they come off a socket. Cheap: nothing is parsed that need not be.

Knows the OpenAI chunk only as far as passing it through needs: where content begins, usage, errors, the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from models.errors import ProtocolViolation
from models.types import Chunk, Usage

MAX_EVENT_BYTES = 4 * 1024 * 1024
STOPPED = "abort"  # how vLLM, told to stop, ends the answers it has begun
# What vLLM adds to every event for `continuous_usage_stats`. No text looks like it: in a string its quotes are escaped.
_RUNNING: Final = re.compile(rb',"usage":(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})(?=[,}])')
_VISIBLE = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "audio")


class EventSplitter:
    """Turns blocks into whole events, each ending in a blank line. CRLF becomes LF; mere comments are dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[bytes]:
        data = self._rest + block if self._rest else block
        if b"\r" in data:
            # A CR at the very end may be half of a CRLF: it waits for its LF.
            held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        whole, separator, self._rest = data.rpartition(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ProtocolViolation("the backend sent an event without an end")
        if not separator:
            return []
        events = (event.lstrip(b"\n") for event in whole.split(b"\n\n"))
        return [event + b"\n\n" for event in events if event.startswith(b"data:") or b"\ndata:" in event]

    @property
    def pending(self) -> bool:
        return bool(self._rest.strip())


def payload(event: bytes) -> bytes:
    """The data of an event: its `data:` lines, joined."""
    if event.startswith(b"data:") and event.count(b"\n") == 2:
        return event[5:].strip()
    return b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))


def without_running_usage(events: bytes) -> bytes:
    """The events without the usage that vLLM adds to each for `continuous_usage_stats`."""
    return _RUNNING.sub(b"", events)


@dataclass(slots=True)
class ChunkReader:
    """Follows one OpenAI stream: makes `Chunk`s of its events and notices content, usage, errors and the end."""

    _splitter: EventSplitter = field(default_factory=EventSplitter)
    seen_content: bool = False
    finished: bool = False  # a finish_reason was seen
    done: bool = False  # [DONE] was seen
    error: dict[str, Any] | None = None
    fault: ProtocolViolation | None = None  # to be raised once what came before it has been passed on
    _running: bytes = b""  # usage so far, as the last event told it

    def feed(self, block: bytes) -> Chunk | None:
        """What a block completes, None when nothing. What is no chunk ends the stream: it is the `fault`."""
        kept: list[bytes] = []
        usage: Usage | None = None
        self._running = b""
        try:
            for event in self._splitter.feed(block):
                data = payload(event)
                if self.done or self.error is not None:
                    break
                if data == b"[DONE]":
                    self.done = True
                elif data:
                    keep, found = self._look(data)
                    usage = found or usage
                    if keep:
                        kept.append(event)
        except ProtocolViolation as exc:
            self.fault = exc
        if not kept and usage is None:
            return None
        return Chunk(b"".join(kept), content=self.seen_content, usage=usage, running=self._running)

    def _look(self, data: bytes) -> tuple[bool, Usage | None]:
        """(whether the event is passed on, its usage). Parses until content was seen, and then only the odd event."""
        has_usage = b'"usage"' in data and b'"usage":null' not in data and b'"usage": null' not in data
        ends = b'"finish_reason":"' in data or b'"finish_reason": "' in data
        running = _RUNNING.search(data) if has_usage and b'"choices":[{' in data else None
        if self.seen_content and not ends and b'"error"' not in data and (running or not has_usage):
            if not (data.startswith(b"{") and data.endswith(b"}")):
                raise ProtocolViolation("the backend sent an event that is not an object")
            self._running = running[1] if running is not None else self._running
            return True, None
        chunk = _parse(data)
        if chunk.get("error"):
            error = chunk["error"]
            self.error = error if isinstance(error, dict) else {"message": str(error)}
            return False, None
        choices = chunk.get("choices") or []
        try:
            for choice in choices:
                if choice.get("finish_reason") == STOPPED:
                    raise ProtocolViolation("the engine was stopped before the answer ended")
                delta = choice.get("delta") or {}
                if choice.get("text") or any(delta.get(name) for name in _VISIBLE):
                    self.seen_content = True
                if choice.get("finish_reason"):
                    self.finished = True
        except (AttributeError, TypeError) as exc:
            raise ProtocolViolation("the backend sent an event that is no chunk of an answer") from exc
        usage = chunk.get("usage")
        return bool(choices) or not usage, Usage.from_openai(usage)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise ProtocolViolation("the backend sent an event that is not JSON") from exc
    if not isinstance(chunk, dict):
        raise ProtocolViolation("the backend sent an event that is not an object")
    return chunk

"""Anthropic's stream of events, followed event by event and told again as OpenAI chunks. A state machine without I/O.

Every block of bytes that comes off the socket becomes at most one `Chunk`. Events, blocks and deltas of unknown types
are passed over: Anthropic announces that it may add some.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from models.errors import ProtocolViolation
from models.types import Chunk, Json, Usage
from models.upstream.anthropic_response import finish_reason, refusal, usage
from models.upstream.sse import EventSplitter, payload

CHARS_PER_TOKEN = 4  # for a stream that is cut before its usage came


@dataclass(slots=True)
class AnthropicReader:
    """Follows one stream: makes `Chunk`s and notices content, errors and the end."""

    created_s: int
    seen_content: bool = False
    finished: bool = False  # a stop reason was seen
    done: bool = False  # message_stop was seen
    error: Json | None = None
    fault: ProtocolViolation | None = None  # to be raised once what came before it has been passed on
    _splitter: EventSplitter = field(default_factory=EventSplitter)
    _head: Json = field(default_factory=dict)
    _usage: Json = field(default_factory=dict)
    _blocks: dict[int, Json] = field(default_factory=dict)  # the open ones
    _started: int = 0
    _calls: int = 0
    _chars: int = 0

    def feed(self, block: bytes) -> Chunk | None:
        """What a block completes, None when nothing. What is no event of theirs ends the stream: it is the `fault`."""
        data: list[bytes] = []
        ending: Json | None = None
        try:
            for event in self._splitter.feed(block):
                if self.done or self.error is not None:
                    break
                if raw := payload(event):
                    told = orjson.loads(raw)
                    data += [self._chunk(choice) for choice in self._choices(told)]
                    ending = told if told["type"] == "message_delta" else ending
        except ProtocolViolation as exc:
            self.fault = exc
        except (ValueError, KeyError, TypeError, AttributeError):  # JSONDecodeError is a ValueError
            self.fault = ProtocolViolation("the backend sent an event that is none of Anthropic's")
        if not data and ending is None:
            return None
        return Chunk(b"".join(data), content=self.seen_content, usage=self._spent(ending))

    def _spent(self, ending: Json | None) -> Usage | None:
        """The figures told at the end; until then what a cut would cost: the input, told at the start, and a guess."""
        if ending is not None:
            return usage(self._usage, {**ending["delta"], "content": self._started})
        sure = usage(self._usage)
        guess = self._chars // CHARS_PER_TOKEN
        return sure and replace(sure, output_tokens=max(sure.output_tokens, guess), estimated=True)

    def _chunk(self, choice: Json) -> bytes:
        return b"data: " + orjson.dumps({**self._head, "choices": [{"index": 0, **choice}]}) + b"\n\n"

    def _choices(self, event: Json) -> Iterator[Json]:
        kind = event["type"]
        if kind == "message_start":
            message = event["message"]
            self._head = {"id": message["id"], "object": "chat.completion.chunk", "created": self.created_s}
            self._head["model"] = message["model"]
            self._note_usage(message.get("usage"))
            yield {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        elif kind == "message_delta":
            self._note_usage(event.get("usage"))
            if reason := event["delta"].get("stop_reason"):
                self.finished = True
                yield {"delta": refusal(event["delta"]), "finish_reason": finish_reason(reason)}
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            self.error = dict(event["error"])
        else:
            yield from ({"delta": delta, "finish_reason": None} for delta in self._deltas(kind, event))

    def _note_usage(self, told: Any) -> None:
        if isinstance(told, dict):
            self._usage |= {name: value for name, value in told.items() if value is not None}

    def _deltas(self, kind: str, event: Json) -> Iterator[Json]:
        if kind == "content_block_start":
            yield from self._open(event["index"], dict(event["content_block"]))
        elif kind == "content_block_delta":
            yield from self._grow(self._blocks[event["index"]], event["delta"])
        elif kind == "content_block_stop":
            yield from self._close(self._blocks.pop(event["index"]))

    def _open(self, index: int, block: Json) -> Iterator[Json]:
        self._blocks[index] = block
        self._started += 1
        if block["type"] == "tool_use":
            self.seen_content = True
            block["call"], block["written"] = self._calls, False
            self._calls += 1
            function = {"name": block["name"], "arguments": ""}
            yield _call(block, id=block["id"], type="function", function=function)
        elif block["type"] == "text":
            yield from self._visible("content", block.get("text", ""))

    def _grow(self, block: Json, delta: Json) -> Iterator[Json]:
        kind = delta["type"]
        if kind == "text_delta":
            yield from self._visible("content", delta["text"])
        elif kind == "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
            yield from self._visible("reasoning_content", delta["thinking"])
        elif kind == "signature_delta":
            block["signature"] = delta["signature"]
        elif kind == "input_json_delta" and block["type"] == "tool_use" and delta["partial_json"]:
            block["written"] = True
            self._chars += len(delta["partial_json"])
            yield _call(block, function={"arguments": delta["partial_json"]})

    def _close(self, block: Json) -> Iterator[Json]:
        if block["type"] in ("thinking", "redacted_thinking"):
            yield {"thinking_blocks": [block]}
        elif block["type"] == "tool_use" and not block["written"]:
            yield _call(block, function={"arguments": orjson.dumps(block.get("input") or {}).decode()})

    def _visible(self, name: str, text: str) -> Iterator[Json]:
        if text:
            self.seen_content = True
            self._chars += len(text)
            yield {name: text}


def _call(block: Json, **fields: Any) -> Json:
    return {"tool_calls": [{"index": block["call"], **fields}]}

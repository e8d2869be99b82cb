"""The wire formats that the scripted servers speak: OpenAI's and Anthropic's."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

from models.backend import Backend
from models.types import Capabilities, Json
from models.upstream.anthropic import AnthropicBackend
from models.upstream.openai import OpenAIBackend
from tests.contract.upstream import CACHED_TOKENS, INPUT_TOKENS, TEXT, WORDS, ScriptedServer

ARGUMENTS = '{"city":"Paris"}'


class OpenAIServer(ScriptedServer):
    path = "/v1/chat/completions"

    def backend(self, session: aiohttp.ClientSession, **facts: Any) -> Backend:
        return OpenAIBackend(
            "test/0", f"{self.url}/v1", "theirs", session, lambda: "sk-secret", Capabilities(), **facts
        )

    def whole(self) -> Json:
        message: Json = {"role": "assistant", "content": None if self.script.tool else TEXT}
        if self.script.tool:
            call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
            message["tool_calls"] = [call]
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if self.script.tool else "stop"}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}
        return body | ({"usage": self._usage()} if self.script.usage else {})

    def error(self) -> Json:
        return {"error": {"message": self.script.message, "type": "x", "param": None, "code": self.script.error_code}}

    def events(self) -> list[bytes]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        if self.script.tool:
            deltas.append(
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": ""},
                        }
                    ]
                }
            )
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS}}]})
        else:
            deltas += [{"content": word} for word in WORDS]
        events = [
            _event({**self._head(), "choices": [{"index": 0, "delta": d, "finish_reason": None}]}) for d in deltas
        ]
        end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if self.script.tool else "stop"}
        events.append(_event({**self._head(), "choices": [end]}))
        if self.script.usage:
            events.append(_event({**self._head(), "choices": [], "usage": self._usage()}))
        return [*events, b"data: [DONE]\n\n"]

    def first_word(self) -> int:
        return 1

    def error_event(self) -> bytes:
        return _event({"error": {"message": self.script.message, "code": 503}})

    def _head(self) -> Json:
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "theirs"}

    def _usage(self) -> Json:
        return {
            "prompt_tokens": INPUT_TOKENS,
            "completion_tokens": len(WORDS),
            "total_tokens": INPUT_TOKENS + len(WORDS),
            "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
        }


class AnthropicServer(ScriptedServer):
    path = "/v1/messages"

    def backend(self, session: aiohttp.ClientSession, **facts: Any) -> Backend:
        return AnthropicBackend("test/0", self.url, "theirs", session, lambda: "sk-secret", Capabilities(), **facts)

    def whole(self) -> Json:
        text = {"type": "text", "text": TEXT}
        tool = {"type": "tool_use", "id": "call_1", "name": "weather", "input": orjson.loads(ARGUMENTS)}
        return {
            "id": "msg",
            "type": "message",
            "role": "assistant",
            "model": "theirs",
            "content": [tool if self.script.tool else text],
            "stop_reason": "tool_use" if self.script.tool else "end_turn",
            "stop_sequence": None,
            "usage": {**self._input(), "output_tokens": len(WORDS)},
        }

    def error(self) -> Json:
        return {"type": "error", "error": {"type": self.script.error_code, "message": self.script.message}}

    def events(self) -> list[bytes]:
        start = {**self.whole(), "content": [], "stop_reason": None, "usage": {**self._input(), "output_tokens": 1}}
        block: Json = {"type": "text", "text": ""}
        deltas: list[Json] = [{"type": "text_delta", "text": word} for word in WORDS]
        if self.script.tool:
            block = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in (ARGUMENTS[:5], ARGUMENTS[5:])]
        stop = "tool_use" if self.script.tool else "end_turn"
        return [
            _named({"type": "message_start", "message": start}),
            _named({"type": "content_block_start", "index": 0, "content_block": block}),
            *(_named({"type": "content_block_delta", "index": 0, "delta": delta}) for delta in deltas),
            _named({"type": "content_block_stop", "index": 0}),
            _named({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": len(WORDS)}}),
            _named({"type": "message_stop"}),
        ]

    def first_word(self) -> int:
        return 2

    def error_event(self) -> bytes:
        return _named({"type": "error", "error": {"type": "overloaded_error", "message": self.script.message}})

    def _input(self) -> Json:
        return {"input_tokens": INPUT_TOKENS - CACHED_TOKENS, "cache_read_input_tokens": CACHED_TOKENS}


def _event(data: Json) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _named(data: Json) -> bytes:
    return b"event: " + str(data["type"]).encode() + b"\n" + _event(data)

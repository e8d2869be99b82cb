"""Anthropic's events, told again as OpenAI chunks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ProtocolViolation
from models.types import Chunk, Usage
from models.upstream.anthropic_stream import AnthropicReader

USAGE = {"input_tokens": 25, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 0, "output_tokens": 1}


def wire(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events)


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    return {"type": "message_start", "message": {**message, "stop_reason": None, "usage": {**USAGE, **usage}}}


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def said(index: int, *texts: str) -> list[dict[str, Any]]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": text} for text in texts))


def end(reason: str | None = "end_turn", output_tokens: int = 15, **delta: Any) -> list[dict[str, Any]]:
    ending = {"stop_reason": reason, "stop_sequence": None, **delta}
    usage = {"output_tokens": output_tokens, "output_tokens_details": {"thinking_tokens": 4}}
    return [{"type": "message_delta", "delta": ending, "usage": usage}, {"type": "message_stop"}]


def read(data: bytes, size: int | None = None) -> tuple[AnthropicReader, list[Chunk]]:
    reader = AnthropicReader(created_s=1700)
    step = size or max(1, len(data))
    chunks = [reader.feed(data[at : at + step]) for at in range(0, len(data), step)]
    return reader, [chunk for chunk in chunks if chunk is not None]


def choices(chunks: list[Chunk]) -> list[dict[str, Any]]:
    lines = b"".join(chunk.data for chunk in chunks).split(b"\n\n")
    return [orjson.loads(line.removeprefix(b"data: "))["choices"][0] for line in lines if line]


def deltas(chunks: list[Chunk]) -> list[dict[str, Any]]:
    return [choice["delta"] for choice in choices(chunks)]


TALK = wire(start(), {"type": "ping"}, *said(0, "Hel", "lo"), *end())


def test_text_arrives_whole_with_role_end_and_usage() -> None:
    reader, chunks = read(TALK)
    first = orjson.loads(chunks[0].data.split(b"\n\n")[0].removeprefix(b"data: "))
    assert first == {
        "id": "msg_1",
        "object": "chat.completion.chunk",
        "created": 1700,
        "model": "claude",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
    }
    assert choices(chunks)[1:] == [
        {"index": 0, "delta": {"content": "Hel"}, "finish_reason": None},
        {"index": 0, "delta": {"content": "lo"}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    assert chunks[-1].usage == Usage(125, cached_input_tokens=100, output_tokens=15, reasoning_tokens=4)
    assert reader.done and reader.finished and chunks[-1].content


@given(st.integers(1, len(TALK)))
def test_where_the_socket_cuts_makes_no_difference(size: int) -> None:
    _, whole = read(TALK)
    _, pieces = read(TALK, size)
    assert deltas(pieces) == deltas(whole)
    assert pieces[-1].usage == whole[-1].usage


def test_content_begins_with_the_first_visible_text() -> None:
    reader = AnthropicReader(0)
    opened = reader.feed(wire(start(), *said(0)))
    assert opened is not None and not opened.content
    spoken = reader.feed(wire(*said(1, "x")))
    assert spoken is not None and spoken.content


def test_thinking_is_reasoning_and_keeps_its_signature() -> None:
    thought = block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "H"},
        {"type": "thinking_delta", "thinking": "m"},
        {"type": "signature_delta", "signature": "sig"},
    )
    hidden = block(1, {"type": "redacted_thinking", "data": "x"})
    _, chunks = read(wire(start(), *thought, *hidden, *said(2, "Yes"), *end()))
    assert deltas(chunks)[1:-1] == [
        {"reasoning_content": "H"},
        {"reasoning_content": "m"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm", "signature": "sig"}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]},
        {"content": "Yes"},
    ]


def test_tool_calls_count_from_zero_and_always_have_arguments() -> None:
    oslo = block(
        1,
        {"type": "tool_use", "id": "a", "name": "weather", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city":'},
        {"type": "input_json_delta", "partial_json": '"Oslo"}'},
    )
    now = block(2, {"type": "tool_use", "id": "b", "name": "now", "input": {}})
    _, chunks = read(wire(start(), *said(0, "Let me look."), *oslo, *now, *end("tool_use")))
    calls = [delta["tool_calls"][0] for delta in deltas(chunks) if "tool_calls" in delta]
    assert calls == [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Oslo"}'}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "now", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert choices(chunks)[-1]["finish_reason"] == "tool_calls"


def test_what_is_not_known_is_passed_over() -> None:
    searched = block(
        0, {"type": "server_tool_use", "id": "s", "name": "x"}, {"type": "input_json_delta", "partial_json": "{}"}
    )
    cited = block(1, {"type": "text", "text": ""}, {"type": "citations_delta", "citation": {}})
    _, chunks = read(wire(start(), *searched, *cited, {"type": "made_up_tomorrow"}, *end()))
    assert deltas(chunks) == [{"role": "assistant", "content": ""}, {}]


def test_a_refusal_without_output_is_free_and_explains_itself() -> None:
    _, chunks = read(wire(start(), *end("refusal", stop_details={"type": "refusal", "explanation": "Not that."})))
    assert choices(chunks)[-1] == {"index": 0, "delta": {"refusal": "Not that."}, "finish_reason": "content_filter"}
    assert chunks[-1].usage == Usage()


def test_a_refusal_after_output_is_billed() -> None:
    _, chunks = read(wire(start(), *said(0, "Well"), *end("refusal")))
    assert chunks[-1].usage is not None and chunks[-1].usage.output_tokens == 15


def test_usage_told_after_the_end_counts() -> None:
    _, chunks = read(wire(start(), *said(0, "Hi"), *end()[:1], *end(None, output_tokens=99)), size=None)
    assert chunks[-1].usage is not None and chunks[-1].usage.output_tokens == 99
    reader = AnthropicReader(0)
    reader.feed(wire(start(), *said(0, "Hi"), *end()[:1]))
    late = reader.feed(wire(*end(None, output_tokens=99)))
    assert late is not None and late.data == b"" and late.usage is not None and late.usage.output_tokens == 99


def test_until_the_end_usage_is_an_estimate_over_the_true_input() -> None:
    _, chunks = read(wire(start(), *said(0, "x" * 400)))
    assert chunks[-1].usage == Usage(125, cached_input_tokens=100, output_tokens=100, estimated=True)


def test_an_error_event_is_kept_and_ends_the_reading() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reader, chunks = read(wire(start(), error, *said(0, "x")))
    assert reader.error == {"type": "overloaded_error", "message": "Overloaded"}
    assert not reader.seen_content and len(deltas(chunks)) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"data: {not json\n\n",
        b"data: []\n\n",
        b'data: {"id": "chatcmpl-1", "choices": []}\n\n',
        wire({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}),
    ],
)
def test_what_is_none_of_anthropics_is_a_violation(data: bytes) -> None:
    reader = AnthropicReader(0)
    assert reader.feed(data) is None
    assert isinstance(reader.fault, ProtocolViolation)

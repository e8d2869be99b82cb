"""Server-sent events: the same events wherever the blocks are cut, and what a stream of chunks tells."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ProtocolViolation
from models.types import Usage
from models.upstream.sse import MAX_EVENT_BYTES, ChunkReader, EventSplitter, payload, without_running_usage

CONTENT = {"choices": [{"index": 0, "delta": {"content": "é \n\n data: [DONE] 🙂"}, "finish_reason": None}]}
STREAM: list[dict[str, Any] | str] = [
    {"choices": [], "prompt_filter_results": []},
    {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
    ": a comment",
    CONTENT,
    CONTENT,
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
    "data: [DONE]",
    CONTENT,
]


def wire(ending: str) -> bytes:
    lines = [e if isinstance(e, str) else f"event: x{ending}data: {json.dumps(e, ensure_ascii=False)}" for e in STREAM]
    return "".join(line + ending * 2 for line in lines).encode()


def read(blocks: list[bytes]) -> tuple[bytes, Usage | None, ChunkReader]:
    reader, data, usage = ChunkReader(), b"", None
    for block in blocks:
        chunk = reader.feed(block)
        if chunk is not None:
            data += chunk.data
            usage = chunk.used() or usage
    return data, usage, reader


@given(st.data(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_wherever_the_bytes_are_cut_the_events_are_the_same(data: st.DataObject, ending: str) -> None:
    stream = wire(ending)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=40)))
    blocks = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    told, usage, reader = read(blocks)
    assert told == read([wire("\n")])[0]
    assert usage == Usage(7, output_tokens=2)
    assert (reader.seen_content, reader.finished, reader.done, reader.fault) == (True, True, True, None)


def test_one_byte_at_a_time_is_the_same_too() -> None:
    for ending in ("\n", "\r\n", "\r"):
        stream = wire(ending)
        assert read([stream[i : i + 1] for i in range(len(stream))])[0] == read([wire("\n")])[0]


def test_what_is_passed_on_holds_no_done_no_usage_of_its_own_and_nothing_after_done() -> None:
    data, _, _ = read([wire("\n")])
    assert data.count(b"data:") == 2 + 2 + 1 + 2  # two texts hold the word
    assert not data.endswith(b"[DONE]\n\n") and b'"usage"' not in data


def test_content_begins_with_the_first_thing_a_reader_sees() -> None:
    reader = ChunkReader()
    for event in STREAM[:2]:
        chunk = reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
        assert chunk is not None and not chunk.content
    for name in ("content", "reasoning_content", "refusal", "tool_calls"):
        fresh = ChunkReader()
        delta = {"choices": [{"index": 0, "delta": {name: "x"}}]}
        chunk = fresh.feed(b"data: " + json.dumps(delta).encode() + b"\n\n")
        assert chunk is not None and chunk.content


def test_usage_beside_choices_is_read_and_the_event_is_kept() -> None:
    event = {**CONTENT, "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    data, usage, _ = read([b"data: " + json.dumps(event).encode() + b"\n\n"])
    assert usage == Usage(3, output_tokens=1) and data


@given(st.text(), st.one_of(st.none(), st.just({"cached_tokens": 2})), st.booleans())
def test_running_usage_is_read_and_can_be_taken_off_whatever_the_text_says(
    said: str, details: dict[str, int] | None, more: bool
) -> None:
    text = f'{said},"usage":{{"prompt_tokens":9}}}}'
    bare: dict[str, Any] = {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": details}
    event = {**bare, "usage": usage, **({"after": 1} if more else {})}
    wanted = b"data: " + orjson.dumps(bare | ({"after": 1} if more else {})) + b"\n\n"
    data, told, _ = read([b"data: " + orjson.dumps(e) + b"\n\n" for e in (event, event)])
    assert told == Usage(3, cached_input_tokens=2 if details else 0, output_tokens=1)
    assert without_running_usage(data) == 2 * wanted
    assert without_running_usage(2 * wanted) == 2 * wanted


def test_what_came_before_a_broken_event_is_not_lost() -> None:
    good = b"data: " + json.dumps(CONTENT).encode() + b"\n\n"
    reader = ChunkReader()
    chunk = reader.feed(good + b"data: {bad\n\n" + good)
    assert chunk is not None and chunk.data == good
    assert isinstance(reader.fault, ProtocolViolation)


def test_an_event_of_several_data_lines_is_one() -> None:
    assert payload(b"event: x\ndata: {\ndata: }\n\n") == b"{\n}"
    assert payload(b"data:[DONE]\n\n") == b"[DONE]"


def test_an_event_without_an_end_is_a_violation_and_not_a_growing_buffer() -> None:
    splitter = EventSplitter()
    with pytest.raises(ProtocolViolation):
        for _ in range(MAX_EVENT_BYTES // 2**20 + 2):
            splitter.feed(b"x" * 2**20)

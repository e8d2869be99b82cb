"""Properties over arbitrary JSON where a provider's chunk or answer should be: nothing of ours raises."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ProtocolViolation
from models.types import Usage
from models.upstream.anthropic_stream import AnthropicReader
from models.upstream.openai import _has_choices
from models.upstream.sse import ChunkReader
from serving.cache.key import storable
from serving.wire.assemble import assemble, first_chunk, replay, usage_event, with_cost

NAMES = [
    "choices",
    "delta",
    "message",
    "index",
    "finish_reason",
    "content",
    "tool_calls",
    "function",
    "arguments",
    "text",
]
NAMES += [
    "usage",
    "error",
    "logprobs",
    "object",
    "refusal",
    "name",
    "id",
    "type",
    "content_block",
    "stop_reason",
    "role",
]
scalars = (
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.sampled_from(["", "x", "stop"])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=15,
)
choices = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "index": scalars | json_values,
            "delta": json_values,
            "message": json_values,
            "text": json_values,
            "finish_reason": json_values,
            "logprobs": json_values,
        },
    ),
    max_size=4,
)
chunks = json_values | st.fixed_dictionaries(
    {"choices": choices}, optional={"usage": json_values, "object": json_values}
)
KINDS = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
anthropics = json_values | st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional=dict.fromkeys(("message", "index", "content_block", "delta", "usage", "error"), json_values),
)


def sse(events: list[Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


@given(st.lists(chunks, max_size=5))
def test_a_stream_of_anything_is_read_and_put_together_or_not_but_never_raises(events: list[Any]) -> None:
    reader = ChunkReader()
    chunk = reader.feed(sse(events))
    assert reader.fault is None or type(reader.fault) is ProtocolViolation
    passed_on = b"" if chunk is None else chunk.data
    usage_event(first_chunk(passed_on), Usage(), 0.0)
    for stream in (passed_on, sse(events)):
        whole = assemble(stream)
        if whole is not None and storable(whole):
            assert replay(with_cost(whole, 0.0, Usage()), True, None)[-1] == b"data: [DONE]\n\n"


@given(
    json_values | st.fixed_dictionaries({"choices": choices}, optional={"usage": json_values, "object": json_values})
)
def test_an_answer_that_is_accepted_can_be_stored_priced_and_replayed(body: Any) -> None:
    for endpoint, kind in (("chat/completions", "chat.completion"), ("completions", "text_completion")):
        if isinstance(body, dict) and _has_choices(body, endpoint):  # type: ignore[arg-type]
            usage = Usage.from_openai(body.get("usage"))
            told = {k: v for k, v in body.items() if k != "usage" or usage is not None} | {"object": kind}
            storable(told)
            assert replay(with_cost(told, 0.0, usage), True, None)[-1] == b"data: [DONE]\n\n"


@given(st.lists(anthropics, max_size=5))
def test_a_stream_of_anthropics_with_anything_in_it_never_raises(events: list[Any]) -> None:
    reader = AnthropicReader(0)
    chunk = reader.feed(sse(events))
    assert reader.fault is None or type(reader.fault) is ProtocolViolation
    assert reader.error is None or isinstance(reader.error, dict)
    if chunk is not None:
        assemble(chunk.data)

"""Streams made whole and whole answers replayed: each is the other's inverse."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.types import Usage
from serving.wire.assemble import DONE, assemble, event, first_chunk, replay, usage_event, with_cost

HEAD = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m", "system_fingerprint": "fp"}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish, **fields}
    return event(HEAD | {"choices": [choice]})


def only(completion: dict[str, Any] | None) -> dict[str, Any]:
    assert completion is not None
    (choice,) = completion["choices"]
    assert isinstance(choice, dict)
    return choice


def test_text_reasoning_and_names_are_put_together() -> None:
    events = [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"reasoning_content": "hm"}),
        chunk({"reasoning_content": "m"}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo", "annotations": [{"a": 1}]}),
        chunk({}, "stop", stop_reason=None),
        event(HEAD | {"choices": [], "usage": {"prompt_tokens": 3}}),
        DONE,
    ]
    assert (
        assemble(events)
        == assemble(b"".join(events))
        == {
            **HEAD,
            "object": "chat.completion",
            "usage": {"prompt_tokens": 3},
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "stop_reason": None,
                    "message": {
                        "role": "assistant",
                        "content": "Hello",
                        "refusal": None,
                        "reasoning_content": "hmm",
                        "annotations": [{"a": 1}],
                    },
                }
            ],
        }
    )


def test_tool_calls_are_put_together_by_index_and_a_repeated_name_counts_once() -> None:
    def part(index: int, arguments: str, **more: Any) -> dict[str, Any]:
        function = {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}
        return {"index": index, "function": function, **more}

    completion = assemble(
        [
            chunk({"role": "assistant", "content": None}),
            chunk({"tool_calls": [part(1, "", id="b", type="function", name="beta")]}),
            chunk({"tool_calls": [part(0, '{"x"', id="a", type="function", name="alpha"), part(0, ":1")]}),
            chunk({"tool_calls": [part(1, "{}", id="b", type="function", name="beta"), part(0, "}")]}),
            chunk({}, "tool_calls"),
        ]
    )
    assert only(completion)["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "alpha", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "beta", "arguments": "{}"}},
        ],
    }


def test_logprobs_and_token_ids_grow() -> None:
    one, two = {"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -0.2}
    completion = assemble(
        [
            chunk({"content": "a"}, logprobs={"content": [one], "refusal": None}, token_ids=[1]),
            chunk({"content": "b"}, logprobs={"content": [two], "refusal": None}, token_ids=[2]),
            chunk({}, "length", logprobs=None),
        ]
    )
    assert only(completion)["logprobs"] == {"content": [one, two], "refusal": None}
    assert only(completion)["token_ids"] == [1, 2]


@pytest.mark.parametrize(
    "events",
    [
        b"",
        DONE,
        chunk({"content": "half"}),
        chunk({"content": "one"}, "stop") + chunk({"content": "two"}, index=1),
        chunk({"content": "x"}, "stop") + event({"error": {"message": "broke"}}),
        chunk({"content": "x"}, "stop") + b'data: {"choices": [\n\n',
        chunk({"content": "x"}, "stop") + b"data: [1, 2]\n\n",
        b'data: {"choices": [3]}\n\n',
        b'data: {"choices": 3}\n\n',
        event(HEAD | {"choices": []}),
    ],
)
def test_what_is_not_whole_is_nothing(events: bytes) -> None:
    assert assemble(events) is None


def test_other_line_ends_and_comments_are_read() -> None:
    events = b": ping\r\n\r\n" + chunk({"content": "x"}, "stop").replace(b"\n", b"\r\n")
    assert only(assemble(events))["message"]["content"] == "x"


def test_a_replay_starts_with_the_role_and_ends_with_usage_and_done() -> None:
    completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 1}}
    completion["choices"] = [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]
    first, *_, finish, used, done = replay(completion, True, {"prompt_tokens": 1, "cost": 0.0})
    assert json.loads(first[6:])["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert json.loads(finish[6:])["choices"][0]["finish_reason"] == "stop"
    last = json.loads(used[6:])
    assert (last["choices"], last["usage"], last["object"]) == (
        [],
        {"prompt_tokens": 1, "cost": 0.0},
        "chat.completion.chunk",
    )
    assert done == DONE
    assert not any(b'"usage"' in part for part in replay(completion, False, None))


def pieces_of(text: str) -> list[str]:
    message = {"role": "assistant", "content": text}
    completion = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    deltas = [json.loads(part[6:])["choices"][0]["delta"] for part in replay(completion, False, None)[:-1]]
    return [delta["content"] for delta in deltas if delta.get("content")]


@pytest.mark.parametrize("one", ["👩\u200d💻", "👍🏽", "e\u0301", "❤\ufe0f", "👩\u200d👩\u200d👧\u200d👦", "日"])
def test_pieces_never_cut_a_joined_character(one: str) -> None:
    pieces = pieces_of("a" + one * 100)
    assert "".join(pieces) == "a" + one * 100
    assert len(pieces) > 1
    assert not any(piece.removeprefix("a").replace(one, "") for piece in pieces)


@given(st.text() | st.text(alphabet="a \n\u200d\u0301", min_size=50, max_size=300))
def test_pieces_are_short_and_lose_nothing(text: str) -> None:
    pieces = pieces_of(text)
    assert "".join(pieces) == text
    assert max(map(len, pieces), default=0) <= 64


words = st.text(max_size=200)
extras = st.dictionaries(
    st.sampled_from(["zeta", "eta", "theta"]),
    st.none()
    | st.booleans()
    | st.integers(0, 9)
    | words
    | st.lists(st.integers(0, 9))
    | st.fixed_dictionaries({"k": words}),
)
calls = st.lists(
    st.fixed_dictionaries(
        {"id": st.text(min_size=1), "type": st.just("function")}
        | {"function": st.fixed_dictionaries({"name": st.text(min_size=1), "arguments": words})}
    ),
    min_size=1,
    max_size=3,
)
logprobs = st.none() | st.fixed_dictionaries(
    {"content": st.lists(st.fixed_dictionaries({"token": words, "logprob": st.floats(-9, 0)})), "refusal": st.none()}
)


@st.composite
def completions(draw: st.DrawFn) -> dict[str, Any]:
    chat = draw(st.booleans())
    choices = []
    for index in range(draw(st.integers(1, 3))):
        choice: dict[str, Any] = {
            "index": index,
            "finish_reason": draw(st.sampled_from(["stop", "length", "tool_calls"])),
        }
        choice |= draw(st.fixed_dictionaries({}, optional={"stop_reason": st.none() | words, "logprobs": logprobs}))
        if chat:
            message = {"role": "assistant", "content": draw(st.none() | words)} | draw(extras)
            optional = {"refusal": st.none() | words, "reasoning_content": words, "tool_calls": calls}
            choice["message"] = message | draw(st.fixed_dictionaries({}, optional=optional))
        else:
            choice["text"] = draw(words)
        choices.append(choice)
    kind = "chat.completion" if chat else "text_completion"
    return {"id": draw(words), "object": kind, "created": 1, "model": "m", **draw(extras), "choices": choices}


@given(completions(), st.booleans())
def test_a_replay_assembles_to_what_was_replayed(completion: dict[str, Any], include_usage: bool) -> None:
    before = copy.deepcopy(completion)
    again = assemble(replay(completion, include_usage, {"prompt_tokens": 1}))
    assert again is not None
    assert again.pop("usage", None) == ({"prompt_tokens": 1} if include_usage else None)
    assert again == completion == before


@given(completions(), st.data())
def test_a_cut_stream_is_never_an_answer(completion: dict[str, Any], data: st.DataObject) -> None:
    *events, _ = replay(completion, False, None)
    if len(completion["choices"]) == 1:
        assert assemble(events[: data.draw(st.integers(0, len(events) - 1))]) is None


def test_cost_goes_beside_the_backends_own_usage() -> None:
    told = {"usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}, "id": "x"}
    assert with_cost(told, 0.5, Usage(input_tokens=9)) == {
        "id": "x",
        "usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}, "cost": 0.5},
    }
    assert told["usage"] == {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    untold = with_cost({"id": "x"}, 0.0, Usage(input_tokens=1, output_tokens=2))
    assert untold["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.0}


def test_the_usage_event_is_written_like_the_stream_it_ends() -> None:
    stream = chunk({"role": "assistant"}) + chunk({"content": "x"})
    last = json.loads(usage_event(first_chunk(stream), Usage(input_tokens=1, output_tokens=2), 0.001)[6:])
    assert last == {
        **HEAD,
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.001},
    }
    assert first_chunk(b"data: {oops\n\n") == first_chunk(b"data: []\n\n") == first_chunk(b"") == {}


def test_a_stream_of_texts_is_a_text_completion_even_if_it_does_not_say_so() -> None:
    chunks = [
        {"choices": [{"index": 0, "text": text, "finish_reason": end}]} for text, end in (("a", None), ("b", "stop"))
    ]
    whole = assemble(b"".join(event(chunk) for chunk in chunks))
    assert whole is not None
    assert (whole["object"], whole["choices"][0]["text"]) == ("text_completion", "ab")
    assert assemble(replay(whole, False, None)) == whole

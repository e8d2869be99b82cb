"""Parsing: what is refused and how it is told, what passes untouched, what is measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadRequest, ContextExceeded, FarthingError, RequestError, TooLarge
from serving.wire.request import Asked, Limits, Options, cache_control, facts, parse

USER = {"role": "user", "content": "hello there"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def chat(limits: Limits | None = None, **fields: Any) -> Asked:
    body = {"model": "auto", "messages": [USER], **fields}
    return parse("chat/completions", json.dumps(body).encode(), limits or Limits())


def text(**fields: Any) -> Asked:
    return parse("completions", json.dumps({"model": "small", "prompt": "once", **fields}).encode(), Limits())


def test_a_plain_request_passes_untouched_with_fields_nobody_here_knows() -> None:
    asked = chat(guided_regex="[a-z]+", temperature=None, metadata={"a": "b"}, seed=7)
    assert asked.body == {
        "model": "auto",
        "messages": [USER],
        "guided_regex": "[a-z]+",
        "temperature": None,
        "metadata": {"a": "b"},
        "seed": 7,
    }
    assert (asked.stream, asked.include_usage, asked.images, asked.tools) == (False, False, 0, False)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not valid JSON"),
        (b'{"model": "auto", "messages": [', "not valid JSON"),
        (b'{"model": "auto", "temperature": NaN}', "not valid JSON"),
        (b'{"model": "auto", "temperature": Infinity}', "not valid JSON"),
        (b'{"model": "auto", "temperature": 1e999}', "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[" * 500 + b"]" * 500, "object"),
        (b'{"model":"m","x":' + b"[" * 200 + b"]" * 200 + b"}", "nests deeper than 100"),
        (b'{"model":"m","x":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "nests deeper than 100"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b'"text"', "JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        parse("chat/completions", raw, Limits())


def test_of_a_repeated_key_the_last_counts_everywhere() -> None:
    raw = b'{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}'
    asked = parse("chat/completions", raw, Limits())
    assert asked.model == asked.body["model"] == "b"


def test_many_brackets_that_do_not_nest_are_no_bomb() -> None:
    assert chat(messages=[USER] * 300).turns == 300


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"model": "m" * 300}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [USER, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 4}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
        ({"messages": [USER, USER, {"role": "user", "content": [{"type": 3}]}]}, "messages[2].content[0].type"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": 3}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": ["x"]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]}, "messages[0].tool_calls[0].id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": "{}"}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "content": "4"}]}, "messages[0].name"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"tools": {}}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tools": [TOOL, {"function": {}}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"functions": [{}]}, "functions[0].name"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "look"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {}}, "tool_choice"),
        ({"farthing": []}, "farthing"),
        ({"farthing": {"localonly": True}}, "farthing.localonly"),
        ({"farthing": {"cache": "never"}}, "farthing.cache"),
        ({"farthing": {"cache": []}}, "farthing.cache"),
        ({"farthing": {"tags": "a"}}, "farthing.tags"),
        ({"farthing": {"tags": ["a\n"]}}, "farthing.tags"),
        ({"farthing": {"tags": [""]}}, "farthing.tags"),
        ({"farthing": {"tags": ["a"] * 17}}, "farthing.tags"),
        ({"farthing": {"local_only": 1}}, "farthing.local_only"),
        ({"farthing": {"deadline_ms": 0}}, "farthing.deadline_ms"),
        ({"farthing": {"deadline_ms": "5"}}, "farthing.deadline_ms"),
        ({"farthing": {"conversation": "x" * 129}}, "farthing.conversation"),
        ({"farthing": {"prompt": "a\x00b"}}, "farthing.prompt"),
    ],
)
def test_a_wrong_field_is_refused_by_its_path(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert param in caught.value.message or param.split(".")[0] in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]}]},
        {"messages": [USER, {"role": "assistant", "refusal": "no"}]},
        {"messages": [{"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "4"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]},
        {"messages": [{"role": "developer", "content": "be brief"}, USER]},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"tools": [{"type": "web_search"}], "tool_choice": "required"},
        {"tools": None, "tool_choice": None, "stop": None, "n": None},
        {"tool_choice": "none"},
        {"stop": ["a", "b"], "temperature": 0, "top_p": 1, "n": 128, "max_tokens": 1},
        {"response_format": {"type": "structural_tag", "structures": []}},
        {"stream": False, "stream_options": None},
        {"farthing": None},
        {"farthing": {}},
    ],
)
def test_what_providers_take_is_taken(fields: dict[str, Any]) -> None:
    assert chat(**fields).model == "auto"


@pytest.mark.parametrize("prompt", ["once", ["once", "twice"], [1, 2, 3], [[1, 2], [3]]])
def test_a_text_prompt_comes_in_four_shapes(prompt: Any) -> None:
    asked = text(prompt=prompt, max_tokens=0, logprobs=5, echo=True)
    assert asked.prompt_tokens >= 1
    assert asked.max_output_tokens == 0


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], [1, "a"], ["a", 1], [-1], [True], {"a": 1}, [{}]])
def test_a_prompt_that_is_none_of_them_is_refused(prompt: Any) -> None:
    with pytest.raises(BadRequest, match="prompt"):
        text(prompt=prompt)


def test_limits_are_told_apart_by_their_errors() -> None:
    with pytest.raises(TooLarge, match="bytes"):
        chat(Limits(max_body_bytes=20))
    with pytest.raises(TooLarge) as many:
        chat(Limits(max_messages=2), messages=[USER] * 3)
    assert many.value.param == "messages"
    with pytest.raises(ContextExceeded) as long:
        chat(Limits(max_prompt_tokens=100), messages=[{"role": "user", "content": "x" * 1000}])
    assert long.value.param == "messages"
    assert "254" in long.value.message  # 1000 / 4 and 4 for the message


def test_the_shape_is_measured() -> None:
    asked = chat(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "and kind"}]},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE, {"type": "text", "text": "this"}]},
        ],
        tools=[TOOL],
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        max_tokens=10,
        max_completion_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
        farthing={
            "local_only": True,
            "tags": ["b", "a", "b"],
            "conversation": "c9",
            "deadline_ms": 500,
            "prompt": "p/2",
        },
    )
    assert (asked.system_text, asked.text) == ("be brief\n\nand kind", "see\nthis")
    assert (asked.turns, asked.images, asked.tools, asked.tool_results, asked.json_schema) == (2, 1, True, True, True)
    assert (asked.stream, asked.include_usage, asked.max_output_tokens) == (True, True, 20)
    assert asked.prompt_tokens > 765
    assert "farthing" not in asked.body
    assert asked.options == Options(None, ("b", "a"), True, 500, "c9", "p/2")

    known = facts(asked, "r1", "acme")
    assert (known.request_id, known.tenant, known.text) == ("r1", "acme", "see\nthis")
    assert (known.images, known.tools, known.tool_results, known.json_schema, known.local_only) == (True,) * 5
    assert (known.turns, known.tags, known.conversation, known.max_output_tokens) == (2, ("b", "a"), "c9", 20)


def test_facts_are_small_however_long_the_text() -> None:
    known = facts(chat(messages=[{"role": "user", "content": "x" * 100_000}]), "r", "t")
    assert (len(known.text), known.prompt_chars, known.prompt_tokens) == (32_000, 100_000, 25_004)


def test_scripts_of_long_encodings_are_estimated_as_more_tokens_a_character() -> None:
    assert chat(messages=[{"role": "user", "content": "日本語" * 100}]).prompt_tokens == 4 + 225
    assert chat(messages=[{"role": "user", "content": "abc" * 100}]).prompt_tokens == 4 + 75


def test_a_request_speaks_over_its_keys_defaults_but_cannot_lift_local_only() -> None:
    defaults = Options(cache="off", tags=("team",), local_only=True, deadline_ms=1000, conversation="d")
    assert Options().merged(defaults) == defaults
    said = Options(cache="exact", tags=("x", "team"), deadline_ms=50, prompt="p")
    assert said.merged(defaults) == Options("exact", ("team", "x"), True, 50, "d", "p")


@pytest.mark.parametrize(
    ("header", "mode"),
    [
        (None, None),
        ("", None),
        ("max-age=600", None),
        ("only-if-cached", "only"),
        ("no-cache", "bypass"),
        ("max-age=0", "bypass"),
        ("No-Cache, must-revalidate", "bypass"),
        ("no-cache,NO-STORE", "off"),
    ],
)
def test_cache_control_forbids_and_never_opts_in(header: str | None, mode: str | None) -> None:
    assert cache_control(header) == mode
    assert Options().limited(cache_control(header)).cache == mode
    assert Options(cache="exact").limited(cache_control(header)).cache == (mode or "exact")
    if mode != "only":
        assert Options(cache="off").limited(cache_control(header)).cache == "off"


@pytest.mark.parametrize(("header", "mode"), [("no-store", "only"), ("no-cache", "only"), ("only-if-cached", "off")])
def test_the_cache_alone_and_no_cache_exclude_each_other(header: str, mode: str) -> None:
    with pytest.raises(BadRequest, match="exclude each other"):
        Options.parse({"cache": mode}).limited(cache_control(header))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KNOWN = ["model", "messages", "prompt", "temperature", "n", "stop", "tools", "tool_choice", "response_format", "stream"]
KNOWN += ["stream_options", "logprobs", "top_logprobs", "logit_bias", "functions", "farthing", "max_tokens", "seed"]
messages = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "tool_calls", "name"), json_values))
    | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool"]), "content": json_values}),
    max_size=3,
)


@given(
    st.dictionaries(st.sampled_from(KNOWN), json_values, max_size=6),
    messages | json_values,
    st.sampled_from(["chat/completions", "completions"]),
)
def test_whatever_is_sent_is_parsed_or_refused_never_a_fault(body: dict[str, Any], said: Any, endpoint: Any) -> None:
    raw = json.dumps({"model": "m", "messages": said, **body}).encode("utf-8", "surrogatepass")
    try:
        asked = parse(endpoint, raw, Limits())
    except FarthingError as error:
        assert isinstance(error, RequestError)
        assert error.message
    else:
        assert asked.prompt_tokens >= 0

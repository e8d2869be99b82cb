"""OpenAI chat bodies as they go over Anthropic's wire."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from models.errors import BadRequest, Unsupported
from models.upstream.anthropic_request import to_messages

HI = [{"role": "user", "content": "Hi"}]
HI_TURN = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}}}}}
PNG = base64.b64encode(b"png").decode()


def translated(messages: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    return to_messages({"model": "auto", "messages": messages or HI, **fields}, "claude", False, 1000)


def test_a_plain_question_gets_the_default_bound() -> None:
    assert translated() == {"model": "claude", "max_tokens": 1000, "messages": HI_TURN}


def test_a_stream_is_asked_for_as_a_stream() -> None:
    assert to_messages({"messages": HI, "stream": True, "stream_options": {}}, "claude", True, 9)["stream"] is True


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 8}, {"max_tokens": 8}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"temperature": 1, "top_p": 1.0}, {}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}),
        ({"user": "u1", "safety_identifier": "s1"}, {"metadata": {"user_id": "s1"}}),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        ({"reasoning_effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        ),
        (
            {"reasoning_effort": "high", "output_config": {"format": {"type": "json_schema", "schema": {}}}},
            {"output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {}}}},
        ),
        ({"thinking": {"type": "adaptive"}, "top_k": 5}, {"thinking": {"type": "adaptive"}, "top_k": 5}),
        ({"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral"}}),
        (
            {"n": 1, "logprobs": False, "logit_bias": {}, "presence_penalty": 0, "modalities": ["text"], "seed": 4}
            | {"store": True, "metadata": {"a": "b"}, "frequency_penalty": None, "audio": None},
            {},
        ),
    ],
)
def test_a_field_becomes(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    assert translated(**asked) == {"model": "claude", "max_tokens": 1000, "messages": HI_TURN, **expected}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"verbosity": "low"}, "verbosity"),
        ({"temperature": 1.2}, "temperature"),
        ({"stop": "\n"}, "stop"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages"),
        ({"messages": [{"role": "function", "name": "f", "content": "1"}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_anthropic_lacks_is_left_to_another_model(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        to_messages({"messages": HI, **asked}, "claude", False, 1000)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"output_config": {"effort": "low"}, "reasoning_effort": "high"}, "output_config"),
        ({"system": "x", "messages": [{"role": "system", "content": "y"}, *HI]}, "system"),
        ({"thinking": {"type": "adaptive"}, "reasoning_effort": "none"}, "thinking"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.function.name"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        to_messages({"messages": HI, **asked}, "claude", False, 1000)
    assert caught.value.param == param


def test_system_messages_gather_in_order_and_keep_their_cache_marks() -> None:
    marked = {"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}
    request = translated(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [marked]},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "system", "content": "Now in French."},
            {"role": "user", "content": "Again"},
        ]
    )
    assert request["system"] == [
        {"type": "text", "text": "Be brief."},
        marked,
        {"type": "text", "text": "Now in French."},
    ]
    assert [turn["role"] for turn in request["messages"]] == ["user", "assistant", "user"]


def test_neighbours_of_one_role_are_one_turn_and_empty_text_is_none() -> None:
    request = translated(
        [
            {"role": "user", "content": "One"},
            {"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "Two"}]},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "Three"},
        ]
    )
    texts = [{"type": "text", "text": text} for text in ("One", "Two", "Three")]
    assert request["messages"] == [{"role": "user", "content": texts}]


def test_a_tool_round_trip() -> None:
    call = {"id": "functions.weather:0", "type": "function"}
    request = translated(
        [
            {"role": "user", "content": "Weather in Oslo and Rome?"},
            {
                "role": "assistant",
                "content": None,
                "thinking_blocks": [{"type": "thinking", "thinking": "Two calls.", "signature": "sig"}],
                "tool_calls": [
                    {**call, "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
                    {"id": "b", "type": "function", "function": {"name": "weather", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "functions.weather:0", "content": "-3"},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "15"}]},
            {"role": "user", "content": "And?"},
        ]
    )
    assert request["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Two calls.", "signature": "sig"},
                {"type": "tool_use", "id": "functions_weather_0", "name": "weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "functions_weather_0", "content": "-3"},
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "15"}]},
                {"type": "text", "text": "And?"},
            ],
        },
    ]


@pytest.mark.parametrize("arguments", ['{"city":', "[1]", "Oslo"])
def test_malformed_arguments_name_their_place(arguments: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    with pytest.raises(BadRequest) as caught:
        translated([*HI, {"role": "assistant", "tool_calls": [call]}])
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_tool_choices(asked: dict[str, Any], expected: dict[str, Any] | None) -> None:
    assert translated(tools=[WEATHER], **asked).get("tool_choice") == expected


def test_a_function_becomes_a_tool() -> None:
    function = {"name": "weather", "description": "Now.", "parameters": {"type": "object"}, "strict": True}
    tool = {"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}
    bare = {"type": "function", "function": {"name": "now"}}
    assert translated(tools=[tool, bare])["tools"] == [
        {
            "name": "weather",
            "description": "Now.",
            "input_schema": {"type": "object"},
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            {"type": "image_url", "image_url": {"url": "https://a.example/b.jpg"}, "cache_control": {}},
            {"type": "image", "source": {"type": "url", "url": "https://a.example/b.jpg"}, "cache_control": {}},
        ),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PNG}"}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
                "title": "a.pdf",
            },
        ),
        (
            {"type": "file", "file": {"file_data": f"data:text/plain;base64,{PNG}"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "png"}},
        ),
        ({"type": "search_result", "title": "t"}, {"type": "search_result", "title": "t"}),
    ],
)
def test_parts(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert translated([{"role": "user", "content": [part]}])["messages"] == [{"role": "user", "content": [block]}]


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/tiff;base64,{PNG}"}}, Unsupported),
        ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, BadRequest),
        ({"type": "file", "file": {"file_id": "file-1"}}, Unsupported),
        ({"type": "file", "file": {"file_data": "data:application/zip;base64,AA=="}}, Unsupported),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, BadRequest),
    ],
)
def test_parts_that_cannot_go(part: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        translated([{"role": "user", "content": [part]}])
    assert str(caught.value.param).startswith("messages[0].content[0]")  # type: ignore[attr-defined]


def test_thinking_blocks_of_another_make_are_refused() -> None:
    with pytest.raises(BadRequest, match="as they came"):
        translated([*HI, {"role": "assistant", "content": "x", "thinking_blocks": [{"type": "text"}]}])

"""Anthropic's messages and refusals, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import (
    BadRequest,
    ContextExceeded,
    CreditExhausted,
    FarthingError,
    KeyRejected,
    Overloaded,
    TooLarge,
    Unavailable,
    Unsupported,
    UpstreamTimeout,
)
from models.types import Usage
from models.upstream.anthropic_response import refined, to_completion, usage, with_status
from models.upstream.errors import translate_event

TOLD = {
    "input_tokens": 10,
    "cache_read_input_tokens": 200,
    "cache_creation_input_tokens": 30,
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 20},
}


def message(*content: dict[str, Any], stop: str = "end_turn", **fields: Any) -> dict[str, Any]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_sequence": None}
    return {**head, "content": list(content), "stop_reason": stop, "usage": TOLD, **fields}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_a_whole_answer() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    assert to_completion(message(thinking, text("Let me "), text("look."), use, stop="tool_use"), 1700) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 1700,
        "model": "claude",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me look.",
                    "reasoning_content": "Hm.",
                    "thinking_blocks": [thinking],
                    "tool_calls": [
                        {
                            "id": "toolu_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 240,
            "completion_tokens": 50,
            "total_tokens": 290,
            "prompt_tokens_details": {"cached_tokens": 200, "cache_write_tokens": 30},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
    }


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("refusal", "content_filter"),
        ("made_up_tomorrow", "made_up_tomorrow"),
    ],
)
def test_stop_reasons(stop: str, finish: str) -> None:
    assert to_completion(message(text("x"), stop=stop), 0)["choices"][0]["finish_reason"] == finish


def test_a_refusal_explains_itself() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "Not that."}
    answer = to_completion(message(stop="refusal", stop_details=details), 0)["choices"][0]["message"]
    assert answer == {"role": "assistant", "content": None, "refusal": "Not that."}


def test_usage_totals_the_cache_and_a_refusal_before_any_output_is_free() -> None:
    spent = Usage(240, cached_input_tokens=200, cache_write_tokens=30, output_tokens=50, reasoning_tokens=20)
    assert usage(TOLD) == usage(TOLD, message(text("x"))) == usage(TOLD, message(text("x"), stop="refusal")) == spent
    assert usage(TOLD, message(stop="refusal")) == Usage()
    assert usage({}) is None


@pytest.mark.parametrize("broken", [{}, message(stop=""), message({"type": "text"}), {**message(), "content": "hi"}])
def test_what_is_no_message_is_noticed(broken: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        to_completion(broken, 0)


@pytest.mark.parametrize(
    ("said", "kind", "param"),
    [
        ("`temperature` is deprecated for this model.", Unsupported, "temperature"),
        (
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
            Unsupported,
            "temperature",
        ),
        (
            "This model does not support assistant message prefill. The conversation must end with a user message.",
            Unsupported,
            None,
        ),
        ("min_p: Extra inputs are not permitted", Unsupported, "min_p"),
        ("Thinking may not be enabled when tool_choice forces tool use.", Unsupported, None),
        ("messages.1.content.0: `image` is too small", BadRequest, "messages.1.content.0"),
        (
            "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000, decrease input length",
            ContextExceeded,
            "messages",
        ),
        ("You have reached your specified API usage limits. You will regain access soon.", CreditExhausted, None),
    ],
)
def test_the_words_of_a_400_tell_its_kind(said: str, kind: type[FarthingError], param: str | None) -> None:
    error = refined(BadRequest(said))
    assert (type(error), error.param) == (kind, param)


def test_other_errors_stay_what_they_are() -> None:
    error = Overloaded("does not support", retry_after_s=3)
    assert refined(error) is error


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("invalid_request_error", BadRequest),
        ("authentication_error", KeyRejected),
        ("permission_error", KeyRejected),
        ("billing_error", CreditExhausted),
        ("request_too_large", TooLarge),
        ("rate_limit_error", Overloaded),
        ("overloaded_error", Overloaded),
        ("timeout_error", UpstreamTimeout),
        ("api_error", Unavailable),
        ("made_up_tomorrow", Unavailable),
    ],
)
def test_a_streams_error_event_has_the_status_it_would_have_had(kind: str, expected: type[FarthingError]) -> None:
    assert type(translate_event(with_status({"type": kind, "message": "m"}), "b")) is expected

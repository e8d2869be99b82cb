"""A provider's refusal becomes one of our errors: what is read of it, and what never shows."""

from __future__ import annotations

import datetime
import email.utils
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import (
    BadRequest,
    ContentRefused,
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
from models.upstream.errors import (
    MAX_RETRY_AFTER_S,
    UnknownUpstreamModel,
    retry_after_s,
    stated_error,
    translate,
    translate_event,
)


def body(code: str = "", message: str = "m", **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, "code": code, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "raw", "kind"),
    [
        (400, body("context_length_exceeded"), ContextExceeded),
        (400, body(message="This model's maximum context length is 8192 tokens"), ContextExceeded),
        (422, body("unsupported_parameter", param="logprobs"), Unsupported),
        (400, body("content_policy_violation"), ContentRefused),
        (400, body(), BadRequest),
        (400, b"", BadRequest),
        (401, b"", KeyRejected),
        (402, b"", CreditExhausted),
        (403, body(message="You exceeded your current quota"), CreditExhausted),
        (429, body("insufficient_quota"), CreditExhausted),
        (429, b"<html>", Overloaded),
        (503, b"", Overloaded),
        (503, body("engine_dead"), Unavailable),
        (404, body("model_not_found"), UnknownUpstreamModel),
        (404, b"no such page", Unavailable),
        (413, b"", TooLarge),
        (408, b"", UpstreamTimeout),
        (302, b"", Unavailable),
        (500, body(message="Traceback of theirs"), Unavailable),
    ],
)
def test_the_status_decides_and_words_only_where_nothing_else_tells(
    status: int, raw: bytes, kind: type[FarthingError]
) -> None:
    error = translate(status, {}, raw, "frontier/0")
    assert type(error) is kind
    assert error.message and "Traceback" not in error.message


def test_the_field_they_name_is_told_to_the_caller() -> None:
    error = translate(400, {}, body("unsupported_value", message="no such effort", param="reasoning_effort"), "x")
    assert (error.param, error.message) == ("reasoning_effort", "no such effort")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'[{"error": {"message": "gemini wraps it"}}]', "gemini wraps it"),
        (b'{"error": "only text"}', "only text"),
        (b'{"object": "error", "message": "vLLM of old"}', "vLLM of old"),
        (b"[]", None),
        (b'{"error": 5}', None),
        (b"{", None),
    ],
)
def test_the_shapes_errors_come_in(raw: bytes, message: str | None) -> None:
    assert stated_error(raw).get("message") == message


@given(st.integers(300, 599), st.binary(max_size=60), st.text(max_size=12), st.text(max_size=12))
def test_nothing_they_answer_can_raise_in_the_translation(status: int, raw: bytes, after: str, millis: str) -> None:
    error = translate(status, {"retry-after": after, "retry-after-ms": millis}, raw, "b")
    assert error.retry_after_s is None or 0 <= error.retry_after_s <= MAX_RETRY_AFTER_S


json_values = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=2))


@given(st.dictionaries(st.sampled_from(["code", "type", "message", "param"]), json_values))
def test_no_error_event_can_raise_either(error: dict[str, Any]) -> None:
    assert isinstance(translate_event(orjson.loads(json.dumps(error)), "b"), FarthingError)


def test_an_http_date_is_a_wait_and_the_past_is_none() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    assert 25 < (retry_after_s({"retry-after": email.utils.format_datetime(soon, usegmt=True)}) or 0) <= 30
    assert retry_after_s({"retry-after": email.utils.format_datetime(past, usegmt=True)}) == 0.0


def test_the_finer_header_goes_first_and_the_longest_wait_is_an_hour() -> None:
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after_s({"retry-after": "86400"}) == retry_after_s({"retry-after-ms": "inf"}) == MAX_RETRY_AFTER_S
    assert retry_after_s({"retry-after": "nan"}) == 0.0
    assert retry_after_s({}) is None

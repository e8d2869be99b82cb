"""A provider's refusal, translated: status first, then its code, and its words only where nothing else tells.

Pure. Our own key and address never appear in a message; the provider's message does, since it names the field.
"""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Mapping
from typing import Any

import orjson

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
    UpstreamError,
    UpstreamTimeout,
)

MAX_MESSAGE_CHARS = 500
MAX_RETRY_AFTER_S = 3600.0  # a provider that says more is asked again after this all the same
_CREDIT = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
    "billing_error",
)
_CREDIT_WORDS = ("credit balance is too low", "insufficient balance", "exceeded your current quota", "out of credits")
_CONTEXT_WORDS = (
    "maximum context length",
    "context length exceeded",
    "prompt is too long",
    "exceeds the context",
    "max_model_len",
    "maximum model length",
)
_UNSUPPORTED = ("unsupported_parameter", "unsupported_value", "unsupported_model")
_DEAD = "engine_dead"  # of our own engines: not busy, and not to come back by itself
_REFUSED = ("content_filter", "content_policy_violation")


class UnknownUpstreamModel(UpstreamError):
    """The backend does not know the model we are configured to ask it for."""

    code = "upstream_model_not_found"


def translate(status: int, headers: Mapping[str, str], body: bytes, backend: str) -> FarthingError:
    """The error an HTTP answer stands for. `backend` is our own name for it, used in messages."""
    stated = stated_error(body)
    code = str(stated.get("code") or stated.get("type") or "")
    message = str(stated.get("message") or "")[:MAX_MESSAGE_CHARS]
    retry_s = retry_after_s(headers)
    if _is_credit(status, code, message):
        return CreditExhausted(f"{backend}: the provider's credit is exhausted")
    if status in (400, 422):
        return _bad_request(stated, code, message)
    if status in (401, 403):
        return KeyRejected(f"{backend}: the provider refused our key")
    if status == 404:
        if stated:
            return UnknownUpstreamModel(f"{backend}: the provider does not know the configured model")
        return Unavailable(f"{backend}: nothing is served at the configured address yet")
    if status == 413:
        return TooLarge(message or "the request is too large for the provider; send less")
    if code == _DEAD:
        return Unavailable(f"{backend}: the engine has stopped")
    if status in (408, 504):
        return UpstreamTimeout(f"{backend}: timed out upstream")
    if status in (429, 503, 529):
        return Overloaded(f"{backend}: overloaded or over our rate limit there", retry_after_s=retry_s)
    return Unavailable(f"{backend}: answered with status {status}", retry_after_s=retry_s)


def translate_event(error: Mapping[str, Any], backend: str) -> FarthingError:
    """An error that came as an event of a stream; some carry a status as their code."""
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    if error.get("type") in ("overloaded_error", "rate_limit_error"):
        status = 529
    return translate(status, {}, orjson.dumps({"error": dict(error)}), backend)


def stated_error(body: bytes) -> dict[str, Any]:
    """The error object of an OpenAI- or Anthropic-shaped body, {} when there is none."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(data, list) and data:  # Gemini's compatible endpoint wraps it in a list
        data = data[0]
    error = data.get("error") if isinstance(data, dict) else None
    if isinstance(error, str):
        return {"message": error}
    if isinstance(error, dict):
        return error
    if isinstance(data, dict) and data.get("object") == "error":
        return data
    return {}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, 0 to MAX_RETRY_AFTER_S, from `retry-after-ms` or `retry-after` (seconds or an HTTP date)."""
    millis, stated = _number(headers.get("retry-after-ms")), headers.get("retry-after", "")
    wait_s = millis / 1000 if millis is not None else _number(stated)
    if wait_s is None:
        try:
            at = email.utils.parsedate_to_datetime(stated)
        except (ValueError, OverflowError):
            return None
        at = at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)
        wait_s = (at - datetime.datetime.now(datetime.UTC)).total_seconds()
    return min(max(0.0, wait_s), MAX_RETRY_AFTER_S)  # in this order: what is no number at all becomes 0


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _is_credit(status: int, code: str, message: str) -> bool:
    if status == 402 or code in _CREDIT:
        return True
    return status in (400, 403, 429) and any(words in message.lower() for words in _CREDIT_WORDS)


def _bad_request(stated: Mapping[str, Any], code: str, message: str) -> FarthingError:
    param = stated.get("param")
    where = str(param) if param else None
    text = message or "the provider refused the request without saying why"
    if code == "context_length_exceeded" or any(words in message.lower() for words in _CONTEXT_WORDS):
        return ContextExceeded(text, param=where or "messages")
    if code in _UNSUPPORTED:
        return Unsupported(text, param=where)
    if code in _REFUSED:
        return ContentRefused(text, param=where)
    return BadRequest(text, param=where)

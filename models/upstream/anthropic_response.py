"""Anthropic's answers, usage and refusals in OpenAI's shape. Pure: knows no HTTP and no stream.

Blocks that OpenAI's shape has no place for (results of Anthropic's own tools, which are never asked for here) are left
out. Thinking becomes `reasoning_content`, and beside it `thinking_blocks` with the signatures that Anthropic wants back
when the talk goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from models.errors import BadRequest, ContextExceeded, CreditExhausted, FarthingError, Unsupported
from models.types import Json, Usage, token_count

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # an unfinished turn: never to be taken for a whole answer
    "refusal": "content_filter",
}
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# What one model refuses and another takes. Every model has its own set, so that the words are all there is to go by:
# "`temperature` is deprecated for this model", "... does not support assistant message prefill",
# "min_p: Extra inputs are not permitted", "Thinking may not be enabled when tool_choice forces tool use".
_UNSUPPORTED = re.compile(
    r"deprecated for this model|for this model\. Please use only one|not support|Extra inputs are not permitted"
    r"|may only be set to 1 when|may not be enabled when",
    re.IGNORECASE,
)
_FIELD = re.compile(r"`(?P<quoted>\w+)`|^(?P<first>[\w.]+): ")


def to_completion(message: Json, created_s: int) -> Json:
    """Raises KeyError, TypeError or AttributeError when it is no message."""
    blocks: list[Json] = message["content"]
    thinking = [block for block in blocks if block["type"] in ("thinking", "redacted_thinking")]
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    calls = [_tool_call(block) for block in blocks if block["type"] == "tool_use"]
    answer: Json = {"role": "assistant", "content": "".join(texts) if texts else None}
    if reasoning := "".join(block.get("thinking", "") for block in thinking):
        answer["reasoning_content"] = reasoning
    if thinking:
        answer["thinking_blocks"] = thinking
    if calls:
        answer["tool_calls"] = calls
    answer |= refusal(message)
    if not message["stop_reason"]:
        raise KeyError("stop_reason")
    choice = {"index": 0, "message": answer, "finish_reason": finish_reason(message["stop_reason"])}
    spent = usage(message.get("usage") or {}, message)
    return {
        "id": message["id"],
        "object": "chat.completion",
        "created": created_s,
        "model": message["model"],
        "choices": [choice],
        **({"usage": spent.to_openai()} if spent else {}),
    }


def _tool_call(block: Json) -> Json:
    function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
    return {"id": block["id"], "type": "function", "function": function}


def finish_reason(stop_reason: str) -> str:
    """A reason made after this was written goes on as it is: it may not pass for `stop`."""
    return _FINISH.get(stop_reason, stop_reason)


def refusal(ending: Mapping[str, Any]) -> Json:
    """OpenAI's `refusal` text, of a message or of the end of a stream, where Anthropic explains itself."""
    explanation = (ending.get("stop_details") or {}).get("explanation")
    return {"refusal": explanation} if explanation else {}


def usage(told: Any, ending: Mapping[str, Any] | None = None) -> Usage | None:
    """Anthropic counts cache reads and writes beside `input_tokens`; ours is the sum. None when nothing was told, or
    nothing that is a count.

    A refusal before any output is told with counts but not billed; `ending` is the whole message, to know one by.
    """
    if not told or not isinstance(told, Mapping):
        return None
    if ending is not None and ending.get("stop_reason") == "refusal" and not ending.get("content"):
        return Usage()
    try:
        read = token_count(told.get("cache_read_input_tokens"))
        write = token_count(told.get("cache_creation_input_tokens"))
        return Usage(
            input_tokens=token_count(told.get("input_tokens")) + read + write,
            cached_input_tokens=read,
            cache_write_tokens=write,
            output_tokens=token_count(told.get("output_tokens")),
            reasoning_tokens=token_count((told.get("output_tokens_details") or {}).get("thinking_tokens")),
        )
    except (ValueError, AttributeError):
        return None


def with_status(error: Mapping[str, Any]) -> Json:
    """A stream's error event with the status it would have had: Anthropic states a type only."""
    return {**error, "code": _STATUS.get(str(error.get("type")), 500)}


def refined(error: FarthingError) -> FarthingError:
    """Anthropic says `invalid_request_error` to nearly everything; the words tell what kind it is."""
    if type(error) is not BadRequest:
        return error
    field = _FIELD.search(error.message)
    param = error.param or (field and (field["quoted"] or field["first"]))
    if "exceed context limit" in error.message:
        return ContextExceeded(error.message, param="messages")
    if "API usage limits" in error.message:
        return CreditExhausted("the provider's spending limit for our key is reached")
    return (Unsupported if _UNSUPPORTED.search(error.message) else BadRequest)(error.message, param=param)

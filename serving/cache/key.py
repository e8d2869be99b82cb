"""What makes two requests the same request, and which may share an answer. Pure functions; knows no store.

The key holds everything the caller sent that can change the answer. Two requests that differ in a way nobody here
understands are different: a wrong miss costs a call, a wrong hit gives a wrong answer.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from models.types import Json
from serving.wire.request import Asked

FORMAT = 1  # of the key: raise it when the same request must get another key

# Who asks, how the answer is delivered and who may look at it afterwards: none of it changes what is answered.
IGNORED = frozenset({"stream", "stream_options", "user", "metadata", "store", "safety_identifier", "prompt_cache_key"})
# Objects whose members have no order. Elsewhere the order is kept: a schema's properties are answered in their order.
UNORDERED = frozenset({"messages", "logit_bias"})

_MAX_EXACT = 2.0**53  # above it a float is not one integer

_WHOLE_FINISHES = ("stop", "length", "tool_calls", "function_call")


def cache_key(asked: Asked, tenant: str, policy_version: str, namespace: str) -> bytes:
    """32 bytes. `namespace` sets whole caches apart: the configuration that answers, an operator's flush."""
    scope = [FORMAT, namespace, tenant, policy_version, asked.endpoint, asked.options.local_only]
    digest = hashlib.blake2b(orjson.dumps(scope), digest_size=32)
    for name in sorted(asked.body.keys() - IGNORED):
        option = orjson.OPT_SORT_KEYS if name in UNORDERED else 0
        digest.update(orjson.dumps([name, _number(asked.body[name])], option=option))
    return digest.digest()


def meaning_scope(asked: Asked, namespace: str) -> bytes | None:
    """32 bytes over everything but the last user's text; None for a request that has no such text, or more than it.

    What is compared by meaning is that text alone: system prompt, earlier turns, tools, response format and every
    sampling parameter must be equal. The policy's version is not in it: what an entry's tier may serve is decided anew
    each time.
    """
    messages = asked.body.get("messages") if asked.endpoint == "chat/completions" else None
    if not messages or messages[-1].get("role") != "user" or asked.images or not asked.text:
        return None
    content = messages[-1].get("content")
    if isinstance(content, list) and any(part.keys() != {"type", "text"} for part in content):
        return None
    last = {name: value for name, value in messages[-1].items() if name != "content"}
    digest = hashlib.blake2b(orjson.dumps([FORMAT, namespace, asked.options.local_only]), digest_size=32)
    for name in sorted(asked.body.keys() - IGNORED):
        value = [*messages[:-1], last] if name == "messages" else _number(asked.body[name])
        digest.update(orjson.dumps([name, value], option=orjson.OPT_SORT_KEYS if name in UNORDERED else 0))
    return digest.digest()


def _number(value: Any) -> Any:
    """1.0 is 1 where a field is a number; inside messages and schemas numbers are text to the model, and stay."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT else value


def uncacheable(asked: Asked, opt_in_sampled: bool) -> str | None:
    """Why this request may neither take nor leave a shared answer, as a short code; None when it may.

    Asking for a temperature or for several choices is asking for chance, and a seed does not take that back. The caller
    opts in by naming a cache mode that reads, the operator with `opt_in_sampled`. An omitted temperature is no wish.
    """
    if opt_in_sampled or asked.options.cache in ("semantic", "exact", "only"):
        return None
    if (asked.body.get("temperature") or 0) > 0:
        return "temperature"
    if max(asked.body.get("n") or 1, asked.body.get("best_of") or 1) > 1:
        return "choices"
    return None


def storable(completion: Json) -> bool:
    """Whether a whole answer is one to give again: every choice ended by itself or at its bound, and none refused."""
    choices = completion.get("choices") or ()
    return bool(choices) and all(
        choice.get("finish_reason") in _WHOLE_FINISHES and not (choice.get("message") or {}).get("refusal")
        for choice in choices
    )


def prompt_fingerprint(asked: Asked) -> str:
    """SHA-256, in hex, of the messages (or the prompt) alone: the same words under any model and sampling."""
    words = asked.body["messages" if asked.endpoint == "chat/completions" else "prompt"]
    return hashlib.sha256(orjson.dumps(words, option=orjson.OPT_SORT_KEYS)).hexdigest()

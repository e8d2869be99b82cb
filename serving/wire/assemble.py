"""One answer in its two shapes: a completion object, and the SSE events that spell it. Pure functions.

`assemble(replay(completion)) == completion`, for chat and for text completions, fields nobody here knows included.
Knows no cache, no price and no socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from models.types import Json, Usage

DONE = b"data: [DONE]\n\n"

# Fields that name something: a later chunk may repeat or replace them, and never continues their text.
_NAMES = ("role", "id", "type", "format", "finish_reason", "stop_reason", "native_finish_reason")
# Fields whose text a reader watches grow; the others are replayed whole.
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")

# Up to 64 characters, up to a white space where there is one. Otherwise not before a combining mark, a joiner, a
# variation selector or a skin tone, nor after a joiner: a client that draws each piece never shows half an emoji.
_JOINERS = "\u0300-\u036f\u200d\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"
_PIECE = re.compile(rf"(?s).{{0,63}}\s|.{{1,64}}(?![{_JOINERS}])(?<!\u200d)|.{{1,64}}")


def assemble(events: bytes | Iterable[bytes]) -> Json | None:
    """The completion these events spell, or None when it is not whole: a choice without an end, an error, bad JSON.

    `events` are whole SSE events, split anywhere between them. Of the top-level fields the last non-null value counts.
    """
    try:
        return _assembled(events if isinstance(events, bytes) else b"".join(events))
    except (orjson.JSONDecodeError, AttributeError, TypeError, RecursionError):
        return None  # not the events of a completion, whatever they are


def _assembled(events: bytes) -> Json | None:
    whole: Json = {}
    choices: dict[int, Json] = {}
    for chunk in _payloads(events):
        if chunk.get("error"):
            return None
        for choice in chunk.pop("choices", None) or ():
            _merge(choices.setdefault(choice.get("index", 0), {}), choice)
        whole.update((name, value) for name, value in chunk.items() if value is not None or name not in whole)
    if not choices or not all(choice.get("finish_reason") for choice in choices.values()):
        return None
    if "object" not in whole and all("text" in choice for choice in choices.values()):
        whole["object"] = "text_completion"  # some servers leave it out
    if whole.get("object") != "text_completion":
        whole["object"] = "chat.completion"
        for choice in choices.values():
            choice["message"] = _message(choice.pop("delta", None) or {})
    if whole.get("usage") is None:
        whole.pop("usage", None)
    return whole | {"choices": [choices[index] for index in sorted(choices)]}


def _payloads(events: bytes) -> Iterator[Json]:
    for line in events.splitlines():
        if line.startswith(b"data:") and (data := line[5:].strip()) and data != b"[DONE]":
            yield orjson.loads(data)


def _merge(into: Json, delta: Json) -> None:
    """Add a delta: texts and lists grow, named parts are filled in, everything else is replaced."""
    for name, value in delta.items():
        held = into.get(name)
        if value is None or held is None:
            into[name] = _started(value) if value is not None else held
        elif isinstance(value, dict) and isinstance(held, dict):
            _merge(held, value)
        elif isinstance(value, list) and isinstance(held, list):
            _extend(held, value)
        elif isinstance(value, str) and isinstance(held, str) and name not in _NAMES:
            # A function's name comes whole, from some servers again with every chunk, and from a few in pieces.
            into[name] = held if name == "name" and value == held else held + value
        elif value != "":
            into[name] = value


def _started(value: Any) -> Any:
    """A first value, built from nothing so that lists of indexed parts are merged within one delta too."""
    if isinstance(value, dict):
        into: Json = {}
        _merge(into, value)
        return into
    if isinstance(value, list):
        items: list[Any] = []
        _extend(items, value)
        return items
    return value


def _extend(held: list[Any], more: list[Any]) -> None:
    """Append, except that parts of one index (tool calls) are one part."""
    for item in more:
        index = item.get("index") if isinstance(item, dict) else None
        known = None if index is None else next((one for one in held if _index(one) == index), None)
        if known is None:
            held.append(_started(item))
        else:
            _merge(known, item)


def _index(part: Any) -> Any:
    return part.get("index") if isinstance(part, dict) else None


def _message(delta: Json) -> Json:
    message = {"role": "assistant", "content": None} | delta
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        calls.sort(key=lambda call: call.get("index", 0))
        for call in calls:
            call.pop("index", None)
    return message


def replay(completion: Json, include_usage: bool, usage: Json | None) -> list[bytes]:
    """The events of a whole completion, `[DONE]` last. `usage` stands in for the completion's own in the last event."""
    chat = completion.get("object") != "text_completion"
    head = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    if chat:
        head["object"] = "chat.completion.chunk"
    events = [
        event(head | {"choices": [choice]})
        for whole in completion["choices"]
        for choice in (_chat_deltas(whole) if chat else _text_deltas(whole))
    ]
    if include_usage:
        events.append(event(head | {"choices": [], "usage": usage or completion.get("usage")}))
    return [*events, DONE]


def event(data: Json) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _chat_deltas(choice: Json) -> Iterator[Json]:
    """Role first, then what was thought and said, then tool calls, then the end with the choice's other fields."""
    index, message = choice.get("index", 0), choice["message"]
    rest = {name: value for name, value in choice.items() if name not in ("index", "message", "logprobs")}
    aligned = choice.get("logprobs") is not None  # with logprobs the text comes in one piece, so the two stay together
    first = {name: value for name, value in message.items() if value is None or name == "role"}
    first |= {name: "" for name in _TEXTS if isinstance(message.get(name), str)}

    def delta(part: Json, **fields: Any) -> Json:
        return {"index": index, "delta": part, **fields, "finish_reason": None}

    yield delta(first, **({"logprobs": None} if "logprobs" in choice else {}))
    for name in _TEXTS:
        text = message.get(name)
        for piece in [] if not isinstance(text, str) else [text] if aligned and text else _PIECE.findall(text):
            yield delta({name: piece})
    if aligned:
        yield delta({}, logprobs=choice["logprobs"])
    for at, call in enumerate(message.get("tool_calls") or ()):
        yield delta({"tool_calls": [{"index": at, **call}]})
    others = {n: v for n, v in message.items() if n not in first and not (n == "tool_calls" and v)}
    if others:
        yield delta(others)
    yield {"index": index, "delta": {}, **rest}


def _text_deltas(choice: Json) -> Iterator[Json]:
    index, text = choice.get("index", 0), choice.get("text") or ""
    pieces = [text] if choice.get("logprobs") is not None else _PIECE.findall(text) or [""]
    yield from ({"index": index, "text": piece, "finish_reason": None} for piece in pieces[:-1])
    yield {**choice, "index": index, "text": pieces[-1]}


def with_cost(body: Json, cost_usd: float, usage: Usage | None) -> Json:
    """A copy of a completion whose `usage` says what it cost; the backend's own usage object is kept if any."""
    told = body.get("usage") or (usage or Usage()).to_openai()
    return body | {"usage": told | {"cost": cost_usd}}


def usage_event(like: Json, usage: Usage, cost_usd: float) -> bytes:
    """The usage chunk that ends a stream; `like` is any chunk of that stream, for its id, model and the rest."""
    head = {name: value for name, value in like.items() if name not in ("choices", "usage")}
    return event(head | {"choices": [], "usage": usage.to_openai() | {"cost": cost_usd}})


def first_chunk(events: bytes) -> Json:
    """The first chunk among whole events, {} when none can be read: what `usage_event` is written like."""
    try:
        chunk = next(_payloads(events), {})
    except orjson.JSONDecodeError:
        return {}
    return chunk if isinstance(chunk, dict) else {}

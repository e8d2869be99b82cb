"""A request body as bytes, made into an `Asked`: validated, our options split off, its shape measured once.

Everything later (routing, cache key, journal) reads the `Asked`; the body goes on as the plain dict the caller sent. Of
a key given twice the last counts, for the backend too, since it is sent what was parsed here and not the bytes.
Knows no tenants, no HTTP and no backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from models.errors import BadRequest, ContextExceeded, TooLarge
from models.types import Endpoint, Json
from router.decision import MAX_FACT_TEXT_CHARS, Facts
from serving.wire.fields import check_fields, check_message, is_int, refuse
from serving.wire.options import CacheMode, Options, cache_control

__all__ = ["Asked", "CacheMode", "Limits", "Options", "cache_control", "facts", "parse"]

MAX_DEPTH = 100  # of nested JSON; orjson writes at most 254 levels, and templates recurse too
MAX_MODEL_CHARS = 256

# The estimate of prompt tokens, made before any tokenizer is known. UTF-8 bytes stand in for characters because scripts
# with long encodings also take more tokens a character; 4 bytes a token is the common figure for English text.
BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4  # role and separators of a chat template
TOKENS_PER_IMAGE = 765  # a 1024 x 1024 image at OpenAI's high detail; other providers come out between 250 and 1,600


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_prompt_tokens` bounds the estimate: leave room, it is no tokenizer. None is no bound."""

    max_body_bytes: int = 8 * 1024 * 1024
    max_messages: int = 2048
    max_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One validated request. `body` is the caller's, less `farthing`; do not write to it, copy it.

    `text` is the last user message's text, `turns` the number of user messages, `images` the number of content parts
    that are not text (audio and files too: what a text-only model lacks), `prompt_chars` counts tools too.
    """

    endpoint: Endpoint
    body: Json
    model: str
    stream: bool
    include_usage: bool
    options: Options
    text: str
    system_text: str
    prompt_chars: int
    prompt_tokens: int
    max_output_tokens: int | None
    turns: int
    images: int
    tools: bool
    tool_results: bool
    json_schema: bool


def parse(endpoint: Endpoint, raw: bytes, limits: Limits) -> Asked:
    """Raise the 4xx that tells the caller which field to change, or return what was asked."""
    body = _load(raw, limits)
    options = Options.parse(body.pop("farthing", None))
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_CHARS:
        refuse("model", "the name of a model, such as 'auto'; GET /v1/models lists them")
    check_fields(endpoint, body)
    shape = _measure_chat(body, limits) if endpoint == "chat/completions" else _measure_prompt(body)
    if limits.max_prompt_tokens is not None and shape.tokens > limits.max_prompt_tokens:
        raise ContextExceeded(
            f"the prompt is about {shape.tokens} tokens and the limit here is {limits.max_prompt_tokens}; shorten it",
            param="messages" if endpoint == "chat/completions" else "prompt",
        )
    return Asked(
        endpoint=endpoint,
        body=body,
        model=model,
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        options=options,
        text=shape.text,
        system_text="\n\n".join(shape.system),
        prompt_chars=shape.chars,
        prompt_tokens=shape.tokens,
        max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        turns=shape.turns,
        images=shape.images,
        tools=bool(body.get("tools") or body.get("functions")),
        tool_results=shape.tool_results,
        json_schema=(body.get("response_format") or {}).get("type") == "json_schema",
    )


def facts(asked: Asked, request_id: str, tenant: str) -> Facts:
    """What the decider may know of it: small, and without the history's text."""
    return Facts(
        request_id=request_id,
        tenant=tenant,
        text=asked.text[:MAX_FACT_TEXT_CHARS],
        prompt_chars=asked.prompt_chars,
        prompt_tokens=asked.prompt_tokens,
        max_output_tokens=asked.max_output_tokens,
        turns=asked.turns,
        images=asked.images > 0,
        tools=asked.tools,
        tool_results=asked.tool_results,
        json_schema=asked.json_schema,
        local_only=asked.options.local_only,
        tags=asked.options.tags,
        conversation=asked.options.conversation,
    )


def _load(raw: bytes, limits: Limits) -> Json:
    if len(raw) > limits.max_body_bytes:
        raise TooLarge(f"the body is {len(raw)} bytes and the limit is {limits.max_body_bytes}; send less")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:  # also bad UTF-8, lone surrogates, NaN, Infinity, 1e999, 1,024 levels
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object with 'model' and 'messages'")
    # Few brackets cannot nest deep: the walk is only for bodies that might.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _deeper_than(body, MAX_DEPTH):
        raise BadRequest(f"the body nests deeper than {MAX_DEPTH} levels; flatten it")
    return body


def _deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        members = [member.values() if type(member) is dict else member for member in level]
        level = [child for member in members for child in member if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True


class _Shape:
    """The running measure of a prompt."""

    __slots__ = ("chars", "extra_tokens", "images", "system", "text", "text_bytes", "tool_results", "turns")

    def __init__(self) -> None:
        self.chars = self.text_bytes = self.extra_tokens = self.images = self.turns = 0
        self.text = ""
        self.system: list[str] = []
        self.tool_results = False

    @property
    def tokens(self) -> int:
        return self.extra_tokens + self.images * TOKENS_PER_IMAGE + -(-self.text_bytes // BYTES_PER_TOKEN)

    def read(self, text: str) -> None:
        self.chars += len(text)
        self.text_bytes += len(text) if text.isascii() else len(text.encode())

    def read_json(self, value: Any) -> None:
        if value:
            self.read(orjson.dumps(value).decode())


def _measure_chat(body: Json, limits: Limits) -> _Shape:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        refuse("messages", "a non-empty list of messages")
    if len(messages) > limits.max_messages:
        raise TooLarge(f"{len(messages)} messages; the limit is {limits.max_messages}", param="messages")
    shape = _Shape()
    for at, message in enumerate(messages):
        check_message(f"messages[{at}]", message)
        _measure_message(shape, message)
    shape.read_json(body.get("tools"))
    shape.read_json(body.get("functions"))
    if (body.get("response_format") or {}).get("type") == "json_schema":
        shape.read_json(body["response_format"])
    return shape


def _measure_message(shape: _Shape, message: Json) -> None:
    role, content = message["role"], message.get("content")
    if isinstance(content, list):
        texts = [part["text"] for part in content if part["type"] == "text"]
        shape.images += sum(part["type"] not in ("text", "refusal") for part in content)
        content = "\n".join(texts)
    shape.read(content or "")
    shape.extra_tokens += TOKENS_PER_MESSAGE
    if role == "user":
        shape.turns += 1
        shape.text = content or ""
    elif role in ("system", "developer"):
        shape.system.append(content or "")
    elif role in ("tool", "function"):
        shape.tool_results = True
    else:
        shape.read_json(message.get("tool_calls"))


def _measure_prompt(body: Json) -> _Shape:
    prompt = body.get("prompt")
    must = "a non-empty string, a list of strings, or token ids"
    if not isinstance(prompt, str | list) or not prompt:
        refuse("prompt", must)
    shape = _Shape()
    shape.turns = 1
    texts = list(_prompts(prompt))
    if not all(texts):
        refuse("prompt", must)
    for text in texts:
        if isinstance(text, str):
            shape.read(text)
        elif all(is_int(token) and token >= 0 for token in text):
            shape.extra_tokens += len(text)
        else:
            refuse("prompt", must)
    shape.text = "\n".join(text for text in texts if isinstance(text, str))
    return shape


def _prompts(prompt: str | list[Any]) -> Iterator[str | list[Any]]:
    """One string, or one list of token ids, is one prompt; a list of either is several."""
    if isinstance(prompt, str) or is_int(prompt[0]):
        yield prompt
        return
    for at, one in enumerate(prompt):
        if not isinstance(one, str | list):
            refuse(f"prompt[{at}]", "a string or a list of token ids")
        yield one

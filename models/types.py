"""The vocabulary of a call: what goes to a backend and what comes back. Imports nothing of ours but errors.

Bodies stay plain OpenAI-shaped dicts from end to end, so that a field nobody here knows reaches the backend untouched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from models.errors import DeadlineExceeded

Endpoint = Literal["chat/completions", "completions"]
Json = dict[str, Any]
_PASSED = "the deadline passed before an answer was ready; raise farthing.deadline_ms"
MAX_TOKENS = 10**9  # of one call: what is told beyond it is no count, and would not fit the ledger's integers


def token_count(told: Any) -> int:
    """A backend's figure as a number of tokens, null as 0. Raises ValueError for what cannot be one."""
    if told is None:
        return 0
    if type(told) not in (int, float) or not 0 <= told <= MAX_TOKENS or told != int(told):
        raise ValueError("no number of tokens")
    return int(told)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock of this process."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    def check(self) -> None:
        """Raise DeadlineExceeded when the time is up."""
        if self.remaining_s() <= 0.0:
            raise DeadlineExceeded(_PASSED)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """A block that may take until then. Raises DeadlineExceeded."""
        limit = asyncio.timeout(self.remaining_s())
        try:
            async with limit:
                yield
        except TimeoutError:
            if limit.expired():  # by the loop's clock, which need not wait for the deadline's
                raise DeadlineExceeded(_PASSED) from None
            raise


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call as the backend billed them.

    `input_tokens` is the total, the two cache figures are parts of it; `reasoning_tokens` is a part of `output_tokens`.
    `estimated` marks a count made here because the backend sent none (a cut stream, a server without usage).
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @classmethod
    def from_openai(cls, usage: Any) -> Usage | None:
        """Read an OpenAI `usage` object; absent or null parts count as 0. None when there is nothing to believe: no
        object, no token figure, or one that is no count. What a call cost is then estimated, never taken from it."""
        try:
            if usage.get("prompt_tokens") is None and usage.get("completion_tokens") is None:
                return None
            prompt = usage.get("prompt_tokens_details") or {}
            completion = usage.get("completion_tokens_details") or {}
            return cls(
                input_tokens=token_count(usage.get("prompt_tokens")),
                cached_input_tokens=token_count(prompt.get("cached_tokens")),
                cache_write_tokens=token_count(prompt.get("cache_write_tokens")),
                output_tokens=token_count(usage.get("completion_tokens")),
                reasoning_tokens=token_count(completion.get("reasoning_tokens")),
            )
        except (AttributeError, ValueError):
            return None

    def to_openai(self) -> Json:
        usage: Json = {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }
        if self.cached_input_tokens or self.cache_write_tokens:
            usage["prompt_tokens_details"] = {
                "cached_tokens": self.cached_input_tokens,
                "cache_write_tokens": self.cache_write_tokens,
            }
        if self.reasoning_tokens:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can take. `context_tokens` bounds prompt plus answer."""

    context_tokens: int = 128_000
    images: bool = True
    tools: bool = True
    completions: bool = False  # /v1/completions as well as chat


@dataclass(frozen=True, slots=True)
class Call:
    """One question to one backend. `body` is the caller's, less what is ours; the backend sets its own `model`."""

    endpoint: Endpoint
    body: Json
    request_id: str
    deadline: Deadline
    stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `body` is OpenAI-shaped; `usage` is None when the backend sent none."""

    body: Json
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """One or more whole SSE events (`data: {...}\\n\\n`), never `[DONE]`, which is the end of the iterator.

    `content` is true once the events carry something a reader would see (text, reasoning, a tool call).
    A usage-only event (empty `choices`) is not in `data`: its figures are in `usage`, and the gateway writes its own.
    `running` is the JSON of what the call has used so far, where that is told with each event: only the last is wanted,
    and to read every one would take as long as all else that is done with an event.
    """

    data: bytes
    content: bool = False
    usage: Usage | None = None
    running: bytes = b""

    @property
    def told(self) -> bool:
        """Whether it says what the call has used."""
        return self.usage is not None or bool(self.running)

    def used(self) -> Usage | None:
        """By the whole call, or so far."""
        if self.usage is not None or not self.running:
            return self.usage
        try:
            return Usage.from_openai(orjson.loads(self.running))
        except orjson.JSONDecodeError:
            return None

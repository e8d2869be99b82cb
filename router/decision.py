"""What a decision is made from, and what it says. Nothing here knows how it is made, nor who carries it.

`Facts` and `Decision` are small and picklable: they cross a process border on every `auto` request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MAX_FACT_TEXT_CHARS = 32_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request before any model has seen it.

    `text` is the last user text, cut to `MAX_FACT_TEXT_CHARS`; `prompt_tokens` is an estimate made from characters.
    """

    request_id: str
    tenant: str
    text: str
    prompt_chars: int
    prompt_tokens: int
    max_output_tokens: int | None = None
    turns: int = 1
    images: bool = False
    tools: bool = False
    tool_results: bool = False
    json_schema: bool = False
    local_only: bool = False
    tags: tuple[str, ...] = ()
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class CacheCandidate:
    """A verified near-duplicate: the entry to serve and the tier that wrote it."""

    entry_id: str
    tier: str
    probability_right: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Tiers in the order to try them, the first being the one wanted; `reason` is a short stable code."""

    tiers: tuple[str, ...]
    reason: str
    score: float | None = None
    candidate: CacheCandidate | None = None
    artifact: str = ""


class Decider(Protocol):
    """Decides within `deadline_s` seconds or not at all: whoever asks falls back to a configured default."""

    @property
    def version(self) -> str:
        """Changes whenever the same facts may give another decision; part of the exact cache's key."""
        ...

    async def decide(self, facts: Facts, deadline_s: float) -> Decision: ...

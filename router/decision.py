"""What a decision is made from, and what it says. Nothing here knows how it is made, nor who carries it.

`Facts` and `Decision` are small and picklable: they cross a process border on every `auto` request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from models.types import Usage

MAX_FACT_TEXT_CHARS = 32_000


@dataclass(frozen=True, slots=True)
class Lookup:
    """Where a request may find an answer by meaning. `partition` hashes all that must be equal for that.

    `namespace` is one that the operator has declared to be shared between tenants, empty for the tenant's own. Without
    `serve` nothing is looked up and the fresh answer is remembered all the same.
    """

    partition: bytes
    requested_model: str
    namespace: str = ""
    serve: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request before any model has seen it.

    `text` is the last user text, cut to `MAX_FACT_TEXT_CHARS`; `prompt_tokens` is an estimate made from characters.
    `named` is the tier the caller named, empty for `auto`. `lookup` is None where nothing may be matched by meaning.
    `askable`: tiers that could be asked for it now, with a key, up, in time and within budgets; None: nobody looked.
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
    named: str = ""
    lookup: Lookup | None = None
    askable: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Recalled:
    """A stored answer to a question near this one. `body` is the completion's JSON, `cost_nusd` what it once cost."""

    entry_id: str
    text: str
    tier: str
    model: str
    body: bytes
    usage: Usage
    cost_nusd: int
    age_s: float
    similarity: float
    probability_right: float


@dataclass(frozen=True, slots=True)
class Fresh:
    """An answer just made, to be remembered under the question it answers."""

    request_id: str
    tenant: str
    lookup: Lookup
    tier: str
    model: str
    body: bytes
    usage: Usage
    cost_nusd: int


@dataclass(frozen=True, slots=True)
class CascadePlan:
    """`tier` may begin to answer, to be kept or dropped by the probabilities of its first tokens (docs/cascade.md).

    `score`, 0..1, is how likely the prompt alone makes that tier fail, and `scored_by` who says so. `accept_at` is the
    least probability of being right that is enough, where the router knows: the stronger tier's, less the gain that is
    not worth its price.
    """

    tier: str
    score: float
    scored_by: str
    accept_at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Tiers in the order to try them, the first being the one wanted; `reason` is a short stable code.

    `serve` is a verified answer, to be given instead of asking any tier. `compare` is one that is near but not proven:
    the request is answered afresh, and whether the two agree is a label. `remember`: the fresh answer is wanted back.
    `shadow` is the tier that a learned router would have wanted where it was asked but not followed; `score` and
    `artifact` are then its own. `cascade`: the score is in the doubtful band.
    """

    tiers: tuple[str, ...]
    reason: str
    score: float | None = None
    artifact: str = ""
    serve: Recalled | None = None
    compare: Recalled | None = None
    remember: bool = False
    shadow: str = ""
    cascade: CascadePlan | None = None


class Decider(Protocol):
    """Decides within `deadline_s` seconds or not at all: whoever asks falls back to a configured default."""

    @property
    def version(self) -> str:
        """Changes whenever the same facts may give another decision; part of the exact cache's key."""
        ...

    async def decide(self, facts: Facts, deadline_s: float) -> Decision: ...

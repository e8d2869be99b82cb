"""The record of one request: what the journal carries and the ledger keeps. Pure data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from models.types import Endpoint

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]  # what every database takes
Status = Literal["answered", "cached", "coalesced", "failed", "cancelled", "timed_out", "refused", "lost"]


@dataclass(slots=True, kw_only=True)
class Row:
    """One request, whatever its end. Money is in nano-USD (integers, so that sums are exact), times in milliseconds.

    `route` is `cache` or the name of the tier that answered, empty when none did. `cost_nusd` is what the request cost
    us: input + cached input + cache write + output + wasted, the last being what its failed attempts burnt.
    The `all_*_nusd` figures are what the same tokens would have cost at the frontier and at the cheapest hosted tier.
    """

    request_id: str
    at_ms: Int64  # UTC epoch, when the request was admitted
    status: Status = "lost"
    tenant: str = ""
    key_id: str = ""
    endpoint: Endpoint | Literal["embeddings"] = "chat/completions"
    stream: bool = False
    requested_model: str = ""
    route: str = ""
    model: str = ""
    backend: str = ""
    cache: str = "miss"  # exact | semantic | coalesced | miss | bypass
    reason: str = ""
    score: float | None = None
    policy_version: str = ""
    artifact: str = ""
    http_status: Int64 = 0
    error_code: str = ""
    attempts: Int64 = 0
    input_tokens: Int64 = 0
    cached_input_tokens: Int64 = 0
    cache_write_tokens: Int64 = 0
    output_tokens: Int64 = 0
    reasoning_tokens: Int64 = 0
    usage_estimated: bool = False
    cost_input_nusd: Int64 = 0
    cost_cached_input_nusd: Int64 = 0
    cost_cache_write_nusd: Int64 = 0
    cost_output_nusd: Int64 = 0
    cost_wasted_nusd: Int64 = 0
    cost_nusd: Int64 = 0
    billed_nusd: Int64 = 0  # the part of cost_nusd that hosted providers bill; budgets count it, the rest is GPU time
    all_frontier_nusd: Int64 | None = None
    all_cheapest_nusd: Int64 | None = None
    latency_ms: float = 0.0
    ttft_ms: float | None = None
    prompt_sha256: str = ""
    prompt_name: str = ""
    conversation: str = ""
    tags: list[str] = field(default_factory=list)
    shadow: str = ""  # the tier the learned router would have wanted, where it was asked but not followed
    cache_entry: str = ""  # the stored answer that was served, or that this one was stored as; feedback finds it so
    similarity: float | None = None  # of the question to the one that entry answered
    saved_nusd: Int64 = 0  # what that answer cost when it was made

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Unknown keys are dropped: a newer replica may write a journal that an older writer reads."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in data.items() if k in names})

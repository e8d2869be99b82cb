"""What a run of the cost benchmark leaves behind: plain data, written by the run, read by tables, pages and `compare`.

Money is USD per 1,000 requests unless a name says otherwise; times are milliseconds; shares are of all requests. An
`Interval` is a point with its 95 % bounds (bootstrap over questions, so that repeats of one question count once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 1
Against = Literal["cheapest", "frontier"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured figure with its 95 % bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the money of 1,000 requests goes. `wasted`: answers that were paid for and thrown away."""

    frontier_usd: float = 0.0
    cheap_usd: float = 0.0
    gpu_busy_usd: float = 0.0
    gpu_idle_usd: float = 0.0
    wasted_usd: float = 0.0

    @property
    def total_usd(self) -> float:
        return self.frontier_usd + self.cheap_usd + self.gpu_busy_usd + self.gpu_idle_usd + self.wasted_usd


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests by route in one slice of the run, for the picture of route shares over time."""

    at_s: float
    routes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """One architecture on the whole workload.

    `replayed` names what was not done afresh (texts, latency); `computed` marks rows that follow from outcomes alone
    (oracle, best single model, random mixes) and were not driven over HTTP. `total` bounds `parts.total_usd`.
    """

    name: str
    label: str
    requests: int
    failed: int
    parts: Parts
    total: Interval
    shares: Mapping[str, float]
    quality: Interval | None
    graded: int
    quality_kept: Interval | None  # of all-frontier's, on the same questions
    cache_hits: int = 0
    wrong_cache_hits: int = 0
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    output_tokens_per_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    ledger_nusd: int | None = None  # the service's own sum, without idle
    counted_nusd: int | None = None  # ours, from each answer's usage and the price book
    replayed: Sequence[str] = ()
    computed: bool = False
    timeline: Sequence[Bucket] = ()


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """The cost of one architecture at one offered load, requests a second."""

    name: str
    offered_rps: float
    parts: Parts
    gpus: int = 1
    simulated: bool = True
    latency_p99_ms: float | None = None
    overflow_share: float = 0.0  # of all requests: the small tier was full, the next one answered


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The load above which owning the GPU is cheaper. `rps` None: never at one GPU's capacity, `note` says why."""

    name: str
    against: Against
    gpu_usd_per_hour: float
    rps: float | None
    capacity_rps: float
    tokens_scale: float = 1.0  # of the workload's token lengths
    note: str = ""


@dataclass(frozen=True, slots=True)
class MixPoint:
    """One point of a quality-cost curve: what a router gets by sending `frontier_share` of requests onward."""

    curve: str
    usd_per_1k: float
    quality: float


@dataclass(frozen=True, slots=True)
class Check:
    """A condition that the run had to meet or a figure it aimed at. `met` False is kept, with the reason in `note`."""

    name: str
    met: bool
    value: float | None = None
    wanted: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One whole run: enough to repeat it and to defend it."""

    workload: str
    commit: str
    at: str  # ISO 8601, UTC
    command: str
    seed: int
    duration_s: float
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    prices: Sequence[Mapping[str, Any]]  # model, provider, USD per million tokens by kind, date, source
    assumptions: Sequence[str]
    figures: Sequence[Figures]
    loads: Sequence[LoadPoint] = ()
    break_even: Sequence[BreakEven] = ()
    curves: Sequence[MixPoint] = ()
    checks: Sequence[Check] = ()
    workload_facts: Mapping[str, Any] = field(default_factory=dict)
    findings: Mapping[str, Any] = field(default_factory=dict)  # further figures, for who reads the JSON
    schema: int = SCHEMA

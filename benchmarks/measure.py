"""What one request took, and what many of them amount to. Pure arithmetic: knows no HTTP and no clock."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Summary = dict[str, float]


@dataclass(slots=True)
class Sample:
    """One good answer. `gaps_s` are the waits between arrivals that brought text, after the first."""

    latency_s: float
    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per output token after the first; None for an answer that was not streamed."""
        return sum(self.gaps_s) / (self.tokens - 1) if self.ttft_s is not None and self.tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Targets:
    """What a request must keep to count as good; None: anything will do."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def met(self, sample: Sample) -> bool:
        one_token = sample.tokens == 1  # has no time between tokens to keep
        return _within(sample.ttft_s, self.ttft_ms) and (one_token or _within(sample.tpot_s, self.tpot_ms))


def _within(value_s: float | None, limit_ms: float | None) -> bool:
    return limit_ms is None or (value_s is not None and value_s * 1000 <= limit_ms)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: always a value that was measured. Raises ValueError on nothing."""
    if not ordered:
        raise ValueError("no values: nothing was measured")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary_ms(values_s: Sequence[float]) -> Summary | None:
    """Percentiles in milliseconds; None when there is nothing to say."""
    if not values_s:
        return None
    ordered = sorted(values_s)
    figures = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(percentile(ordered, share) * 1000, 3) for name, share in figures.items()}


def summarize(samples: Sequence[Sample], elapsed_s: float, targets: Targets) -> dict[str, Any]:
    """The figures of one run. Rates are over the time to the last answer, so a slow server is not cut off."""
    tokens = sum(s.tokens for s in samples)
    prompt_tokens = sum(s.prompt_tokens for s in samples)
    met = sum(targets.met(s) for s in samples)
    return {
        "requests": len(samples),
        "elapsed_s": round(elapsed_s, 3),
        "rps": round(len(samples) / elapsed_s, 2),
        "latency_ms": summary_ms([s.latency_s for s in samples]),
        "ttft_ms": summary_ms([s.ttft_s for s in samples if s.ttft_s is not None]),
        "tpot_ms": summary_ms([s.tpot_s for s in samples if s.tpot_s is not None]),
        "gap_ms": summary_ms([gap for s in samples for gap in s.gaps_s]),
        "prompt_tokens": prompt_tokens,
        "prompt_tokens_per_s": round(prompt_tokens / elapsed_s, 2),
        "output_tokens": tokens,
        "output_tokens_per_s": round(tokens / elapsed_s, 2),
        "goodput_rps": round(met / elapsed_s, 2),
    }


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the rounds of a run."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(round(statistics.median(values), 3), round(min(values), 3), round(max(values), 3))

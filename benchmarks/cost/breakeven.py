"""From which load on does owning the GPU pay? Closed form; knows no queue and no run.

A GPU costs G/h whatever it does, so an architecture that owns one pays h + G/(3600·λ) for a request at λ requests a
second, h being its hosted part; the alternative pays A at any load. They meet at λ = G / (3600·(A − h)). Beyond one
GPU's capacity the next hour has to be bought, at no lower price per request: what has not paid by then never does.

Token lengths: every hosted price is linear in tokens, and a GPU's work is taken to be. Requests k times as long make A
and h k times as dear and the capacity k times as small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cost.results import Against, BreakEven, Figures
from models.prices import RateCard

HOUR_S: Final = 3600.0
TOKEN_SCALES: Final = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class HourPrice:
    """What an hour of the GPU costs, where that was seen and when (ISO date or month)."""

    usd_per_hour: float
    source: str
    as_of: str


# Seen, not ours: offers move within days, and the market's own figures are better where they can be read.
RTX_4090: Final = (
    HourPrice(0.24, "vast.ai on demand, one offer: github.com/dstackai/dstack/issues/4026", "2026-07"),
    HourPrice(
        0.40, "between: RunPod 0.34-0.44, vast.ai up to 0.45 (fairlane.systems); this repository's rate card", "2026-11"
    ),
    HourPrice(0.68, "vast.ai on demand, the low end of usagepricing.com's 0.68-0.88", "2026-06"),
)


def hours(own: HourPrice, others: Sequence[HourPrice] = RTX_4090) -> list[HourPrice]:
    """The run's own price among the others, ascending: the one at which break-even lies where the load lines cross."""
    rest = [hour for hour in others if not math.isclose(hour.usd_per_hour, own.usd_per_hour)]
    return sorted([own, *rest], key=lambda hour: hour.usd_per_hour)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one GPU holds of the requests that reach it, per second, and what that rests on."""

    rps: float
    source: str
    measured: bool

    @classmethod
    def of_card(cls, card: RateCard, input_tokens: float, output_tokens: float) -> Capacity:
        """From a rate card and mean tokens of a small-tier request. Its `source` says what was measured."""
        busy_s = input_tokens / float(card.prefill_tokens_per_s) + output_tokens / float(card.decode_tokens_per_s)
        return cls(1.0 / busy_s, card.source, card.source.startswith("measured"))


@dataclass(frozen=True, slots=True)
class Owner:
    """An architecture with a GPU of its own: USD of hosted calls for a mean request, and the share the GPU works on."""

    name: str
    hosted_usd: float
    gpu_share: float

    @classmethod
    def of(cls, figures: Figures, gpu_routes: Sequence[str] = ("small",)) -> Owner:
        """From a driven run.

        What was wasted counts twice, as hosted money and as the GPU's work: nobody says which it was, and a cascade is
        judged too hard rather than too mildly.
        """
        parts = figures.parts
        hosted_usd = (parts.frontier_usd + parts.cheap_usd + parts.wasted_usd) / 1000.0
        share = sum(figures.shares.get(route, 0.0) for route in gpu_routes)
        again = parts.wasted_usd / parts.gpu_busy_usd if parts.gpu_busy_usd else 0.0
        return cls(figures.name, hosted_usd, share * (1.0 + again))


def table(
    owners: Sequence[Owner],
    alternatives: Mapping[Against, float],
    paid: Sequence[HourPrice],
    capacity: Capacity,
    scales: Sequence[float] = TOKEN_SCALES,
) -> list[BreakEven]:
    """All combinations; `alternatives` is USD a request of all-cheapest-hosted and all-frontier, same requests."""
    return [
        break_even(owner, (against, usd), hour.usd_per_hour, capacity, scale)
        for owner in owners
        for against, usd in alternatives.items()
        for hour in paid
        for scale in scales
    ]


def break_even(
    owner: Owner, alternative: tuple[Against, float], usd_per_hour: float, capacity: Capacity, scale: float = 1.0
) -> BreakEven:
    """The load of all requests, not only of those the GPU answers, above which `owner` is cheaper.

    Raises ValueError where the GPU answers nothing: there is nothing to own it for.
    """
    if owner.gpu_share <= 0:
        raise ValueError(f"{owner.name}: its GPU answers no request")
    against, usd = alternative
    holds_rps = capacity.rps / owner.gpu_share / scale
    saved_usd = (usd - owner.hosted_usd) * scale
    rps: float | None = None
    if saved_usd <= 0:
        note = f"its hosted part alone costs ${1000 * owner.hosted_usd * scale:.3g}/1k, the alternative not more"
    elif (at := usd_per_hour / HOUR_S / saved_usd) > holds_rps:
        full = 1000 * (owner.hosted_usd * scale + usd_per_hour / HOUR_S / holds_rps)
        note = f"one GPU is full before: ${full:.3g}/1k there against ${1000 * usd * scale:.3g}"
    else:
        rps, note = at, "" if capacity.measured else "capacity assumed"
    return BreakEven(owner.name, against, usd_per_hour, rps, holds_rps, scale, note)


def assumptions(paid: Sequence[HourPrice], capacity: Capacity) -> list[str]:
    """What the table rests on, for the run's list."""
    prices = [f"GPU ${hour.usd_per_hour:.2f}/h: {hour.source} ({hour.as_of})" for hour in paid]
    what = "measured" if capacity.measured else "assumed"
    return [
        *prices,
        f"one GPU holds {capacity.rps:.3g} small-tier requests a second ({what}). {capacity.source}",
        "break-even: the GPU's hour is paid whole, hosted parts do not change with load, work is linear in tokens; "
        "disk, bandwidth, boot time and operations are not in it",
    ]

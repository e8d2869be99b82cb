"""Rankings side by side on one set of outcomes: the figures of each, and which differences are more than noise.

Every ranking is measured on the same rows, the same folds and the same resamples, so that a difference is paired. Knows
neither how the scores came about nor how they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from router.curves import Curve, Floats, FoldedRanking, aiq, folded_auroc
from router.folds import Folds
from router.outcomes import Outcomes

RESAMPLES: Final = 1000
MIN_CLUSTERS: Final = 10  # fewer groups than this tell nothing of how groups vary: prompts are resampled instead
MIN_GAP: Final = 0.05  # a ratio to a smaller gap means little


@dataclass(frozen=True, slots=True)
class Interval:
    """95 %, by the percentiles of the bootstrap. NaN where no resample gives a figure."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Interval:
        known = values[~np.isnan(values)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        return cls(float(low), float(high))

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0.0 or self.high < 0.0

    def __str__(self) -> str:
        return f"[{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Figures:
    """One ranking. auroc: of finding the rows where the strong model does better. aiq: over the share of strong calls.
    draws: APGR of each resample."""

    apgr: float
    interval: Interval
    cpt50: float
    cpt80: float
    auroc: float
    aiq: float
    curve: Curve
    draws: Floats = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("apgr", "cpt50", "cpt80", "auroc", "aiq")}
        return {name: rounded(value) for name, value in figures.items()} | {"ci95": _rounded_pair(self.interval)}


@dataclass(frozen=True, slots=True)
class Difference:
    """APGR of one ranking less that of another."""

    value: float
    interval: Interval

    @property
    def verdict(self) -> str:
        if not self.interval.excludes_zero:
            return "no difference shown"
        return "better" if self.value > 0 else "worse"

    def to_json(self) -> dict[str, Any]:
        return {"difference": rounded(self.value), "ci95": _rounded_pair(self.interval), "verdict": self.verdict}


def difference(one: Figures, other: Figures) -> Difference:
    return Difference(one.apgr - other.apgr, Interval.of(one.draws - other.draws))


def clusters_of(outcomes: Outcomes) -> NDArray[np.int64]:
    """What is resampled whole: groups, or, where there are too few of them, prompts."""
    names, groups = np.unique(outcomes.groups, return_inverse=True)
    return np.asarray(groups if len(names) >= MIN_CLUSTERS else outcomes.prompts, np.int64)


def resamples(clusters: NDArray[np.int64], count: int = RESAMPLES, seed: int = 0) -> NDArray[np.int16]:
    """(count, n) weights: how often each row's cluster was drawn."""
    names, index = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    weights: NDArray[np.int16] = drawn.astype(np.int16)[:, index]
    return weights


def compare(
    outcomes: Outcomes, scores: Mapping[str, Floats], folds: Folds | None = None, *, count: int = RESAMPLES
) -> dict[str, Figures]:
    """Figures of each ranking. folds: rank within each fold, for scores fitted on the others; None: over all rows."""
    weights = resamples(clusters_of(outcomes), count)
    weak, strong = outcomes.weak, outcomes.strong
    found = {}
    for name, score in scores.items():
        ranking = FoldedRanking.of(score, folds)
        curve = ranking.curve(weak, strong)
        draws = np.array([ranking.apgr(weak, strong, row.astype(float)) for row in weights])
        found[name] = Figures(
            apgr=curve.apgr(),
            interval=Interval.of(draws) if count else Interval(float("nan"), float("nan")),
            cpt50=curve.cpt(0.5),
            cpt80=curve.cpt(0.8),
            auroc=folded_auroc(score, outcomes.gain > 0.0, folds),
            aiq=aiq(curve.share, curve.quality, 1.0),
            curve=curve,
            draws=draws,
        )
    return found


def setting(outcomes: Outcomes) -> dict[str, Any]:
    """What stands above every table: how good the two models are and what an oracle would do.

    Of scores between 0 and 1 "only one is right" is that it does better; an oracle asks the strong model just there.
    """
    only_strong = float((outcomes.gain > 0.0).mean())
    return {
        "rows": len(outcomes),
        "groups": len(np.unique(outcomes.groups)),
        "pair": asdict(outcomes.pair),
        "always_weak": round(float(outcomes.weak.mean()), 4),
        "always_strong": round(float(outcomes.strong.mean()), 4),
        "only_weak_right": round(float((outcomes.gain < 0.0).mean()), 4),
        "only_strong_right": round(only_strong, 4),
        "oracle_quality": round(float(np.maximum(outcomes.weak, outcomes.strong).mean()), 4),
        "oracle_share": round(only_strong, 4),
        "gap_is_small": bool(abs(outcomes.gain.mean()) < MIN_GAP),
    }


def rounded(value: float) -> float | None:
    """As JSON knows it: no NaN."""
    return None if np.isnan(value) else round(value, 4)


def _rounded_pair(interval: Interval) -> list[float | None]:
    return [rounded(interval.low), rounded(interval.high)]

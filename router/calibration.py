"""From a sample of outcomes and scores to a threshold that keeps a promise, and how sure that promise is.

A promise of quality is kept by the lower end of a confidence interval, not by the estimate: a threshold rises only as
long as even that end would do. A bootstrap knows no loss that its sample has not: where few answers were lost its lower
end is too high, and where none was it is 100 %. So each resample loses Poisson(1) answers more: for rare losses that is
the exact bound (Garwood 1936: the upper end for k seen is a quantile of Gamma(k + 1)).

Knows no files; `calibrate.py` is the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router.curves import Floats
from router.evaluation import Interval, resamples

RESAMPLES: Final = 2000
CUTS: Final = 200  # thresholds looked at: finer would be choosing noise


@dataclass(frozen=True, slots=True)
class Sample:
    """Parallel columns: score (gain), outcomes, costs in USD (None: not known), and what is resampled whole."""

    scores: Floats
    weak: Floats
    strong: Floats
    clusters: NDArray[np.int64]
    costs: tuple[Floats, Floats] | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """What one threshold does on the sample. quality is the mean correctness, kept its ratio to always-strong."""

    threshold: float
    share: float
    quality: float
    kept: float
    kept_interval: Interval
    usd_per_1k: float | None

    def to_json(self) -> dict[str, object]:
        return {
            "threshold": self.threshold,
            "frontier_share": round(self.share, 4),
            "quality": round(self.quality, 4),
            "quality_kept": round(self.kept, 4),
            "quality_kept_ci95": [round(self.kept_interval.low, 4), round(self.kept_interval.high, 4)],
            "usd_per_1k": None if self.usd_per_1k is None else round(self.usd_per_1k, 6),
        }


def points(sample: Sample, *, count: int = RESAMPLES) -> list[Point]:
    """From all-strong to all-weak, in the order of rising threshold.

    Two-sided 95 % intervals from a bootstrap by cluster; their lower end is a one-sided 97.5 % bound.
    """
    draws = _Draws.of(sample, count)
    return [_point(sample, threshold, draws) for threshold in _cuts(sample.scores)]


def at(sample: Sample, threshold: float, *, count: int = RESAMPLES) -> Point:
    """What a threshold chosen elsewhere does on this sample."""
    return _point(sample, threshold, _Draws.of(sample, count))


@dataclass(frozen=True, slots=True)
class _Draws:
    """Resamples, the same for every threshold. weights: (count, n); strong, unseen: (count,), of always-strong's right
    answers and of losses that the sample does not show."""

    weights: NDArray[np.float32]
    strong: NDArray[np.float32]
    unseen: NDArray[np.int64]

    @classmethod
    def of(cls, sample: Sample, count: int) -> _Draws:
        weights = resamples(sample.clusters, count).astype(np.float32)
        unseen = np.random.default_rng(1).poisson(1.0, count)
        return cls(weights, weights @ sample.strong.astype(np.float32), unseen)

    def kept(self, goes_up: NDArray[np.bool_], right: Floats) -> Interval:
        """Of always-strong's right answers. No more are lost unseen than were sent down."""
        strong = np.maximum(self.strong, 1e-9)
        seen = (self.weights @ right.astype(np.float32)) / strong
        unseen = np.minimum(self.unseen, self.weights @ (~goes_up).astype(np.float32)) / strong
        return Interval(Interval.of((seen - unseen).astype(float)).low, Interval.of(seen.astype(float)).high)


def _cuts(scores: Floats) -> list[float]:
    """Midpoints between neighbouring scores: a threshold on a score itself would hang on its last bit."""
    distinct = np.unique(scores)
    middles = (distinct[1:] + distinct[:-1]) / 2
    step = max(1, len(middles) // CUTS)
    ends = [float(distinct[0]) - 1e-6, float(distinct[-1]) + 1e-6]
    return sorted({ends[0], *(float(m) for m in middles[::step]), ends[1]})


def _point(sample: Sample, threshold: float, draws: _Draws) -> Point:
    goes_up = sample.scores >= threshold
    right = np.where(goes_up, sample.strong, sample.weak)
    cost = None
    if sample.costs is not None:
        cost = float(np.where(goes_up, sample.costs[1], sample.costs[0]).mean() * 1000)
    strong = float(sample.strong.mean())
    kept = float(right.mean()) / strong if strong else float("nan")
    return Point(threshold, float(goes_up.mean()), float(right.mean()), kept, draws.kept(goes_up, right), cost)


def by_share(found: list[Point], share: float) -> Point:
    """The lowest threshold that sends no more than this share to the stronger tier."""
    if not 0.0 <= share <= 1.0:
        raise ConfigError("--frontier-share is a part of the requests, 0 to 1")
    return next(point for point in found if point.share <= share + 1e-12)


def by_quality(found: list[Point], kept: float) -> Point:
    """The highest threshold whose lower bound keeps this part of the stronger model's quality, as do all below it.

    Stopping at the first that fails matters: further up, some threshold passes by luck.
    """
    if not 0.0 < kept < 1.0:
        raise ConfigError("--quality is the part of the frontier's quality to keep, between 0 and 1")
    chosen = None
    for point in found:
        if point.kept_interval.low < kept:
            break
        chosen = point
    if chosen is None:
        raise ConfigError(f"no threshold keeps {kept:.1%} of the frontier's quality on this sample")
    return chosen


def by_cost(found: list[Point], usd_per_1k: float) -> Point:
    """The lowest threshold that costs no more, that is, the best quality for the money."""
    affordable = [point for point in found if point.usd_per_1k is not None and point.usd_per_1k <= usd_per_1k]
    if not affordable:
        cheapest = min((point.usd_per_1k for point in found if point.usd_per_1k is not None), default=float("nan"))
        raise ConfigError(f"always-small already costs ${cheapest:.4f} per 1,000 requests, more than ${usd_per_1k:g}")
    return max(affordable, key=lambda point: point.quality)

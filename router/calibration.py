"""From a sample of outcomes and scores to a threshold that keeps a promise, and how sure that promise is.

A promise of quality is kept by the lower end of a confidence interval, not by the estimate: a threshold rises only as
long as even that end would do. Knows no files; `calibrate.py` is the command.
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
    weights = resamples(sample.clusters, count).astype(np.float32)
    strong_sums = weights @ sample.strong.astype(np.float32)
    return [_point(sample, threshold, weights, strong_sums) for threshold in _cuts(sample.scores)]


def at(sample: Sample, threshold: float, *, count: int = RESAMPLES) -> Point:
    """What a threshold chosen elsewhere does on this sample."""
    weights = resamples(sample.clusters, count).astype(np.float32)
    return _point(sample, threshold, weights, weights @ sample.strong.astype(np.float32))


def _cuts(scores: Floats) -> list[float]:
    """Midpoints between neighbouring scores: a threshold on a score itself would hang on its last bit."""
    distinct = np.unique(scores)
    middles = (distinct[1:] + distinct[:-1]) / 2
    step = max(1, len(middles) // CUTS)
    ends = [float(distinct[0]) - 1e-6, float(distinct[-1]) + 1e-6]
    return sorted({ends[0], *(float(m) for m in middles[::step]), ends[1]})


def _point(sample: Sample, threshold: float, weights: NDArray[np.float32], strong_sums: NDArray[np.float32]) -> Point:
    goes_up = sample.scores >= threshold
    right = np.where(goes_up, sample.strong, sample.weak)
    draws = (weights @ right.astype(np.float32)) / np.maximum(strong_sums, 1e-9)
    cost = None
    if sample.costs is not None:
        cost = float(np.where(goes_up, sample.costs[1], sample.costs[0]).mean() * 1000)
    strong = float(sample.strong.mean())
    kept = float(right.mean()) / strong if strong else float("nan")
    return Point(threshold, float(goes_up.mean()), float(right.mean()), kept, Interval.of(draws.astype(float)), cost)


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

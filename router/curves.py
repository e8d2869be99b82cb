"""What a ranking of prompts is worth: quality against the share, or the cost, of strong calls. Pure arithmetic.

Definitions are those of RouteLLM (PGR, APGR, CPT) and RouterBench (AIQ): arXiv 2406.18665, 2403.12031. A curve sends
the highest scores to the strong model first; ties are taken in expectation, so that a constant score is a random mix.
Rows carry weights, which is how a bootstrap resample is written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality (mean correctness) at ascending strong shares; both start at 0 and end at 1. Linear in between."""

    share: Floats
    quality: Floats

    @property
    def weak(self) -> float:
        return float(self.quality[0])

    @property
    def strong(self) -> float:
        return float(self.quality[-1])

    def pgr(self) -> Floats:
        """Performance gap recovered. NaN without a gap."""
        gap = self.strong - self.weak
        return (self.quality - self.weak) / gap if gap else np.full_like(self.quality, np.nan)

    def apgr(self) -> float:
        return float(np.trapezoid(self.pgr(), self.share))

    def cpt(self, recovered: float) -> float:
        """The least strong share that recovers this part of the gap; NaN when none does."""
        return first_crossing(self.share, self.pgr(), recovered)

    def at(self, share: float) -> float:
        return float(np.interp(share, self.share, self.quality))


def first_crossing(x: Floats, y: Floats, level: float) -> float:
    """The least x at which the polyline reaches the level, interpolated; NaN when it never does.

    Sums of many rows miss a level that they reach exactly by their last bits: the next step up would be far off.
    """
    reached = np.flatnonzero(y >= level - 1e-9)
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + min(1.0, (level - y[i - 1]) / (y[i] - y[i - 1])) * (x[i] - x[i - 1]))


@dataclass(frozen=True, slots=True)
class Ranking:
    """One score for each row, sorted once; every resample after that is two cumulative sums.

    order: rows, highest score first. ends: index of the last row of each run of equal scores.
    """

    order: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Floats) -> Ranking:
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        return cls(order, np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)))

    def curve(self, weak: Floats, strong: Floats, weights: Floats | None = None) -> Curve:
        """weights: non-negative, not all 0; None: every row counts once."""
        weight = np.ones(len(weak)) if weights is None else weights
        total = weight.sum()
        share = np.cumsum(weight[self.order])[self.ends] / total
        gained = np.cumsum((weight * (strong - weak))[self.order])[self.ends] / total
        return Curve(np.append(0.0, share), float(weight @ weak / total) + np.append(0.0, gained))


def curve(scores: Floats, weak: Floats, strong: Floats, weights: Floats | None = None) -> Curve:
    return Ranking.of(scores).curve(weak, strong, weights)


@dataclass(frozen=True, slots=True)
class FoldedRanking:
    """A ranking within each fold: scores of models trained on different folds are never compared with each other."""

    rows: Sequence[NDArray[np.int64]]
    rankings: Sequence[Ranking]

    @classmethod
    def of(cls, scores: Floats, folds: NDArray[np.int64] | None = None) -> FoldedRanking:
        """folds: the fold of each row; None: one ranking over all."""
        if folds is None:
            return cls([np.arange(len(scores))], [Ranking.of(scores)])
        rows = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
        return cls(rows, [Ranking.of(scores[r]) for r in rows])

    def curve(self, weak: Floats, strong: Floats, weights: Floats | None = None) -> Curve:
        """The mean of the folds' curves at equal shares, weighted by their rows."""
        weight = np.ones(len(weak)) if weights is None else weights
        curves = [
            (weight[r].sum(), ranking.curve(weak[r], strong[r], weight[r]))
            for r, ranking in zip(self.rows, self.rankings, strict=True)
            if weight[r].sum() > 0
        ]
        if len(curves) == 1:
            return curves[0][1]
        share = np.unique(np.concatenate([found.share for _, found in curves]))
        total = sum(size for size, _ in curves)
        quality = sum(size * np.interp(share, found.share, found.quality) for size, found in curves) / total
        return Curve(share, np.asarray(quality, float))

    def apgr(self, weak: Floats, strong: Floats, weights: Floats) -> float:
        """Of `curve`, without making it: areas add up over folds. The inner loop of the bootstrap."""
        area = gap = 0.0
        for rows, ranking in zip(self.rows, self.rankings, strict=True):
            weight = weights[rows]
            total = weight.sum()
            if total == 0:
                continue
            share = np.append(0.0, np.cumsum(weight[ranking.order])[ranking.ends] / total)
            gained = np.append(0.0, np.cumsum((weight * (strong - weak)[rows])[ranking.order])[ranking.ends])
            area += float(np.trapezoid(gained, share))
            gap += float(gained[-1])
        return area / gap if gap else float("nan")


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive outranks a negative, ties counting half; NaN with only one kind."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not (n_positive and n_negative):
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def folded_auroc(scores: Floats, positive: NDArray[np.bool_], folds: NDArray[np.int64] | None) -> float:
    """Within folds, weighted by their rows; folds with one kind only are left out."""
    if folds is None:
        return auroc(scores, positive)
    found = [(int((folds == f).sum()), auroc(scores[folds == f], positive[folds == f])) for f in np.unique(folds)]
    kept = [(size, value) for size, value in found if not np.isnan(value)]
    return sum(s * v for s, v in kept) / sum(s for s, _ in kept) if kept else float("nan")


def aiq(cost: Floats, quality: Floats, max_cost: float) -> float:
    """RouterBench's average improvement in quality: area under the non-decreasing convex hull, over the largest cost.

    The hull is extended flat to `max_cost`, the largest cost of everything compared: the figure depends on it.
    """
    x, y = upper_hull(cost, quality)
    if x[-1] < max_cost:
        x, y = np.append(x, max_cost), np.append(y, y[-1])
    return float(np.trapezoid(y, x) / max_cost)


def upper_hull(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The least concave, non-decreasing polyline above the points, from the leftmost one on."""
    order = np.lexsort((-y, x))
    hull: list[tuple[float, float]] = []
    for point in zip(x[order].tolist(), y[order].tolist(), strict=True):
        if hull and point[1] <= hull[-1][1]:
            continue  # no better than what costs less
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array([p[0] for p in hull]), np.array([p[1] for p in hull])


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])

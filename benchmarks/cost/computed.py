"""What follows from outcomes alone: rows and curves that need no service, each marked `computed`.

The baselines any router has to beat (one model for all, a random mix of tiers within each task, task and length), the
oracle, and what the learned routers would do at every other threshold. All on the same questions and prices as the rows
that are driven. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost.results import MixPoint
from benchmarks.cost.routers import Candidate, Columns, Learned, Table, route

Floats = NDArray[np.float64]
STEPS: Final = 200


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality against cost, from cheap to dear. `name` is a curve's in the results."""

    name: str
    usd_per_1k: Floats
    quality: Floats

    def usd_at(self, quality: float) -> float | None:
        """The least cost from which on the quality is reached, straight lines between points; None: never."""
        reached = np.flatnonzero(self.quality >= quality - 1e-12)
        if not len(reached):
            return None
        at = int(reached[0])
        if at == 0:
            return float(self.usd_per_1k[0])
        step = self.quality[at] - self.quality[at - 1]
        part = (quality - self.quality[at - 1]) / step if step > 0 else 1.0
        return float(self.usd_per_1k[at - 1] + part * (self.usd_per_1k[at] - self.usd_per_1k[at - 1]))

    def times(self, factor: float) -> Curve:
        """Sums instead of means."""
        return Curve(self.name, self.usd_per_1k * factor, self.quality * factor)

    def points(self, count: int = 60) -> list[MixPoint]:
        places = np.unique(np.linspace(0, len(self.quality) - 1, count).astype(int))
        return [MixPoint(self.name, float(self.usd_per_1k[i]), float(self.quality[i])) for i in places]


def oracle(table: Table) -> Columns:
    """The cheapest tier that is right, else the cheapest: knows every outcome before it is."""
    cost = np.where(table.correct > 0.5, table.usd_per_1k, np.inf)
    hopeless = np.isinf(cost).all(axis=1)
    return np.where(hopeless, table.usd_per_1k.argmin(axis=1), cost.argmin(axis=1)).astype(np.int64)


def best_single(table: Table) -> str:
    """The one model for all with the most right answers; of equals the cheaper."""
    ranked = [(-table.correct[:, i].mean(), table.usd_per_1k[:, i].mean(), t) for i, t in enumerate(table.tiers)]
    return min(ranked)[2]


@dataclass(frozen=True, slots=True)
class Step:
    """Moving a task's questions from one tier to the next dearer worth having; USD and quality in means of all rows."""

    slope: float
    task: str
    tiers: tuple[int, int]
    usd: float
    quality: float


def mix_steps(table: Table, tasks: Sequence[str]) -> tuple[Columns, list[Step]]:
    """Where to begin, and the steps by falling quality for a dollar: the best that knowing all means can give.

    Each task offers the convex hull of its tiers.
    """
    labels = np.array(tasks)
    begin = np.zeros(len(labels), np.int64)
    steps: list[Step] = []
    for task in np.unique(labels):
        rows = labels == task
        weight = float(rows.mean())
        usd, quality = table.usd_per_1k[rows].mean(axis=0), table.correct[rows].mean(axis=0)
        hull = _hull(usd, quality)
        begin[rows] = hull[0]
        for pair in itertools.pairwise(hull):
            more_usd, more = float(usd[pair[1]] - usd[pair[0]]), float(quality[pair[1]] - quality[pair[0]])
            steps.append(Step(more / more_usd, str(task), pair, weight * more_usd, weight * more))
    return begin, sorted(steps, key=lambda step: -step.slope)


def random_mix(table: Table, tasks: Sequence[str]) -> Curve:
    """Tiers mixed at random within each task: straight lines between the ends of `mix_steps`."""
    begin, steps = mix_steps(table, tasks)
    points = np.cumsum([table.at(begin), *((step.usd, step.quality) for step in steps)], axis=0)
    return Curve("random mix within task", points[:, 0], points[:, 1])


def mixed(table: Table, tasks: Sequence[str], quality: float, seed: int) -> Columns:
    """One draw of the random mix that reaches this quality in the mean."""
    labels, rng = np.array(tasks), np.random.default_rng(seed)
    choice, steps = mix_steps(table, tasks)
    missing = quality - table.at(choice)[1]
    for step in steps:
        part = min(1.0, max(0.0, missing / step.quality))
        rows = np.flatnonzero(labels == step.task)
        choice[rng.choice(rows, round(part * len(rows)), replace=False)] = step.tiers[1]
        missing -= step.quality
    return choice


def _hull(usd: Floats, quality: Floats) -> list[int]:
    """Columns: the cheapest tier, then only those that give more, by falling quality for a dollar."""
    hull = [min(range(len(usd)), key=lambda i: (usd[i], -quality[i]))]
    while True:
        last = hull[-1]
        dearer = [i for i in range(len(usd)) if usd[i] > usd[last] and quality[i] > quality[last]]
        if not dearer:
            return hull
        hull.append(max(dearer, key=lambda i: (quality[i] - quality[last]) / (usd[i] - usd[last])))


def ranked(name: str, scores: Floats, fold: NDArray[np.int64], candidate: Candidate, table: Table) -> Curve:
    """A two-tier curve: in each half the same share of the highest scores goes to the stronger tier."""
    return curve(name, [table.at(choice) for choice in top_shares(scores, fold, candidate, table)])


def top_shares(scores: Floats, fold: NDArray[np.int64], candidate: Candidate, table: Table) -> list[Columns]:
    """Choices from none to all for the stronger tier, the highest scores of each half first."""
    weak, strong = table.column(candidate.tiers[0]), table.column(candidate.tiers[-1])
    order = np.empty(len(scores))
    for half in np.unique(fold):
        rows = fold == half
        order[rows] = np.argsort(np.argsort(-scores[rows], kind="stable"), kind="stable") / rows.sum()
    return [np.where(order < share, strong, weak).astype(np.int64) for share in np.linspace(0, 1, STEPS + 1)]


def learned(name: str, routers: Sequence[Learned], fold: NDArray[np.int64], table: Table) -> Curve:
    """What the routers of both halves do on the half each was not learned on, threshold by threshold.

    The halves' scores differ in scale, so each half's threshold is moved in parts of the one it chose in training.
    """
    return curve(name, [table.at(choice) for choice in thresholds(routers, fold, table)])


def thresholds(routers: Sequence[Learned], fold: NDArray[np.int64], table: Table) -> list[Columns]:
    """Choices from the highest threshold to the lowest."""
    halves = _halves(routers, fold, table)
    scales = np.concatenate([np.linspace(8, 1, STEPS), np.linspace(1, -4, STEPS)[1:]])
    return [_routed(halves, float(scale), table) for scale in scales]


def at_chosen(routers: Sequence[Learned], fold: NDArray[np.int64], table: Table) -> Columns:
    """What the routers do at the thresholds they chose in training."""
    return _routed(_halves(routers, fold, table), 1.0, table)


def _halves(routers: Sequence[Learned], fold: NDArray[np.int64], table: Table) -> list[tuple[Learned, Columns, Floats]]:
    """Each router with the rows it may route and its scores of them."""
    places = [np.flatnonzero(fold == half) for half in np.unique(fold)]
    pairs = zip(routers, places, strict=True)
    return [(router, rows, np.array([router.scores[table.ids[i]] for i in rows])) for router, rows in pairs]


def _routed(halves: Sequence[tuple[Learned, Columns, Floats]], scale: float, table: Table) -> Columns:
    choice = np.zeros(len(table.ids), np.int64)
    for router, rows, scores in halves:
        choice[rows] = route(scores, router.chosen.threshold * scale, router.candidate, router.worths, table)
    return choice


def curve(name: str, points: Sequence[tuple[float, float]]) -> Curve:
    """From (cost, quality), in any order."""
    usd, quality = np.array(sorted(points)).T
    return Curve(name, usd, quality)


def shares(choice: Columns, table: Table) -> Mapping[str, float]:
    return {tier: float((choice == i).mean()) for i, tier in enumerate(table.tiers) if (choice == i).any()}

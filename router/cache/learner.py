"""What one entry teaches about itself: above which score its answer may be served.

vCache's per-entry model (Schroeder et al., arXiv 2502.03771, from its formulas) with three changes, for the reasons in
docs/semantic-cache.md:

- **strict gate**: serve only where the lower bound on P(right) reaches 1 - delta. The paper spends its error budget on
  purpose, which bounds wrong answers per request, not per hit.
- **pooled start**: the axis is the pooled prior's logit, and an entry begins as if that prior were right about it,
  give or take `SPREAD`. An entry alone sees too few repeats ever to be sure.
- **quarantine**: one bad label where the prior was confident, and the entry serves no more.

Fitting happens when a label arrives; serving is one comparison with `threshold`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

SPREAD: Final = (0.5, 0.1)  # standard deviation over entries of (offset, slope) around (0, 1), in logits of the prior
_EPSILONS: Final = tuple(float(e) for e in np.geomspace(1e-6, 0.5, 60))
_QUANTILES: Final = tuple(NormalDist().inv_cdf(1.0 - e) for e in _EPSILONS)
_CONFIDENT: Final = math.log(0.9 / 0.1)
_MIN_SLOPE: Final = 1e-6
_MAX_LABELS: Final = 64
_NEVER: Final = math.inf


@dataclass(frozen=True, slots=True)
class Label:
    """One comparison: the prior's logit of the pair, and whether this entry's answer was right."""

    score: float
    right: bool


@dataclass(frozen=True, slots=True)
class EntryHistory:
    """Labels of one entry, newest last, and the score from which on it serves."""

    threshold: float
    labels: tuple[Label, ...] = ()
    quarantined: bool = False


def fresh(delta: float) -> EntryHistory:
    """An entry without labels: the threshold follows from the prior and its spread alone."""
    return EntryHistory(_threshold((), delta))


def learn(history: EntryHistory, label: Label, delta: float) -> EntryHistory:
    """The history with one label more. `delta`: wrong answers per hit that are allowed."""
    labels = (*history.labels, label)[-_MAX_LABELS:]
    if history.quarantined or (not label.right and label.score >= _CONFIDENT):
        return EntryHistory(_NEVER, labels, quarantined=True)
    # Good labels do not speak for scores below the lowest of them: the start may be undercut so far and no farther.
    lowest_good = min((each.score for each in labels if each.right), default=_NEVER)
    return EntryHistory(max(_threshold(labels, delta), min(lowest_good, _threshold((), delta))), labels)


def lower_bound(score: float, labels: tuple[Label, ...]) -> float:
    """alpha: the highest lower bound on P(right) at `score`, over the confidence levels of the grid."""
    midpoint, slope, deviation = _posterior(labels)
    return max(
        (1.0 - epsilon) / (1.0 + math.exp(min(500.0, -slope * (score - midpoint - quantile * deviation))))
        for epsilon, quantile in zip(_EPSILONS, _QUANTILES, strict=True)
    )


def _threshold(labels: tuple[Label, ...], delta: float) -> float:
    """The smallest score whose lower bound reaches 1 - delta: for each epsilon in closed form, then the least."""
    midpoint, slope, deviation = _posterior(labels)
    best = _NEVER
    for epsilon, quantile in zip(_EPSILONS, _QUANTILES, strict=True):
        wanted = (1.0 - delta) / (1.0 - epsilon)
        if wanted < 1.0:
            best = min(best, midpoint + quantile * deviation + math.log(wanted / (1.0 - wanted)) / slope)
    return best


def _posterior(labels: tuple[Label, ...]) -> tuple[float, float, float]:
    """Midpoint, slope and the midpoint's standard deviation (delta method), at the most probable (offset, slope)."""
    scores = np.array([label.score for label in labels])
    right = np.array([float(label.right) for label in labels])
    design = np.column_stack((np.ones(len(labels)), scores))
    precision = np.diag([1.0 / SPREAD[0] ** 2, 1.0 / SPREAD[1] ** 2])
    start = np.array([0.0, 1.0])
    found = start.copy()
    curvature = precision
    for _ in range(50):
        chance = 1.0 / (1.0 + np.exp(-np.clip(design @ found, -30, 30)))
        curvature = (design * (chance * (1.0 - chance))[:, None]).T @ design + precision
        step = np.linalg.solve(curvature, design.T @ (right - chance) - precision @ (found - start))
        found = found + step
        if float(np.abs(step).max()) < 1e-9:
            break
    offset, slope = float(found[0]), max(float(found[1]), _MIN_SLOPE)
    gradient = np.array([-1.0 / slope, offset / slope**2])
    variance = float(gradient @ np.linalg.solve(curvature, gradient))
    return -offset / slope, slope, math.sqrt(max(variance, 0.0))

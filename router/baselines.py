"""The rankings that a learned one has to beat, each given as scores (higher: send to the strong model).

Those that are fitted (task mean, task and length) are fitted on the other folds, as the learned ones are. Knows no
embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from router.folds import Folds
from router.outcomes import Outcomes

Floats = NDArray[np.float64]


def random(outcomes: Outcomes, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random(len(outcomes))


def length(outcomes: Outcomes) -> Floats:
    """Longest prompt first."""
    return outcomes.chars.copy()


def oracle(outcomes: Outcomes) -> Floats:
    """Knows both outcomes: where only the strong model is right first, where only the weak one is last."""
    return outcomes.gain


def task_mean(outcomes: Outcomes, folds: Folds, target: Floats) -> Floats:
    """Mean target of the same group in the other folds; of all their rows, for a group they do not hold."""
    scores = np.empty(len(outcomes))
    groups = np.unique(outcomes.groups, return_inverse=True)[1]
    for fold in np.unique(folds):
        train = folds != fold
        means = group_means(groups[train], target[train], int(groups.max()) + 1)
        scores[~train] = means[groups[~train]]
    return scores


def group_means(groups: NDArray[np.int64], target: Floats, count: int) -> Floats:
    rows = np.bincount(groups, minlength=count)
    sums = np.bincount(groups, weights=target, minlength=count)
    overall = float(target.mean()) if len(target) else 0.0
    return np.where(rows > 0, sums / np.maximum(rows, 1), overall)


def task_and_length(outcomes: Outcomes, folds: Folds) -> Floats:
    """Gain by least squares on the group and the logarithm of the length; one slope, within groups, for all of them."""
    scores = np.empty(len(outcomes))
    groups = np.unique(outcomes.groups, return_inverse=True)[1]
    count = int(groups.max()) + 1
    log_length = np.log1p(outcomes.chars)
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        gain_of = group_means(groups[train], outcomes.gain[train], count)
        length_of = group_means(groups[train], log_length[train], count)
        x = log_length - length_of[groups]
        y = outcomes.gain - gain_of[groups]
        spread = float(x[train] @ x[train])
        slope = float(x[train] @ y[train]) / spread if spread else 0.0
        scores[test] = gain_of[groups[test]] + slope * x[test]
    return scores

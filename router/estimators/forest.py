"""Extremely randomised trees on the cheap features alone (Geurts, Ernst and Wehenkel, 2006).

Features bend where embeddings do not: a threshold on length means another thing for code than for a list of choices.
Grown here rather than by a library, because what is grown must be read by numpy alone, and growing is one page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Arrays, Fitted, Floats, Inputs, Labels

_LEAF: Final = -1.0
_ROWS_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True)
class FittedForest:
    """All trees in one table of nodes. roots: (trees,). feature: that of the split, -1 for a leaf. cut: below it, left.

    left: the node there; the right one is next to it. value: (nodes, 2), means of the rows of a leaf.
    """

    roots: NDArray[np.float32]
    feature: NDArray[np.float32]
    cut: NDArray[np.float32]
    left: NDArray[np.float32]
    value: NDArray[np.float32]

    def predict(self, inputs: Inputs) -> Floats:
        starts = range(0, len(inputs), _ROWS_AT_ONCE)
        blocks = [self._block(inputs.features[i : i + _ROWS_AT_ONCE]) for i in starts]
        return np.concatenate(blocks or [np.empty((0, 2))])

    def _block(self, features: NDArray[np.float32]) -> Floats:
        feature, left = self.feature.astype(np.int64), self.left.astype(np.int64)
        rows = np.arange(len(features))[:, None]
        node = np.repeat(self.roots.astype(np.int64)[None], len(features), axis=0)
        while (inner := feature[node] >= 0).any():
            goes_right = features[rows, np.maximum(feature[node], 0)] >= self.cut[node]
            node = np.where(inner, left[node] + goes_right, node)
        return np.asarray(self.value[node].mean(axis=1, dtype=np.float64))

    def arrays(self) -> Arrays:
        return {name: getattr(self, name) for name in ("roots", "feature", "cut", "left", "value")}


@dataclass(frozen=True, slots=True)
class Forest:
    """tries: features looked at for each split, each with one random cut. The best by variance of the gain is taken."""

    trees: int = 100
    least_rows: int = 20
    tries: int = 10
    seed: int = 0
    name: str = "forest"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        rng = np.random.default_rng(self.seed)
        growing = _Growing(inputs.features, labels.correct, self.least_rows, self.tries, rng)
        return growing.fitted([growing.tree() for _ in range(self.trees)])

    def restore(self, arrays: Arrays) -> Fitted:
        return FittedForest(*(arrays[name] for name in ("roots", "feature", "cut", "left", "value")))


class _Growing:
    def __init__(
        self, features: NDArray[np.float32], correct: Floats, least_rows: int, tries: int, rng: np.random.Generator
    ) -> None:
        self._features = features
        self._correct = correct
        self._gain = correct[:, 1] - correct[:, 0]
        self._least_rows = least_rows
        self._tries = tries
        self._rng = rng
        self._feature: list[float] = []
        self._cut: list[float] = []
        self._left: list[float] = []
        self._value: list[tuple[float, float]] = []

    def tree(self) -> int:
        """The number of its root."""
        root = self._leaf(np.arange(len(self._gain)))
        waiting = [(root, np.arange(len(self._gain)))]
        while waiting:
            node, rows = waiting.pop()
            split = self._split(rows)
            if split is None:
                continue
            feature, cut = split
            goes_right = self._features[rows, feature] >= cut
            sides = (rows[~goes_right], rows[goes_right])
            self._feature[node], self._cut[node], self._left[node] = float(feature), cut, float(len(self._feature))
            self._value[node] = (0.0, 0.0)
            waiting += [(self._leaf(side), side) for side in sides]
        return root

    def _leaf(self, rows: NDArray[np.int64]) -> int:
        weak, strong = self._correct[rows].mean(axis=0)
        self._feature.append(_LEAF)
        self._cut.append(0.0)
        self._left.append(0.0)
        self._value.append((float(weak), float(strong)))
        return len(self._feature) - 1

    def _split(self, rows: NDArray[np.int64]) -> tuple[int, float] | None:
        if len(rows) < 2 * self._least_rows:
            return None
        looked_at = self._features[rows]
        low, high = looked_at.min(axis=0), looked_at.max(axis=0)
        varying = np.flatnonzero(high > low)
        if not len(varying):
            return None
        tried = self._rng.permutation(varying)[: self._tries]
        cuts = (low[tried] + self._rng.random(len(tried)) * (high[tried] - low[tried])).astype(np.float32)
        right = looked_at[:, tried] >= cuts
        counts = right.sum(axis=0)
        gain = self._gain[rows]
        sums = gain @ right
        fits = (counts >= self._least_rows) & (len(rows) - counts >= self._least_rows)
        if not fits.any():
            return None
        explained = sums**2 / np.maximum(counts, 1) + (gain.sum() - sums) ** 2 / np.maximum(len(rows) - counts, 1)
        best = int(np.where(fits, explained, -np.inf).argmax())
        return int(tried[best]), float(cuts[best])

    def fitted(self, roots: Sequence[int]) -> FittedForest:
        columns = (roots, self._feature, self._cut, self._left, self._value)
        return FittedForest(*(np.array(column, np.float32) for column in columns))

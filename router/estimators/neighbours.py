"""k nearest neighbours by cosine, the simplest router that is hard to beat (arXiv 2505.12601)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Arrays, Fitted, Floats, Inputs, Labels

_ROWS_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class FittedNeighbours:
    """vectors: (n, dim). correct: (n, 2)."""

    vectors: NDArray[np.float32]
    correct: NDArray[np.float32]
    k: int

    def predict(self, inputs: Inputs) -> Floats:
        starts = range(0, len(inputs), _ROWS_AT_ONCE)
        blocks = [self._block(inputs.vectors[i : i + _ROWS_AT_ONCE]) for i in starts]
        return np.concatenate(blocks or [np.empty((0, 2))])

    def _block(self, queries: NDArray[np.float32]) -> Floats:
        k = min(self.k, len(self.vectors))
        nearest = np.argpartition(-(queries @ self.vectors.T), k - 1, axis=1)[:, :k]
        found: Floats = self.correct[nearest].mean(axis=1, dtype=np.float64)
        return found

    def arrays(self) -> Arrays:
        return {"vectors": self.vectors, "correct": self.correct}


@dataclass(frozen=True, slots=True)
class Neighbours:
    """All k count alike: weights that fall off with distance were tried and were worse."""

    k: int = 100
    name: str = "knn"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        stored = inputs.vectors.astype(np.float16).astype(np.float32)  # as an artifact keeps them
        return FittedNeighbours(stored, labels.correct.astype(np.float32), self.k)

    def restore(self, arrays: Arrays) -> Fitted:
        return FittedNeighbours(arrays["vectors"], arrays["correct"], self.k)

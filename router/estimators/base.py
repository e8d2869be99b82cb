"""What every estimator is: from an embedding and cheap features to the chance that each of two models is right.

Fitting happens offline; what is fitted predicts with numpy alone. Knows no files and no thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.float32]]

FEATURE_SCALE = 0.1
"""Standardised features have length √36 beside an embedding of length one: scaled, neither drowns the other."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """vectors: (n, dim), rows of length one. features: (n, len(features.NAMES))."""

    vectors: NDArray[np.float32]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Inputs:
        return Inputs(self.vectors[rows], self.features[rows])


@dataclass(frozen=True, slots=True)
class Labels:
    """correct: (n, 2), weak and strong, each in 0..1. groups: (n,), the number of each row's group."""

    correct: Floats
    groups: NDArray[np.int64]

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Labels:
        return Labels(self.correct[rows], self.groups[rows])


class Fitted(Protocol):
    """Picklable by its `arrays` alone: `Estimator.restore(arrays)` predicts the same."""

    def predict(self, inputs: Inputs) -> Floats:
        """(n, 2): how likely the weak and the strong model are right. Not clipped; the difference is the gain."""
        ...

    def arrays(self) -> Arrays: ...


class Estimator(Protocol):
    @property
    def name(self) -> str: ...

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted: ...

    def restore(self, arrays: Arrays) -> Fitted:
        """From `Fitted.arrays`. Raises KeyError or ValueError for arrays of another kind."""
        ...


@dataclass(frozen=True, slots=True)
class Scaler:
    """Standardises features; one that never varied in training counts for nothing afterwards."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> Scaler:
        spread = features.std(axis=0)
        scale = np.where(spread > 1e-6, FEATURE_SCALE / np.maximum(spread, 1e-6), 0.0)
        return cls(features.mean(axis=0).astype(np.float32), scale.astype(np.float32))

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clipped at four standard deviations: what training never saw must not carry a score away."""
        scaled = (features - self.mean) * self.scale
        clipped: NDArray[np.float32] = np.clip(scaled, -4 * FEATURE_SCALE, 4 * FEATURE_SCALE)
        return clipped

    def joined(self, inputs: Inputs) -> NDArray[np.float32]:
        """(n, dim + features)."""
        return np.concatenate([inputs.vectors, self.apply(inputs.features)], axis=1)


def solve_ridge(design: Floats, target: Floats, penalty: float) -> Floats:
    """Least squares with an L2 penalty; `design` and `target` are centred."""
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += penalty
    return np.asarray(np.linalg.solve(gram, design.T @ target), np.float64)

"""Kernel ridge regression on embedding and features, made small by Nyström's method: a few hundred landmarks.

Unlike a linear probe it can bend, unlike kNN it keeps no training prompt: what is stored are centroids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Arrays, Fitted, Floats, Inputs, Labels, Scaler, solve_ridge
from router.estimators.clusters import spherical_kmeans

_JITTER: Final = 1e-3
_ROWS_AT_ONCE: Final = 2048


@dataclass(frozen=True, slots=True)
class FittedKernel:
    """landmarks: (m, dim + features). weights: (m, 2). bias: (2,)."""

    scaler: Scaler
    landmarks: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    gamma: float

    def predict(self, inputs: Inputs) -> Floats:
        joined = self.scaler.joined(inputs)
        blocks = [joined[i : i + _ROWS_AT_ONCE] for i in range(0, len(joined), _ROWS_AT_ONCE)]
        parts = [rbf(block, self.landmarks, self.gamma) @ self.weights + self.bias for block in blocks]
        return np.asarray(np.concatenate(parts or [np.empty((0, 2))]), np.float64)

    def arrays(self) -> Arrays:
        return {
            "mean": self.scaler.mean,
            "scale": self.scaler.scale,
            "landmarks": self.landmarks,
            "weights": self.weights,
            "bias": self.bias,
        }


def rbf(rows: NDArray[np.float32], landmarks: NDArray[np.float32], gamma: float) -> NDArray[np.float32]:
    """(n, m) of exp(-gamma ‖row - landmark‖²)."""
    squares = (rows**2).sum(axis=1)[:, None] + (landmarks**2).sum(axis=1)[None] - 2.0 * rows @ landmarks.T
    kernel: NDArray[np.float32] = np.exp(-np.float32(gamma) * np.maximum(squares, 0.0))
    return kernel


@dataclass(frozen=True, slots=True)
class Kernel:
    landmarks: int = 400
    gamma: float = 1.0
    penalty: float = 10.0
    name: str = "kernel"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        scaler = Scaler.fit(inputs.features)
        joined = scaler.joined(inputs)
        landmarks = spherical_landmarks(joined, self.landmarks)
        root = _inverse_root(rbf(landmarks, landmarks, self.gamma).astype(np.float64))
        design = rbf(joined, landmarks, self.gamma).astype(np.float64) @ root
        centre, mean = design.mean(axis=0), labels.correct.mean(axis=0)
        inner = solve_ridge(design - centre, labels.correct - mean, self.penalty)
        weights, bias = root @ inner, mean - centre @ inner
        return FittedKernel(scaler, landmarks, weights.astype(np.float32), bias.astype(np.float32), self.gamma)

    def restore(self, arrays: Arrays) -> Fitted:
        scaler = Scaler(arrays["mean"], arrays["scale"])
        return FittedKernel(scaler, arrays["landmarks"], arrays["weights"], arrays["bias"], self.gamma)


def spherical_landmarks(joined: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Centroids by direction, given back the mean length of the rows: the embedding's part alone has length one."""
    lengths = np.linalg.norm(joined, axis=1, keepdims=True)
    centroids = spherical_kmeans(joined / lengths, count)
    stored = (centroids * lengths.mean()).astype(
        np.float16
    )  # as an artifact keeps them: the weights are solved for these
    return np.asarray(stored, np.float32)


def _inverse_root(kernel: Floats) -> Floats:
    values, vectors = np.linalg.eigh(kernel + _JITTER * np.eye(len(kernel)))
    return np.asarray((vectors / np.sqrt(np.maximum(values, _JITTER))) @ vectors.T, np.float64)

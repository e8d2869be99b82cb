"""Linear probes on embedding and features: least squares, and two logistic heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Arrays, Fitted, Floats, Inputs, Labels, Scaler, solve_ridge

_NEWTON_STEPS: Final = 15
_CONVERGED: Final = 1e-4


@dataclass(frozen=True, slots=True)
class FittedLinear:
    """weights: (dim + features, 2). bias: (2,)."""

    scaler: Scaler
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    logistic: bool

    def predict(self, inputs: Inputs) -> Floats:
        margin = (self.scaler.joined(inputs) @ self.weights + self.bias).astype(np.float64)
        return sigmoid(margin) if self.logistic else margin

    def arrays(self) -> Arrays:
        return {"mean": self.scaler.mean, "scale": self.scaler.scale, "weights": self.weights, "bias": self.bias}


def _restore(arrays: Arrays, logistic: bool) -> FittedLinear:
    return FittedLinear(Scaler(arrays["mean"], arrays["scale"]), arrays["weights"], arrays["bias"], logistic)


@dataclass(frozen=True, slots=True)
class Ridge:
    """Both heads by least squares with one penalty: their difference is exactly the ridge regression of the gain."""

    penalty: float = 100.0
    name: str = "ridge"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        scaler = Scaler.fit(inputs.features)
        design = scaler.joined(inputs).astype(np.float64)
        centre, mean = design.mean(axis=0), labels.correct.mean(axis=0)
        weights = solve_ridge(design - centre, labels.correct - mean, self.penalty)
        bias = mean - centre @ weights
        return FittedLinear(scaler, weights.astype(np.float32), bias.astype(np.float32), logistic=False)

    def restore(self, arrays: Arrays) -> Fitted:
        return _restore(arrays, logistic=False)


@dataclass(frozen=True, slots=True)
class Logistic:
    """P(weak right) and P(strong right), each a logistic regression with an L2 penalty, by Newton's method."""

    penalty: float = 20.0
    name: str = "logistic"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        scaler = Scaler.fit(inputs.features)
        joined = scaler.joined(inputs).astype(np.float64)
        design = np.concatenate([joined, np.ones((len(joined), 1))], axis=1)
        heads = np.stack([fit_logistic(design, target, self.penalty) for target in labels.correct.T], axis=1)
        return FittedLinear(scaler, heads[:-1].astype(np.float32), heads[-1].astype(np.float32), logistic=True)

    def restore(self, arrays: Arrays) -> Fitted:
        return _restore(arrays, logistic=True)


def fit_logistic(design: Floats, target: Floats, penalty: float) -> Floats:
    """By Newton's method. design: (n, d), its last column ones. Weights, the last of them the bias, which is all but
    free of the penalty."""
    penalties = np.full(design.shape[1], penalty)
    penalties[-1] = 1e-3
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = sigmoid(design @ weights)
        gradient = design.T @ (chance - target) + penalties * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(penalties)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < _CONVERGED:
            break
    return weights


def sigmoid(margin: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * margin))

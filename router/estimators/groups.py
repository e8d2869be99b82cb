"""Group means without the group: which known group a prompt belongs to, and how often each model was right there.

The lookup by group is a hard baseline, but a request does not say its group. Linear discriminants on embedding and
features guess it; the groups' means are then mixed by how likely each group is. What features say within a group (a
longer question is a harder one) is one ridge regression on their deviations from the group's means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Arrays, Fitted, Floats, Inputs, Labels, Scaler, solve_ridge

LEAST_SPREAD: Final = 1e-3  # of groups that hold one prompt each: without any spread nothing could be solved


@dataclass(frozen=True, slots=True)
class FittedGroups:
    """g groups. weights: (dim + features, g). bias: (1, g). correct: (g, 2), shrunk towards the overall mean.

    usual: (g, features), the groups' mean features. slopes: (features, 2).
    """

    scaler: Scaler
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    correct: NDArray[np.float32]
    usual: NDArray[np.float32]
    slopes: NDArray[np.float32]

    def predict(self, inputs: Inputs) -> Floats:
        margin = self.scaler.joined(inputs) @ self.weights + self.bias
        likely = np.exp(margin - margin.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        unusual = self.scaler.apply(inputs.features) - likely @ self.usual
        return np.asarray(likely @ self.correct + unusual @ self.slopes, np.float64)

    def arrays(self) -> Arrays:
        scaler = {"mean": self.scaler.mean, "scale": self.scaler.scale}
        means = {"correct": self.correct, "usual": self.usual, "slopes": self.slopes}
        return scaler | means | {"weights": self.weights, "bias": self.bias}


@dataclass(frozen=True, slots=True)
class Groups:
    """shrinkage: of the shared covariance towards a sphere. sharpness: below 1, a guess is trusted less than it says.

    prior_rows: a group of so many rows lies halfway between its own mean and that of all. penalty: of the slopes.
    """

    shrinkage: float = 0.5
    sharpness: float = 0.25
    prior_rows: float = 10.0
    penalty: float = 100.0
    name: str = "groups"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        scaler = Scaler.fit(inputs.features)
        joined = scaler.joined(inputs).astype(np.float64)
        member = np.unique(labels.groups, return_inverse=True)[1]
        rows = np.bincount(member).astype(float)[:, None]
        overall = labels.correct.mean(axis=0)
        means = (_sums(member, labels.correct) + self.prior_rows * overall) / (rows + self.prior_rows)
        centres = _sums(member, joined) / rows
        deviation = joined - centres[member]
        discriminants = self._discriminants(deviation, centres, rows / len(joined))
        first = inputs.vectors.shape[1]
        slopes = solve_ridge(deviation[:, first:], labels.correct - means[member], self.penalty)
        fitted = [*discriminants, means, centres[:, first:], slopes]
        return FittedGroups(scaler, *(part.astype(np.float32) for part in fitted))

    def _discriminants(self, deviation: Floats, centres: Floats, frequency: Floats) -> tuple[Floats, Floats]:
        covariance = deviation.T @ deviation / len(deviation)
        sphere = np.eye(len(covariance)) * max(np.trace(covariance) / len(covariance), LEAST_SPREAD)
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * sphere
        weights = np.linalg.solve(shrunk, centres.T)
        bias = np.log(frequency.T) - 0.5 * (centres * weights.T).sum(axis=1)
        return self.sharpness * weights, self.sharpness * bias

    def restore(self, arrays: Arrays) -> Fitted:
        scaler = Scaler(arrays["mean"], arrays["scale"])
        rest = [arrays[name] for name in ("weights", "bias", "correct", "usual", "slopes")]
        return FittedGroups(scaler, *rest)


def _sums(member: NDArray[np.int64], values: Floats) -> Floats:
    """(groups, columns)."""
    return np.stack([np.bincount(member, column) for column in values.T], axis=1)

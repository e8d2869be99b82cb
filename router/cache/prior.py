"""What is known of a pair before its entry has a history: P(cached answer right | cosine, what the gates saw).

One logistic model pooled over all entries, fitted on labelled pairs, never decreasing in cosine. Its logit is the score
that each entry's own learner (`learner.py`) starts from.
Knows no encoder: it is given cosines, and an artifact says whose they were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError

FEATURES: Final = ("similarity", "passed")
_SIGNS: Final = (1, 1)  # the direction a coefficient must have
_MAX_STEPS: Final = 200
_MAX_STEP: Final = 2.0  # a whole Newton step overshoots where the labels separate
_TINY: Final = 1e-9
Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prior:
    """Coefficients by feature, for features as they come (not standardised)."""

    intercept: float
    coefficients: dict[str, float]

    def score(self, features: Sequence[float]) -> float:
        """The logit of P(right)."""
        return self.intercept + sum(self.coefficients[n] * x for n, x in zip(FEATURES, features, strict=True))

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Prior:
        """Raises ConfigError on anything but what `to_json` writes."""
        try:
            raw = json.loads(data)
            prior = cls(float(raw["intercept"]), {name: float(raw["coefficients"][name]) for name in FEATURES})
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"not a cache prior: {exc!r}") from exc
        if not all(math.isfinite(value) for value in (prior.intercept, *prior.coefficients.values())):
            raise ConfigError("not a cache prior: a coefficient is no number")
        return prior


def probability(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-500.0, min(500.0, score))))


def features(similarity: float, passed: bool) -> tuple[float, ...]:
    """In the order of `FEATURES`: cosine, and whether all gates let the pair pass."""
    return (similarity, float(passed))


def fit(rows: Matrix, right: Matrix) -> Prior:
    """Logistic regression with Jeffreys' prior (Firth 1993): finite where the labels separate, and then no surer than
    so many pairs allow (0 wrong of n gives odds of about 2n to 1). `rows`: (n, features); `right`: (n,).

    A coefficient with the wrong sign is held at zero and the rest fitted again, so the result is monotone by
    construction. Raises ValueError where one of the two labels is missing.
    """
    if right.min() == right.max():
        raise ValueError("only one kind of label: needs pairs that are the same and pairs that are not")
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    free = spread > 1e-9
    slopes = np.zeros(rows.shape[1])
    while True:
        solution = _newton((rows[:, free] - mean[free]) / spread[free], right)
        slopes[:] = 0.0
        slopes[free] = solution[1:] / spread[free]
        wrong = np.array(_SIGNS) * slopes < 0
        if not wrong.any():
            return Prior(float(solution[0] - slopes @ mean), dict(zip(FEATURES, map(float, slopes), strict=True)))
        free &= ~wrong


def _newton(design: Matrix, right: Matrix) -> Matrix:
    full = np.column_stack((np.ones(len(design)), design))
    solution = np.zeros(full.shape[1])
    for _ in range(_MAX_STEPS):
        chance = 1.0 / (1.0 + np.exp(-np.clip(full @ solution, -30, 30)))
        weighted = full * np.sqrt(chance * (1 - chance))[:, None]
        inverse = np.linalg.inv(weighted.T @ weighted + _TINY * np.eye(full.shape[1]))
        leverage = np.einsum("ij,jk,ik->i", weighted, inverse, weighted)
        step = inverse @ (full.T @ (right - chance + leverage * (0.5 - chance)))
        largest = float(np.abs(step).max())
        solution = solution + step * min(1.0, _MAX_STEP / max(largest, _TINY))
        if largest < 1e-7:
            break
    return solution

"""The baseline as a member: a longer prompt gains more, by one line through the logarithm of its length.

Two numbers for each head cannot overfit. Where nothing else that can be read from a prompt tells, within one kind of
task, the stack is then no worse than the length is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Arrays, Fitted, Floats, Inputs, Labels

_LOG_CHARS: Final = 0  # the first of `features.NAMES`, and of every artifact's
_LEAST_SPREAD: Final = 1e-6


@dataclass(frozen=True, slots=True)
class FittedLine:
    """slope, bias: (2,)."""

    slope: NDArray[np.float32]
    bias: NDArray[np.float32]

    def predict(self, inputs: Inputs) -> Floats:
        length = inputs.features[:, _LOG_CHARS, None].astype(np.float64)
        return np.asarray(length * self.slope + self.bias, np.float64)

    def arrays(self) -> Arrays:
        return {"slope": self.slope, "bias": self.bias}


@dataclass(frozen=True, slots=True)
class Line:
    name: str = "line"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        length = inputs.features[:, _LOG_CHARS].astype(np.float64)
        deviation, mean = length - length.mean(), labels.correct.mean(axis=0)
        slope = deviation @ (labels.correct - mean) / max(_LEAST_SPREAD, float(deviation @ deviation))
        bias = mean - length.mean() * slope
        return FittedLine(slope.astype(np.float32), bias.astype(np.float32))

    def restore(self, arrays: Arrays) -> Fitted:
        return FittedLine(arrays["slope"], arrays["bias"])

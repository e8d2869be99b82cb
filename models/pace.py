"""How long an answer of one backend takes at the load it has: a line through its last answers, seconds over load.

A continuous-batching engine answers one request hardly faster than ten, and far faster than a hundred: neither a mean
nor a rule of three says how it takes the next. Knows no requests; times come from whoever measured them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

WEIGHT: Final = 0.05  # of the newest answer: some twenty of them count
LEAST_ANSWERS: Final = 10
FORGOTTEN_AFTER_S: Final = 30.0  # whoever is avoided for being slow gives no evidence that it no longer is
LONGER_THAN_GIVEN: Final = 1.1  # what a cut-off answer would have taken over what it was given: a guess, at the least
LEAST_SPREAD: Final = 1.0  # variance of the load below which no slope can be told


@dataclass(slots=True)
class Pace:
    """Exponentially weighted least squares of seconds on the number in flight."""

    now: Callable[[], float] = monotonic
    _answers: int = 0
    _heard_s: float = float("-inf")
    _load: float = 0.0
    _seconds: float = 0.0
    _load_squared: float = 0.0
    _product: float = 0.0

    def answered(self, seconds: float, in_flight: int) -> None:
        """in_flight: how many the backend worked on when this one began, itself included."""
        self._heard_s = self.now()
        self._answers += 1
        weight = max(WEIGHT, 1 / self._answers)  # a plain mean at first
        for name, value in (
            ("_load", in_flight),
            ("_seconds", seconds),
            ("_load_squared", in_flight**2),
            ("_product", in_flight * seconds),
        ):
            setattr(self, name, getattr(self, name) + weight * (value - getattr(self, name)))

    def given_up(self, seconds: float, in_flight: int) -> None:
        """The deadline came first. Evidence while there is little, and where so long was not expected: without it a
        backend that is in time for nobody would never be known to be late."""
        least_s = seconds * LONGER_THAN_GIVEN
        if self._answers < LEAST_ANSWERS or least_s > self._line(in_flight):
            self.answered(least_s, in_flight)

    def expected_s(self, in_flight: int) -> float | None:
        """Of one more request beside so many. None while there is too little recent evidence."""
        if self._answers < LEAST_ANSWERS or self.now() - self._heard_s > FORGOTTEN_AFTER_S:
            return None
        return self._line(in_flight + 1)

    def _line(self, in_flight: int) -> float:
        spread = self._load_squared - self._load**2
        slope = (self._product - self._load * self._seconds) / spread if spread >= LEAST_SPREAD else 0.0
        # Load never makes an answer faster, and no answer is faster than none.
        return max(0.0, self._seconds + max(0.0, slope) * (in_flight - self._load))

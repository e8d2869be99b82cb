"""A circuit breaker for one backend: closed, open, half open with a single probe (Nygard, "Release It!", 2007).

Failures are counted consecutively: a backend that answers now and then is kept, because a retry or another backend
covers single failures, while one that answers nobody is found after few calls. The caller's own errors never count.
Where nobody is there (`NotUp`), whom to leave alone has gone: the next one begins with a clean slate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from models.errors import FarthingError, NotUp, Overloaded, UpstreamError

CLOSED, HALF_OPEN, OPEN = "closed", "half_open", "open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`cool_down_s` is for what will not mend by itself soon: a rejected key, exhausted credit."""

    failures: int = 5
    open_s: float = 10.0
    cool_down_s: float = 300.0


class Breaker:
    """`changed` is told every new state."""

    def __init__(
        self, policy: BreakerPolicy, changed: Callable[[str], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy, self._changed, self._clock_s = policy, changed, clock_s
        self._state = CLOSED
        self._failures = 0
        self._until_s = 0.0
        self._probing = False
        self._busy_until_s = 0.0

    @property
    def state(self) -> str:
        if self._state == OPEN and self._clock_s() >= self._until_s:
            self._enter(HALF_OPEN)
        return self._state

    def allows(self) -> bool:
        """Whether a call may be made now; `began` must follow if it is."""
        if self._clock_s() < self._busy_until_s:
            return False
        state = self.state
        return state == CLOSED or (state == HALF_OPEN and not self._probing)

    def wait_s(self) -> float:
        """Seconds until a call may be tried."""
        until_s = max(self._busy_until_s, self._until_s if self._state == OPEN else 0.0)
        return max(0.0, until_s - self._clock_s())

    def began(self) -> None:
        self._probing = self.state == HALF_OPEN

    def succeeded(self) -> None:
        self._probing = False
        self._failures = 0
        if self._state != CLOSED:
            self._enter(CLOSED)

    def abandoned(self) -> None:
        """The call was given up by us: it says nothing of the backend, but a probe may be made again."""
        self._probing = False

    def failed(self, error: FarthingError) -> None:
        was_probe, self._probing = self._probing, False
        if not isinstance(error, UpstreamError):
            self.succeeded()  # it answered, and with judgement
        elif isinstance(error, NotUp) or isinstance(error.__cause__, NotUp):  # the cause: of a stream that was cut
            self.succeeded()
        elif error.cools_down:
            self._open(self._policy.cool_down_s)
        elif isinstance(error, Overloaded):
            # Alive and saying when to come back: believed, but no failure.
            self._busy_until_s = self._clock_s() + (error.retry_after_s or 0.0)
            if was_probe:
                self._enter(CLOSED)
        else:
            self._failures += 1
            if was_probe or self._failures >= self._policy.failures:
                self._open(self._policy.open_s)

    def _open(self, seconds: float) -> None:
        self._until_s = self._clock_s() + seconds
        self._enter(OPEN)

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._changed(state)

"""Whether this replica takes one more request: how many it answers at once, and whether the service is stopping."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import Overloaded

LOOK_EVERY_S = 0.1


@dataclass(slots=True)
class Capacity:
    """One per gateway replica. Who enters counts from then on, also while it is being refused."""

    max_in_flight: int
    draining_file: Path
    in_flight: int = 0
    _drains: bool = False
    _look_again_s: float = 0.0

    @contextmanager
    def entered(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def check(self) -> None:
        """Raises Overloaded, with the seconds after which to ask again."""
        if self.in_flight > self.max_in_flight:
            raise Overloaded("this gateway serves as many requests as it may; try again shortly", retry_after_s=1.0)
        if self.draining():
            raise Overloaded("this service is stopping; ask again when it is back", retry_after_s=30.0)

    def draining(self) -> bool:
        """Looked up a few times a second: a look is a system call, and a request costs few."""
        now_s = time.monotonic()
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + LOOK_EVERY_S
            self._drains = self.draining_file.exists()
        return self._drains

"""One admitted request on its way, and the two things its caller gets: how the answer began and how it ended.

Pure data, shared by the steps of a request's life. Knows no step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from models.errors import FarthingError, NotCached
from models.types import Deadline, Json, Usage
from router.decision import Decision, Lookup, Recalled
from serving.flights import Subscription
from serving.ledger.keys import ApiKey
from serving.ledger.row import Row
from serving.tiers import Target
from serving.wire.assemble import assemble
from serving.wire.options import CacheMode
from serving.wire.request import Asked


@dataclass(slots=True)
class Job:
    """One admitted request on its way: what was asked, what it may use, and its row."""

    asked: Asked
    row: Row
    deadline: Deadline
    target: Target
    started_s: float
    key: ApiKey
    cache_use: CacheMode = "semantic"
    cache_key: bytes | None = None
    lookup: Lookup | None = None  # where an answer may be found by meaning
    epoch: int = 0
    decision: Decision | None = None
    outcome: Outcome | None = None  # as this request's own caller got it
    failure: FarthingError | None = None

    @property
    def reads_cache(self) -> bool:
        return self.cache_use not in ("bypass", "off")

    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.started_s) * 1000

    def allow_miss(self) -> None:
        """Raises NotCached for a caller who wanted an answer from the cache or none."""
        if self.cache_use == "only":
            raise NotCached("no stored answer fits this request, and farthing.cache 'only' forbids asking a model")


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known when the first content is there; it goes into the headers."""

    route: str
    model: str
    reason: str
    streamed: bool
    hit: Recalled | None = None  # the stored answer that is given instead


@dataclass(slots=True)
class Outcome:
    """A finished answer: a body or the stream it came in, with its usage and what it cost."""

    opening: Opening
    usage: Usage
    cost_nusd: int
    body: Json | None = None
    events: bytes = b""

    def whole(self) -> Json | None:
        """The answer as one body, put together from the stream if it came as one."""
        if self.body is None:
            self.body = assemble(self.events)
        return self.body


Answer = Subscription[Opening, Outcome]

"""The ledger's side of allowances: what each key, tenant and the whole deployment may still spend, start and run.

One `Grants` lives in the ledger process and hands out small leases to gateway replicas (`allowance.py`). Money is not
counted from what replicas claim to have spent: it is the ledger's own rows of the UTC day plus what replicas hold
(leased, reserved, or settled but not yet in the rows). A replica states all it holds in every request, so a lost
answer, a late request or a restart of this process correct themselves. Pure: no database, no transport, clocks given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from serving.ledger.keys import Limits
from serving.ledger.store import DAY_MS, Spend, epoch_ms
from serving.ledger.writer import IngestStats

LEASE_TTL_S = 5.0  # what a replica has not spent of a lease is void this long after it last heard from the ledger
HOLD_S = 900.0  # a silent replica's reservations count this long, unless its journal shows earlier that it is dead
_SHARE = 16  # a lease takes at most this part of what is left, or what is needed now

Scope = tuple[str, str]  # ("key", id) | ("tenant", name) | ("deployment", "")


class Amounts(NamedTuple):
    """The four things that are limited."""

    nusd: int = 0
    parallel: int = 0
    requests: int = 0
    tokens: int = 0

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Amounts) -> Amounts:
        return Amounts(*(a - b for a, b in zip(self, other, strict=True)))

    def covers(self, need: Amounts) -> bool:
        """Whether all that is needed is there. What is not needed does not matter, a debt there included."""
        return all(b <= 0 or a >= b for a, b in zip(self, need, strict=True))


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class Budgets:
    """What may be spent a UTC day on hosted models, beside each key's own limit. None: no limit."""

    deployment_nusd_per_day: int | None = None
    tenant_nusd_per_day: Mapping[str, int] = field(default_factory=dict)

    def limits(self, key_id: str, tenant: str, key_nusd_per_day: int | None) -> list[tuple[Scope, int]]:
        """The limits in force for a key, the narrowest scope first."""
        every = [
            (("key", key_id), key_nusd_per_day),
            (("tenant", tenant), self.tenant_nusd_per_day.get(tenant)),
            (("deployment", ""), self.deployment_nusd_per_day),
        ]
        return [(scope, limit) for scope, limit in every if limit is not None]


@dataclass(frozen=True, slots=True)
class Ask:
    """For one key: what is held (money, slots), handed back (requests, tokens; negative: a debt) and wanted."""

    key_id: str
    tenant: str
    limits: Limits
    held: Amounts = NOTHING
    back: Amounts = NOTHING
    want: Amounts = NOTHING


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """`replica` is its journal's `owner`; `number` rises with every request, so that a late one is told apart. `whole`
    says that the asks tell of everything the replica holds."""

    replica: str
    number: int
    asks: tuple[Ask, ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What one key got, and what is left of its limits. `blocked_by` names the scope that had no money."""

    granted: Amounts = NOTHING
    left: Amounts = NOTHING
    blocked_by: str = ""
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Lease:
    """Grants in the order asked; rows whose journal line was written before `ingested_ms` are in the ledger."""

    grants: tuple[Grant, ...]
    ingested_ms: int


@dataclass(slots=True)
class Bucket:
    """Tokens that drip in over a minute; a whole minute's worth at most."""

    per_minute: int
    level: float
    at_s: float

    def fill(self, now_s: float, back: int) -> int:
        dripped = (now_s - self.at_s) * self.per_minute / 60
        self.level, self.at_s = min(self.per_minute, self.level + dripped + back), now_s
        return int(self.level)

    def wait_s(self, want: int) -> float:
        return max(0.0, (want - self.level) * 60 / self.per_minute)


class Grants:
    """Not thread-safe: the event loop of the ledger process owns it."""

    def __init__(
        self,
        budgets: Budgets,
        spent: Iterable[Spend] = (),
        unheard: Iterable[str] = (),
        *,
        clock_s: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = epoch_ms,
    ) -> None:
        """`spent` is this UTC day's spend by the ledger's rows, `unheard` the owners of journals, both after a first
        pass of the writer: no limited money is leased until those have said what they hold from an earlier process.
        """
        self._budgets = budgets
        self._clock_s, self._clock_ms = clock_s, clock_ms
        self._unheard = set(unheard)
        self._unheard_until_s = clock_s() + HOLD_S
        self._day = clock_ms() // DAY_MS
        self._spent: Counter[Scope] = Counter()
        self._held: dict[tuple[str, str], tuple[str, Amounts]] = {}  # (replica, key) -> tenant, money and slots
        self._totals: Counter[Scope] = Counter()
        self._slots: Counter[str] = Counter()
        self._seen: dict[str, tuple[float, int]] = {}  # replica -> when it last asked, and its number
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._ingested_ms = 0
        self._add_spend(spent)

    def ingested(self, stats: IngestStats) -> None:
        """After every pass of the writer: count what was spent and release what dead replicas held."""
        self._add_spend(stats.spend)
        self._ingested_ms = stats.started_ms
        for replica in stats.ended:
            self.forget(replica)

    def forget(self, replica: str) -> None:
        """A replica is gone: what it held is free again."""
        for owner, key_id in [held for held in self._held if held[0] == replica]:
            self._hold(owner, key_id, "", NOTHING)
        self._seen.pop(replica, None)
        self._unheard.discard(replica)

    def lease(self, request: LeaseRequest) -> Lease:
        """Answer a replica. A request that was overtaken by a later one gets nothing and changes nothing."""
        now_s = self._clock_s()
        if request.number <= self._seen.get(request.replica, (0.0, -1))[1]:
            return Lease(tuple(Grant() for _ in request.asks), self._ingested_ms)
        self._seen[request.replica] = (now_s, request.number)
        for replica in [r for r, (seen_s, _) in self._seen.items() if now_s - seen_s > HOLD_S]:
            self.forget(replica)
        self._roll(self._clock_ms() // DAY_MS)
        grants = tuple(self._grant(request.replica, ask, now_s) for ask in request.asks)
        if request.whole:
            self._unheard.discard(request.replica)
        return Lease(grants, self._ingested_ms)

    def _grant(self, replica: str, ask: Ask, now_s: float) -> Grant:
        self._hold(replica, ask.key_id, ask.tenant, ask.held)
        money, scope, wait_s = self._money(ask, now_s)
        slots = ask.want.parallel
        if ask.limits.max_parallel is not None:
            slots = ask.limits.max_parallel - self._slots[ask.key_id]
        requests = self._bucket(ask, "requests", ask.limits.requests_per_minute, now_s)
        tokens = self._bucket(ask, "tokens", ask.limits.tokens_per_minute, now_s)
        rooms = Amounts(money, slots, requests[0], tokens[0])
        granted = Amounts(*(_share(room, want) for room, want in zip(rooms, ask.want, strict=True)))
        self._hold(replica, ask.key_id, ask.tenant, ask.held.plus(granted))
        for name, amount in (("requests", granted.requests), ("tokens", granted.tokens)):
            if bucket := self._buckets.get((ask.key_id, name)):
                bucket.level -= amount
        short = granted.nusd < ask.want.nusd
        return Grant(
            granted,
            left=Amounts(*(max(0, left) for left in rooms.minus(granted))),
            blocked_by=scope if short else "",
            retry_after_s=wait_s if short else max(requests[1], tokens[1]),
        )

    def _money(self, ask: Ask, now_s: float) -> tuple[int, str, float]:
        """What may still be leased, the scope that bounds it, and how long until that changes."""
        limits = self._budgets.limits(ask.key_id, ask.tenant, ask.limits.nusd_per_day)
        if not limits:
            return ask.want.nusd, "", 0.0
        if self._unheard and now_s < self._unheard_until_s:
            return 0, "restart", LEASE_TTL_S / 2
        room, scope = min((limit - self._spent[s] - self._totals[s], s) for s, limit in limits)
        spent_up = self._spent[scope] >= dict(limits)[scope]
        wait_s = (DAY_MS - self._clock_ms() % DAY_MS) / 1000 if spent_up else LEASE_TTL_S
        return room, scope[0], wait_s

    def _bucket(self, ask: Ask, name: str, limit: int | None, now_s: float) -> tuple[int, float]:
        """What a bucket holds now, and how long until it holds what is wanted."""
        want: int = getattr(ask.want, name)
        if limit is None:
            return want, 0.0
        bucket = self._buckets.setdefault((ask.key_id, name), Bucket(limit, limit, now_s))
        level = bucket.fill(now_s, getattr(ask.back, name))
        return level, bucket.wait_s(want)

    def _hold(self, replica: str, key_id: str, tenant: str, amounts: Amounts) -> None:
        """Replace what a replica holds for a key."""
        before_tenant, before = self._held.pop((replica, key_id), (tenant, NOTHING))
        for owner, sign, held in ((before_tenant, -1, before), (tenant, 1, amounts)):
            for scope in (("key", key_id), ("tenant", owner), ("deployment", "")):
                self._totals[scope] += sign * held.nusd
            self._slots[key_id] += sign * held.parallel
        if amounts.nusd or amounts.parallel:
            self._held[replica, key_id] = (tenant, Amounts(nusd=amounts.nusd, parallel=amounts.parallel))

    def _add_spend(self, spend: Iterable[Spend]) -> None:
        """Rows bear their node's clock, days are by this one: what claims to be of tomorrow is of today."""
        self._roll(self._clock_ms() // DAY_MS)
        for entry in spend:
            if entry.at_ms // DAY_MS >= self._day:
                for scope in (("key", entry.key_id), ("tenant", entry.tenant), ("deployment", "")):
                    self._spent[scope] += entry.nusd

    def _roll(self, day: int) -> None:
        if day > self._day:
            self._day = day
            self._spent.clear()


def _share(room: int, want: int) -> int:
    return max(0, min(room, max(want, room // _SHARE))) if want > 0 else 0

"""However replicas, the writer and the ledger process interleave, fail and restart, a day's bill stays within the
budget plus what single requests were billed above their reservation."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from models.errors import BudgetExceeded
from serving.ledger.allowance import Allowance, LedgerUnreachable, Reservation
from serving.ledger.grants import HOLD_S, LEASE_TTL_S, Budgets, Grants, Lease, LeaseRequest
from serving.ledger.keys import ApiKey, Limits
from serving.ledger.store import DAY_MS, Spend
from serving.ledger.writer import IngestStats

LIMIT = 1_000
KEYS = [ApiKey(f"k{i}", "t", limits=Limits(nusd_per_day=LIMIT)) for i in range(2)]
BUDGETS = Budgets(deployment_nusd_per_day=LIMIT)


@dataclass
class Flight:
    replica: str
    key: ApiKey
    at_ms: int
    reserved: int
    reservation: Reservation


class Spending:
    """Two replicas and a ledger on one clock; every method is something that may happen at any time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 100 * 86_400.0
        self.flights: list[Flight] = []
        self.journal: list[Spend] = []  # written, not yet in the ledger
        self.rows: list[Spend] = []
        self.ingest: tuple[int, list[Spend]] | None = None  # a pass under way: when it began, what it committed
        self.above: Counter[int] = Counter()
        self.births = self.reserved = 0
        self.fate = "answered"
        self.late: LeaseRequest | None = None
        self.replicas: dict[str, Allowance] = {}
        self.grants = self.ledger()
        for _ in range(2):
            self.give_birth()

    def clock_ms(self) -> int:
        return int(self.now_s * 1000)

    def ledger(self) -> Grants:
        today_ms = self.clock_ms() // DAY_MS * DAY_MS
        spent = [row for row in self.rows if row.at_ms >= today_ms]
        return Grants(BUDGETS, spent, set(self.replicas), clock_s=lambda: self.now_s, clock_ms=self.clock_ms)

    def give_birth(self) -> None:
        name = f"r{self.births}"
        self.births += 1
        clocks = {"clock_s": lambda: self.now_s, "clock_ms": self.clock_ms}
        self.replicas[name] = Allowance(name, self.transport, BUDGETS, **clocks)  # type: ignore[arg-type]

    async def transport(self, request: LeaseRequest) -> Lease:
        fate, self.fate = self.fate, "answered"
        if fate == "late":
            self.late = request
            raise LedgerUnreachable("slow")
        lease = self.grants.lease(request)
        if fate == "unanswered":
            raise LedgerUnreachable("the answer was lost")
        return lease

    def some_replica(self) -> str:
        return self.random.choice(sorted(self.replicas))

    async def reserve(self) -> None:
        name, key, nusd = self.some_replica(), self.random.choice(KEYS), self.random.choice([1, 100, 300, 500, 1_000])
        with contextlib.suppress(BudgetExceeded):
            reservation = await self.replicas[name].reserve(key, nusd)
            self.flights.append(Flight(name, key, self.clock_ms(), nusd, reservation))
            self.reserved += 1
        self.now_s += self.random.choice([0.001, 0.2, 1.1])

    async def settle(self) -> None:
        if self.flights:
            flight = self.flights.pop(self.random.randrange(len(self.flights)))
            nusd = int(flight.reserved * self.random.choice([0.0, 0.5, 1.0, 1.2]))
            self.above[flight.at_ms // DAY_MS] += max(0, nusd - flight.reserved)
            self.journal.append(Spend(flight.at_ms, "t", flight.key.id, nusd))
            self.replicas[flight.replica].settle(flight.reservation, nusd)

    async def report(self) -> None:
        self.fate = self.random.choice(["answered", "answered", "late", "unanswered"])
        with contextlib.suppress(LedgerUnreachable):
            await self.replicas[self.some_replica()].report()
        self.fate = "answered"

    async def deliver_late(self) -> None:
        if self.late is not None:
            self.grants.lease(self.late)

    async def begin_pass(self) -> None:
        await self.end_pass()
        self.now_s += 0.01
        self.ingest = (self.clock_ms(), self.journal)
        self.rows += self.journal
        self.journal = []
        self.now_s += 0.01

    async def end_pass(self, *ended: str) -> None:
        if self.ingest is not None:
            started_ms, new = self.ingest
            self.ingest = None
            self.grants.ingested(IngestStats(started_ms, spend=new, ended=list(ended)))

    async def kill_replica(self) -> None:
        name = self.some_replica()
        del self.replicas[name]
        self.flights = [flight for flight in self.flights if flight.replica != name]
        self.give_birth()
        await self.begin_pass()
        await self.end_pass(name)

    async def restart_ledger(self) -> None:
        """The new process reads the journals, learns what was spent and who lives, and then serves."""
        await self.begin_pass()
        self.ingest = self.late = None
        self.grants = self.ledger()

    async def wait(self) -> None:
        """Silent for moments; for hours no living replica is."""
        seconds = self.random.choice([1.7, LEASE_TTL_S, 86_400.0])
        self.now_s += seconds
        if seconds > HOLD_S:
            for replica in self.replicas.values():
                await replica.report()

    async def rest(self) -> None:
        """Everything ends and is read, and replicas have time to say so."""
        while self.flights:
            await self.settle()
        await self.begin_pass()
        await self.end_pass()
        for _ in range(3):
            self.now_s += LEASE_TTL_S + 1
            for replica in self.replicas.values():
                await replica.report()

    def check(self) -> None:
        total: Counter[int] = Counter()
        for row in [*self.rows, *self.journal]:
            total[row.at_ms // DAY_MS] += row.nusd
        for flight in self.flights:
            total[flight.at_ms // DAY_MS] += flight.reserved
        for day, nusd in total.items():
            assert nusd <= LIMIT + self.above[day]


@pytest.mark.parametrize("seed", range(12))
async def test_bills_stay_within_the_budget(seed: int) -> None:
    world = Spending(seed)
    often = [world.reserve, world.settle, world.report, world.begin_pass, world.end_pass]
    seldom = [world.deliver_late, world.kill_replica, world.restart_ledger, world.wait, world.wait]
    for _ in range(3_000):
        await world.random.choice(often * 3 + seldom)()
        world.check()
    assert world.reserved > 100
    await world.rest()
    assert world.grants._held == {}

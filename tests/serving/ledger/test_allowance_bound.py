"""However replicas, the writer and the ledger process interleave, fail and restart, a day's bill stays within the
budget plus what single requests were billed above their reservation."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from models.errors import BudgetExceeded
from serving.ledger.allowance import Allowance, LedgerUnreachable, Reservation
from serving.ledger.grants import LEASE_TTL_S, Budgets, Grants, Lease, LeaseRequest
from serving.ledger.keys import ApiKey, Limits
from serving.ledger.store import DAY_MS, Spend
from serving.ledger.writer import IngestStats

LIMIT = 1_000
KEYS = [ApiKey(f"k{i}", "t", limits=Limits(nusd_per_day=700)) for i in range(2)]
BUDGETS = Budgets(deployment_nusd_per_day=LIMIT)


@dataclass
class Flight:
    replica: str
    key: ApiKey
    day_ms: int
    reserved: int
    reservation: Reservation


class Spending(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.now_s = 100 * 86_400.0 + 86_000
        self.fate = "answered"
        self.flights: list[Flight] = []
        self.journal: list[Spend] = []  # written, not yet in the ledger
        self.rows: list[Spend] = []
        self.above: Counter[int] = Counter()
        self.births = 0
        self.late: LeaseRequest | None = None
        self.replicas: dict[str, Allowance] = {}
        self.grants = self.ledger(0)
        for _ in range(2):
            self.give_birth()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def clock_ms(self) -> int:
        return int(self.now_s * 1000)

    def ledger(self, grace_s: float) -> Grants:
        day_ms = self.clock_ms() // DAY_MS * DAY_MS
        spent = [row for row in self.rows if row.at_ms >= day_ms]
        return Grants(BUDGETS, spent, grace_s=grace_s, clock_s=lambda: self.now_s, clock_ms=self.clock_ms)

    def give_birth(self) -> None:
        name = f"r{self.births}"
        self.births += 1
        clocks = {"clock_s": lambda: self.now_s, "clock_ms": self.clock_ms}
        self.replicas[name] = Allowance(name, self.transport, BUDGETS, **clocks)  # type: ignore[arg-type]

    async def transport(self, request: LeaseRequest) -> Lease:
        if self.fate == "unheard":
            self.late = request
            raise LedgerUnreachable("lost on the way")
        lease = self.grants.lease(request)
        if self.fate == "unanswered":
            raise LedgerUnreachable("the answer was lost")
        return lease

    @rule(which=st.integers(0, 1), key=st.sampled_from(KEYS), nusd=st.integers(1, 400))
    def reserve(self, which: int, key: ApiKey, nusd: int) -> None:
        name = sorted(self.replicas)[which]
        with contextlib.suppress(BudgetExceeded):
            reservation = self.loop.run_until_complete(self.replicas[name].reserve(key, nusd))
            self.flights.append(Flight(name, key, self.clock_ms(), nusd, reservation))

    @rule(which=st.integers(0, 5), part=st.sampled_from([0.0, 0.5, 1.0, 1.0, 1.2]))
    def settle(self, which: int, part: float) -> None:
        if self.flights:
            flight = self.flights.pop(which % len(self.flights))
            nusd = int(flight.reserved * part)
            self.above[flight.day_ms // DAY_MS] += max(0, nusd - flight.reserved)
            self.journal.append(Spend(flight.day_ms, "t", flight.key.id, nusd))
            self.replicas[flight.replica].settle(flight.reservation, nusd)

    @rule(which=st.integers(0, 1), fate=st.sampled_from(["answered", "answered", "answered", "unheard", "unanswered"]))
    def report(self, which: int, fate: str) -> None:
        self.fate = fate
        with contextlib.suppress(LedgerUnreachable):
            self.loop.run_until_complete(self.replicas[sorted(self.replicas)[which]].report())

    @rule()
    def heal(self) -> None:
        self.fate = "answered"

    @rule()
    def deliver_late(self) -> None:
        if self.late is not None:
            self.grants.lease(self.late)

    @rule()
    def ingest(self) -> None:
        self.now_s += 0.01
        self.take_in([])

    def take_in(self, ended: list[str]) -> None:
        new, self.journal = self.journal, []
        self.rows += new
        self.grants.ingested(IngestStats(self.clock_ms(), spend=new, ended=ended))

    @rule(which=st.integers(0, 1))
    def kill_replica(self, which: int) -> None:
        name = sorted(self.replicas)[which]
        del self.replicas[name]
        self.flights = [flight for flight in self.flights if flight.replica != name]
        self.give_birth()
        self.now_s += 0.01
        self.take_in([name])

    @rule()
    def restart_ledger(self) -> None:
        """The new process reads the journals, learns what was spent, and then serves."""
        self.rows += self.journal
        self.journal = []
        self.grants = self.ledger(LEASE_TTL_S)

    @rule(seconds=st.sampled_from([0.05, 0.5, 1.7, 2.5, LEASE_TTL_S, 400.0]))
    def wait(self, seconds: float) -> None:
        """Replicas that live report in time, as `keep` does."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 1.6)
            for replica in self.replicas.values():
                with contextlib.suppress(LedgerUnreachable):
                    self.loop.run_until_complete(replica.report())

    @invariant()
    def bills_stay_within_the_budget(self) -> None:
        if hasattr(self, "rows"):
            total: Counter[int] = Counter()
            for row in [*self.rows, *self.journal]:
                total[row.at_ms // DAY_MS] += row.nusd
            for flight in self.flights:
                total[flight.day_ms // DAY_MS] += flight.reserved
            for day, nusd in total.items():
                assert nusd <= LIMIT + self.above[day]


TestSpending = Spending.TestCase
TestSpending.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)

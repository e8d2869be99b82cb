from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from models.errors import BudgetExceeded, RateLimited
from serving.ledger.allowance import Allowance, CannotReserve, LedgerUnreachable
from serving.ledger.grants import HOLD_S, LEASE_TTL_S, Budgets, Grants, Lease, LeaseRequest
from serving.ledger.keys import ApiKey, Limits
from serving.ledger.store import DAY_MS, Spend
from serving.ledger.writer import IngestStats

USD = 10**9


@dataclass
class World:
    """A ledger process and replicas on one clock, which stands still unless moved."""

    budgets: Budgets = field(default_factory=Budgets)
    now_s: float = 100 * 86_400.0
    calls: int = 0
    reachable: bool = True
    grants: Grants = field(init=False)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.grants = self.ledger()

    def clock_s(self) -> float:
        return self.now_s

    def clock_ms(self) -> int:
        return int(self.now_s * 1000)

    def ledger(self, *spent: Spend, unheard: tuple[str, ...] = ()) -> Grants:
        return Grants(self.budgets, spent, unheard, clock_s=self.clock_s, clock_ms=self.clock_ms)

    def replica(self, name: str = "a") -> Allowance:
        return Allowance(name, self.transport, self.budgets, clock_s=self.clock_s, clock_ms=self.clock_ms)

    async def called_often(self, calls: int) -> None:
        while self.calls < calls:
            await self.called.wait()
            self.called.clear()

    async def transport(self, request: LeaseRequest) -> Lease:
        self.calls += 1
        self.called.set()
        await asyncio.sleep(0)
        if not self.reachable:
            raise LedgerUnreachable("no ledger")
        return self.grants.lease(request)

    def ingest(self, *spend: Spend, ended: tuple[str, ...] = ()) -> None:
        self.now_s += 0.001
        self.grants.ingested(IngestStats(self.clock_ms(), spend=list(spend), ended=list(ended)))

    def spend(self, nusd: int, key: str = "k", tenant: str = "t") -> Spend:
        return Spend(self.clock_ms(), tenant, key, nusd)


def key(name: str = "k", tenant: str = "t", **limits: int) -> ApiKey:
    return ApiKey(name, tenant, limits=Limits(**limits))  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_key_without_limits_never_asks_the_ledger(world: World) -> None:
    replica = world.replica()
    replica.leave(await replica.admit(key(), 10**9), 10**9)
    replica.settle(await replica.reserve(key(), 10**15), 10**15)
    assert world.calls == 0


async def test_a_lease_serves_many_requests(world: World) -> None:
    replica, limited = world.replica(), key(requests_per_minute=6_000, nusd_per_day=100 * USD)
    for _ in range(100):
        replica.leave(await replica.admit(limited))
        replica.settle(await replica.reserve(limited, USD // 1000), USD // 2000)
    assert world.calls == 2


async def test_requests_that_come_together_ask_together(world: World) -> None:
    replica, limited = world.replica(), key(nusd_per_day=1_000)
    results = await asyncio.gather(*(replica.reserve(limited, 100) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 2
    assert world.calls <= 3


async def test_requests_per_minute_drip_back(world: World) -> None:
    replica, limited = world.replica(), key(requests_per_minute=60)
    for _ in range(60):
        replica.leave(await replica.admit(limited))
    with pytest.raises(RateLimited, match="60 requests a minute") as refused:
        await replica.admit(limited)
    assert refused.value.retry_after_s == 1.0
    world.now_s += 1.0
    await replica.admit(limited)
    with pytest.raises(RateLimited):
        await replica.admit(limited)


async def test_two_replicas_share_a_rate(world: World) -> None:
    replicas, limited = [world.replica("a"), world.replica("b")], key(requests_per_minute=60)
    admitted = 0
    for i in range(200):
        try:
            await replicas[i % 2].admit(limited)
            admitted += 1
        except RateLimited:
            pass
    assert 52 <= admitted <= 60  # what one holds and has not used is at most a sixteenth


async def test_a_storm_of_refusals_does_not_reach_the_ledger(world: World) -> None:
    replica, limited = world.replica(), key(requests_per_minute=1)
    await replica.admit(limited)
    for _ in range(50):
        with pytest.raises(RateLimited):
            await replica.admit(limited)
    assert world.calls == 2


async def test_tokens_are_corrected_when_the_answer_is_known(world: World) -> None:
    replica, limited = world.replica(), key(tokens_per_minute=1_000)
    replica.leave(await replica.admit(limited, 100), 900)
    with pytest.raises(RateLimited, match="1000 tokens a minute"):
        await replica.admit(limited, 200)
    world.now_s += 30
    await replica.report()
    replica.leave(await replica.admit(limited, 500), 10)
    await replica.admit(limited, 480)
    with pytest.raises(RateLimited, match="shorten it"):
        await replica.admit(limited, 1_001)


async def test_parallel_requests_are_counted_over_all_replicas(world: World) -> None:
    a, b, limited = world.replica("a"), world.replica("b"), key(max_parallel=2)
    first, _second = await a.admit(limited), await b.admit(limited)
    with pytest.raises(RateLimited, match="2 requests at a time"):
        await a.admit(limited)
    a.leave(first)
    a.leave(first)  # a second time changes nothing
    await a.report()
    world.now_s += 1
    third = await b.admit(limited)
    with pytest.raises(RateLimited):
        await a.admit(limited)
    b.leave(third)


async def test_a_slot_comes_free_for_others_without_waiting_for_a_lease(world: World) -> None:
    a, b, limited = world.replica("a"), world.replica("b"), key(max_parallel=1)
    keeper = asyncio.create_task(a.keep())
    a.leave(await a.admit(limited))
    async with asyncio.timeout(2):
        await world.called_often(2)
        await asyncio.sleep(0.01)
    await b.admit(limited)
    keeper.cancel()


@pytest.mark.parametrize(
    ("budgets", "limits", "whose"),
    [
        (Budgets(), {"nusd_per_day": 1_000}, "this key's"),
        (Budgets(tenant_nusd_per_day={"t": 1_000}), {}, "the tenant's"),
        (Budgets(deployment_nusd_per_day=1_000), {"nusd_per_day": 10_000}, "the deployment's"),
    ],
)
async def test_a_budget_is_refused_by_name(budgets: Budgets, limits: dict[str, int], whose: str) -> None:
    world = World(budgets, now_s=100 * 86_400.0 + 43_200)
    replica, limited = world.replica(), key(**limits)
    reservation = await replica.reserve(limited, 900)
    with pytest.raises(BudgetExceeded, match=whose) as held:
        await replica.reserve(limited, 200)
    assert held.value.retry_after_s == LEASE_TTL_S  # nothing is spent yet: it may come free
    replica.settle(reservation, 1_000)
    world.ingest(world.spend(1_000))
    world.now_s += 1
    with pytest.raises(BudgetExceeded, match=whose) as spent:
        await replica.reserve(limited, 1)
    assert spent.value.retry_after_s == pytest.approx(43_200, abs=2)
    world.now_s += 43_200
    await replica.reserve(limited, 900)


async def test_another_tenants_spend_does_not_count(world: World) -> None:
    world.budgets = Budgets(tenant_nusd_per_day={"t": 1_000, "u": 1_000})
    world.grants = world.ledger(world.spend(1_000, "x", "u"))
    await world.replica().reserve(key("k", "t"), 1_000)
    with pytest.raises(BudgetExceeded):
        await world.replica("b").reserve(key("x", "u"), 1)


async def test_a_budget_of_nothing_forbids_hosted_models(world: World) -> None:
    with pytest.raises(BudgetExceeded):
        await world.replica().reserve(key(nusd_per_day=0), 0)


async def test_what_was_not_needed_can_be_reserved_again(world: World) -> None:
    replica, limited = world.replica(), key(nusd_per_day=1_000)
    for _ in range(50):
        replica.settle(await replica.reserve(limited, 1_000), 0)
    assert world.calls == 1


async def test_settled_money_counts_until_its_row_is_read(world: World) -> None:
    """Between `settle` and the next pass of the writer no row tells of it."""
    a, b, limited = world.replica("a"), world.replica("b"), key(nusd_per_day=1_000)
    reservation = await a.reserve(limited, 900)
    world.now_s += 0.5
    a.settle(reservation, 900)
    world.grants.ingested(IngestStats(world.clock_ms() - 100))  # began before the line was written
    await a.report()
    with pytest.raises(BudgetExceeded):
        await b.reserve(limited, 200)
    world.ingest(world.spend(900))
    await a.report()
    await a.report()
    world.now_s += 1
    with pytest.raises(BudgetExceeded):
        await b.reserve(limited, 200)
    await b.reserve(limited, 100)


async def test_an_idle_lease_returns(world: World) -> None:
    a, b, limited = world.replica("a"), world.replica("b"), key(nusd_per_day=16_000)
    a.settle(await a.reserve(limited, 16_000), 0)
    await a.report()
    with pytest.raises(BudgetExceeded):
        await b.reserve(limited, 16_000)
    world.now_s += LEASE_TTL_S + 1
    await a.report()
    await b.reserve(limited, 16_000)


async def test_what_a_dead_replica_held_returns(world: World) -> None:
    a, b, limited = world.replica("a"), world.replica("b"), key(nusd_per_day=1_000, max_parallel=1)
    await a.admit(limited)
    await a.reserve(limited, 1_000)
    with pytest.raises(BudgetExceeded):
        await b.reserve(limited, 1_000)
    world.now_s += LEASE_TTL_S + 1
    with pytest.raises(BudgetExceeded):  # silent, but it may live and its call be under way
        await b.reserve(limited, 1_000)
    world.ingest(ended=("a",))
    world.now_s += 1
    await b.reserve(limited, 1_000)
    await b.admit(limited)


async def test_a_replica_silent_for_long_holds_nothing(world: World) -> None:
    a, b, limited = world.replica("a"), world.replica("b"), key(nusd_per_day=1_000)
    await a.reserve(limited, 1_000)
    world.now_s += HOLD_S + 1
    await b.reserve(limited, 1_000)


async def test_without_the_ledger_money_is_refused_and_rates_pass(world: World) -> None:
    replica, limited = world.replica(), key(requests_per_minute=1, max_parallel=1, nusd_per_day=USD)
    world.reachable = False
    for _ in range(3):
        replica.leave(await replica.admit(limited))
    with pytest.raises(CannotReserve, match="cannot be checked"):
        await replica.reserve(limited, 1)
    assert world.calls == 1
    with pytest.raises(LedgerUnreachable):
        await replica.report()
    world.reachable = True
    world.now_s += 2
    await replica.reserve(limited, 1)


async def test_a_ledger_that_hangs_is_not_waited_for(world: World) -> None:
    async def hangs(_: LeaseRequest) -> Lease:
        await asyncio.sleep(60)
        raise AssertionError

    replica = Allowance("a", hangs, world.budgets, timeout_s=0.05)
    with pytest.raises(CannotReserve):
        await replica.reserve(key(nusd_per_day=1), 1)
    await replica.admit(key(requests_per_minute=1))


async def test_a_lease_is_void_when_the_ledger_was_not_heard_of(world: World) -> None:
    """By then another ledger process may have given the money to others."""
    replica, limited = world.replica(), key(nusd_per_day=16_000)
    await replica.reserve(limited, 1)
    await replica.reserve(limited, 1)
    assert world.calls == 1
    world.reachable = False
    world.now_s += LEASE_TTL_S + 0.1
    with pytest.raises(CannotReserve):
        await replica.reserve(limited, 1)


async def test_a_restarted_ledger_hears_of_reservations_before_it_leases(world: World) -> None:
    a, b, limited = world.replica("a"), world.replica("b"), key(nusd_per_day=1_000)
    await a.reserve(limited, 600)
    world.grants = world.ledger(world.spend(300), unheard=("a", "b", "dead"))
    await a.report()
    for _ in range(2):
        with pytest.raises(CannotReserve, match="just started"):
            await b.reserve(limited, 100)
        await b.report()
        world.now_s += 1
    world.ingest(ended=("dead",))
    with pytest.raises(BudgetExceeded, match="this key's"):
        await b.reserve(limited, 101)
    world.now_s += 1
    await b.reserve(limited, 100)


async def test_a_restarted_ledger_does_not_wait_for_ever(world: World) -> None:
    world.grants = world.ledger(unheard=("hung",))
    world.now_s += HOLD_S
    await world.replica().reserve(key(nusd_per_day=1_000), 1_000)


async def test_an_overtaken_request_changes_nothing(world: World) -> None:
    replica, limited, late = world.replica(), key(nusd_per_day=1_000), []

    async def remember(request: LeaseRequest) -> Lease:
        late.append(request)
        return await world.transport(request)

    replica._transport = remember
    reservation = await replica.reserve(limited, 1_000)
    replica.settle(reservation, 0)
    world.now_s += LEASE_TTL_S + 1
    await replica.report()
    assert world.grants.lease(late[0]).grants[0].granted.nusd == 0
    await world.replica("b").reserve(limited, 1_000)


async def test_a_client_that_leaves_while_the_ledger_is_asked_costs_nothing(world: World) -> None:
    replica, limited = world.replica(), key(nusd_per_day=1_000)
    task = asyncio.create_task(replica.reserve(limited, 1_000))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.calls == 1
    await replica.report()
    await replica.reserve(limited, 1_000)


async def test_standing_tells_limit_rest_and_reset(world: World) -> None:
    replica = world.replica()
    limited = key(requests_per_minute=60, tokens_per_minute=600, nusd_per_day=1_000)
    fresh = {s.name: (s.limit, s.left) for s in replica.standing(limited)}
    assert fresh == {"requests": (60, 60), "tokens": (600, 600), "nusd": (1_000, 1_000)}
    await replica.admit(limited, 100)
    await replica.reserve(limited, 250)
    now = {s.name: s for s in replica.standing(limited)}
    assert (now["requests"].left, now["tokens"].left, now["nusd"].left) == (59, 500, 750)
    assert now["requests"].reset_s == 1.0
    assert now["tokens"].reset_s == 10.0
    assert now["nusd"].reset_s == DAY_MS / 1000
    assert replica.standing(key("other")) == []


async def test_accounts_with_nothing_in_them_are_forgotten(world: World) -> None:
    replica = world.replica()
    for i in range(20):
        limited = key(f"k{i}", nusd_per_day=1_000)
        replica.settle(await replica.reserve(limited, 10), 0)
    for _ in range(3):
        world.now_s += 61
        await replica.report()
    assert replica._accounts == {}
    assert world.grants._held == {}


async def test_a_node_whose_clock_is_a_day_ahead_does_not_end_the_day_for_all(world: World) -> None:
    replica, limited = world.replica(), key(nusd_per_day=1_000)
    world.ingest(world.spend(600))
    world.ingest(Spend(world.clock_ms() + DAY_MS, "t", "k", 100))
    world.ingest(world.spend(200))
    with pytest.raises(BudgetExceeded):
        await replica.reserve(limited, 101)
    await replica.reserve(limited, 100)
    restarted = world.ledger(world.spend(600), Spend(world.clock_ms() + DAY_MS, "t", "k", 300))
    restarted.ingested(IngestStats(world.clock_ms(), spend=[world.spend(100)]))
    world.grants = restarted
    with pytest.raises(BudgetExceeded):
        await world.replica("b").reserve(limited, 1)

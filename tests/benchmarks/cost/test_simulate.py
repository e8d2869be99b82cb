"""The queue against what is known of queues, and the bill against what an hour costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost.results import LoadPoint, Parts
from benchmarks.cost.simulate import (
    LOADS_RPS,
    Asked,
    Engine,
    Outcome,
    Site,
    compared,
    load_points,
    point,
    poisson,
    simulate,
    stretched,
)
from models.prices import RateCard

MANY = 10**9
COUNT = 40_000


def site(slots: int = 1, seconds: float = 1.0, queue: int = MANY, gpus: int = 1, usd_per_hour: float = 0.36) -> Site:
    return Site(Engine(slots, queue, [(1, seconds)], "made up"), gpus, usd_per_hour)


def drive(load: float, where: Site, work: str = "equal", seed: int = 3) -> Outcome:
    """`load` is arrivals in one mean service time."""
    rng = np.random.default_rng(seed)
    works = np.ones(COUNT) if work == "equal" else rng.exponential(1.0, COUNT)
    return simulate(works.tolist(), poisson(load, COUNT, seed + 1), where)


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_equal_work_on_one_slot_is_md1(load: float) -> None:
    found = drive(load, site())
    assert found.waits_s.mean() == pytest.approx(load / (2 * (1 - load)), rel=0.06)
    assert found.occupied_s / found.duration_s == pytest.approx(load, rel=0.02)


def test_random_work_on_one_slot_is_mm1() -> None:
    found = drive(0.7, site(), "random")
    assert found.waits_s.mean() == pytest.approx(0.7 / 0.3, rel=0.08)
    assert (found.waits_s > 0).mean() == pytest.approx(0.7, rel=0.03)


def erlang_b(load: float, servers: int) -> float:
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def test_slots_that_do_not_slow_each_other_are_mmc() -> None:
    load, servers = 4.0, 5
    blocked = erlang_b(load, servers)
    waits = blocked / (1 - load / servers * (1 - blocked))  # Erlang C
    found = drive(load, site(servers), "random")
    assert (found.waits_s > 0).mean() == pytest.approx(waits, rel=0.05)
    assert found.waits_s.mean() == pytest.approx(waits / (servers - load), rel=0.1)


@pytest.mark.parametrize("work", ["equal", "random"])
def test_without_a_queue_erlangs_share_overflows(work: str) -> None:
    found = drive(6.0, site(8, queue=0), work)
    assert found.overflowed.mean() == pytest.approx(erlang_b(6.0, 8), rel=0.05), "whatever the work's distribution"


@pytest.mark.parametrize("work", ["equal", "random"])
def test_a_gpu_that_is_only_shared_is_processor_sharing(work: str) -> None:
    shared = Site(Engine(400, 0, [(1, 1.0), (400, 400.0)], "made up"))
    found = drive(0.6, shared, work)
    assert found.latencies_s.mean() == pytest.approx(1 / (1 - 0.6), rel=0.06)


@given(
    st.lists(st.tuples(st.floats(0.001, 3.0), st.floats(0.01, 3.0)), min_size=1, max_size=40),
)
def test_one_slot_follows_lindley_to_the_letter(steps: list[tuple[float, float]]) -> None:
    arrivals = np.cumsum([gap for gap, _ in steps])
    works = [work for _, work in steps]
    found = simulate(works, arrivals, site())
    free_s = 0.0
    for arrived, work, waited, took in zip(arrivals, works, found.waits_s, found.latencies_s, strict=True):
        start_s = max(arrived, free_s)
        free_s = start_s + work
        assert waited == pytest.approx(start_s - arrived, abs=1e-9)
        assert took == pytest.approx(free_s - arrived, abs=1e-9)


def test_batching_speeds_the_gpu_up_and_each_request_down() -> None:
    engine = Engine(4, 10, [(1, 1.0), (4, 2.0)], "made up")
    found = simulate([1.0] * 4, [0.0] * 4, Site(engine))
    assert found.latencies_s.tolist() == pytest.approx([2.0] * 4)
    assert engine.capacity_rps == pytest.approx(2.0)
    one_by_one = simulate([1.0] * 4, [0.0, 5.0, 10.0, 15.0], Site(engine))
    assert one_by_one.latencies_s.tolist() == pytest.approx([1.0] * 4)


def test_two_gpus_share_the_work_and_each_is_filled_before_any_overflows() -> None:
    found = simulate([1.0] * 7, [0.01 * i for i in range(7)], site(1, queue=2, gpus=2))
    assert found.overflowed.tolist() == [False] * 6 + [True]
    assert sorted(found.waits_s[:2].tolist()) == [0.0, 0.0]


def test_a_rate_card_gives_the_cost_of_full_load() -> None:
    card = RateCard(
        usd_per_hour=0.4, prefill_tokens_per_s=5000, decode_tokens_per_s=1000, as_of="2026-11-01", source="assumed"
    )  # type: ignore[arg-type]
    engine = Engine.of_card(card, (500.0, 150.0), 32, 10)
    assert engine.busy_s == pytest.approx(0.25)
    assert engine.source == "assumed"
    alone = Engine.of_card(card, (500.0, 150.0), 32, 10, alone_s=2.0)
    assert [alone.seconds(n) for n in (1, 8, 16, 32)] == pytest.approx([2.0, 2.0, 4.0, 8.0])
    assert alone.busy_s == engine.busy_s


SMALL = Asked("small", 0.0002, 0.9, 1.0)
HOSTED = Asked("frontier", 0.003, 2.0)
HIT = Asked("cache", 0.0, 0.004)


def test_the_bill_is_the_hour_whatever_it_is_used_for() -> None:
    where = site(usd_per_hour=0.36)
    arrivals = [2.0 * (i + 1) for i in range(10)]
    made = point("routed", [SMALL] * 5 + [HOSTED] * 4 + [HIT], arrivals, where)
    assert made.parts.gpu_busy_usd + made.parts.gpu_idle_usd == pytest.approx(0.36 / 3600 * 20.0 * 100)
    assert made.parts.gpu_busy_usd == pytest.approx(0.36 / 3600 * 5 * 100), "five seconds of work"
    assert made.parts.frontier_usd == pytest.approx(4 * 0.003 * 100)
    assert (made.parts.cheap_usd, made.parts.wasted_usd, made.overflow_share) == (0.0, 0.0, 0.0)
    assert (made.offered_rps, made.gpus, made.latency_p99_ms) == (0.5, 1, 2000.0)


@pytest.mark.parametrize(("tier", "part"), [("cheap", "cheap_usd"), ("frontier", "frontier_usd")])
def test_what_overflows_is_billed_by_the_next_tier(tier: str, part: str) -> None:
    where = replace(site(1, queue=0), next_tier=tier)
    made = point("small", [SMALL] * 4, [0.1, 0.2, 0.3, 5.0], where)
    assert made.overflow_share == 0.5
    assert getattr(made.parts, part) == pytest.approx(2 * 0.0002 * 250)
    assert made.latency_p99_ms == pytest.approx(1000.0), "0.9 s at the next tier, 1 s on the GPU"


def test_a_cascades_doubt_is_wasted_work_and_its_time_adds_up() -> None:
    doubted = Asked("frontier", 0.003, 2.0, 0.25)
    made = point("cascade", [SMALL, doubted], [10.0, 20.0], site())
    assert made.parts.wasted_usd == pytest.approx(0.36 / 3600 * 0.25 * 500)
    assert made.parts.frontier_usd == pytest.approx(0.003 * 500)
    assert made.latency_p99_ms == pytest.approx(2250.0)
    paid = made.parts.gpu_busy_usd + made.parts.gpu_idle_usd + made.parts.wasted_usd
    assert paid == pytest.approx(0.36 / 3600 * 20.25 * 500)


def test_idle_falls_with_load_and_hosted_does_not_change() -> None:
    asked = [SMALL] * 7 + [HOSTED] * 3
    found = load_points("routed", asked, site(4, 0.5, queue=8), seed=5)
    assert [one.offered_rps for one in found] == list(LOADS_RPS)
    idle = [one.parts.gpu_idle_usd for one in found]
    assert idle == sorted(idle, reverse=True)
    assert found[0].parts.total_usd == pytest.approx(1000 * 0.36 / 3600 / 0.01 + 0.3 * 3.0, rel=0.02)
    assert found[0].parts.frontier_usd == pytest.approx(found[4].parts.frontier_usd, rel=1e-9)
    assert all(one.simulated for one in found)
    assert found == load_points("routed", asked, site(4, 0.5, queue=8), seed=5)
    assert found != load_points("routed", asked, site(4, 0.5, queue=8), seed=6)


def test_a_full_gpu_passes_on_what_it_cannot_hold() -> None:
    (made,) = load_points("small", [SMALL], site(1, 1.0, queue=4), [4.0])
    assert made.overflow_share == pytest.approx(0.75, abs=0.01)
    assert made.parts.gpu_idle_usd == pytest.approx(0.0, abs=1e-4)


def test_without_a_gpu_load_changes_nothing() -> None:
    found = load_points("all-frontier", [HOSTED], Site(None), [0.01, 10.0])
    assert [one.parts.total_usd for one in found] == pytest.approx([3.0, 3.0])
    assert [one.gpus for one in found] == [0, 0]


def test_the_workloads_own_arrivals_keep_their_bursts() -> None:
    times = stretched([5.0, 5.0, 5.0, 8.0], 0.5)
    assert times.tolist() == [0.0, 0.0, 0.0, 6.0]
    burst = load_points("small", [SMALL] * 4, site(1, queue=0), [0.5], arrivals_s=[5.0, 5.0, 5.0, 8.0])
    assert burst[0].overflow_share == 0.5
    with pytest.raises(ValueError, match="no rate to stretch"):
        stretched([1.0, 1.0], 2.0)


def test_a_driven_point_is_held_against_the_simulated_one() -> None:
    simulated = LoadPoint("routed", 0.5, Parts(frontier_usd=1.0, gpu_idle_usd=0.1), latency_p99_ms=1000.0)
    near = replace(simulated, simulated=False, parts=Parts(frontier_usd=1.12), latency_p99_ms=1100.0)
    cost, p99 = compared(simulated, near)
    assert (cost.met, p99.met) == (True, True)
    assert cost.value == pytest.approx(1.1 / 1.12, abs=1e-4)
    far = replace(near, parts=Parts(frontier_usd=2.0), latency_p99_ms=None)
    (cost,) = compared(simulated, far)
    assert not cost.met
    assert "simulated 1.1, driven 2" in cost.note
    (nothing,) = compared(LoadPoint("free", 1.0, Parts()), LoadPoint("free", 1.0, Parts(), simulated=False))
    assert nothing.met


def test_a_site_without_a_gpu_has_no_queue() -> None:
    with pytest.raises(ValueError, match="no GPU"):
        simulate([1.0], [0.0], Site(None))

from __future__ import annotations

import pytest

from benchmarks.cost import loads
from benchmarks.cost.accounting import Bootstrap, Driven, Scored, figures
from benchmarks.cost.architectures import Gpu
from benchmarks.cost.breakeven import HourPrice
from benchmarks.cost.drive import Reply
from benchmarks.cost.loads import Compared, Simulated
from benchmarks.cost.prices import Prices
from benchmarks.cost.replayed import Speeds
from benchmarks.cost.results import Figures
from benchmarks.cost.workload import Answer, Request

MODELS = {"small": "s", "cheap": "gpt-4o-mini-2024-07-18", "frontier": "gpt-4o-2024-08-06"}
GPU = Gpu(usd_per_hour=0.36, prefill_tokens_per_s=1000, decode_tokens_per_s=100)
BY = Simulated(
    Prices.of(MODELS, GPU), {MODELS["cheap"]: {"q": Answer("q", MODELS["cheap"], "t", 100, 90)}}, GPU, Speeds.usual()
)


def scored(number: int, route: str, output_tokens: int = 50, cache: str = "miss") -> Scored:
    request = Request(f"r{number}", float(number), [{"role": "user", "content": "x"}], "q")
    reply = Reply(
        request.id, float(number), 2.0, 0.5, "t", route, cache=cache, input_tokens=100, output_tokens=output_tokens
    )
    return Scored(request, reply, 0 if cache == "exact" else 7_000, None, False)


def test_a_small_answer_carries_its_work_and_what_the_next_tier_would_have_billed_and_taken() -> None:
    small, long, hosted, hit = BY.asked(
        [scored(0, "small", 50), scored(1, "small", 150), scored(2, "frontier"), scored(3, "cache", cache="exact")]
    )
    assert (small.work + long.work) / 2 == pytest.approx(1.0)
    assert long.work > small.work
    assert small.usd == pytest.approx((100 * 0.15 + 90 * 0.60) / 1e6)
    assert small.latency_s == pytest.approx(0.4 + 90 / 90)
    assert (hosted.tier, hosted.usd, hosted.latency_s, hosted.work) == ("frontier", 7e-6, 2.0, 0.0)
    assert (hit.usd, hit.work) == (0.0, 0.0)


def test_the_simulated_gpu_is_as_slow_alone_and_as_fast_full_as_the_replayed_one() -> None:
    engine = BY.engine([scored(0, "small", 60)])
    assert engine.seconds(1) == pytest.approx(0.02 + 0.1 + 1.0)
    assert engine.busy_s == pytest.approx(0.1 + 0.6)


def test_break_even_is_of_the_rows_that_are_named_and_were_driven() -> None:
    rows = [
        Driven("all-own", "own", [scored(i, "small") for i in range(20)], 20.0, 1, ()),
        Driven("all-big", "big", [scored(i, "frontier") for i in range(20)], 20.0, 0, ()),
    ]
    bootstrap = Bootstrap([s.request for s in rows[0].scored], 0, 50)
    found = [figures(row, GPU, None, bootstrap, ()) for row in rows]
    hours = [HourPrice(0.36, "told", "today")]
    names = Compared("all-own", {"cheapest": "all-mini", "frontier": "all-big"})
    broken, notes = loads.break_even(found, rows, names, GPU, hours)
    assert {(one.name, one.against) for one in broken} == {("all-own", "frontier")}
    (usual,) = [one for one in broken if one.tokens_scale == 1.0]
    assert usual.capacity_rps == pytest.approx(1 / (100 / 1000 + 50 / 100))
    assert notes[0] == "GPU $0.36/h: told (today)"
    assert loads.break_even(found[1:], rows[1:], names, GPU, hours) == ([], []), "nobody owns a GPU"
    assert loads.break_even(found[:1], rows[:1], names, GPU, hours) == ([], []), "nothing to hold it against"


def test_rows_without_a_gpu_are_drawn_by_their_ends() -> None:
    run = Driven("all-frontier", "all", [scored(i, "frontier") for i in range(20)], 20.0, 0, ())
    points = loads.points([run], BY, 0)
    assert len(points) == 2
    assert [point.parts.total_usd for point in points] == pytest.approx([0.007, 0.007])


def low(*rows: Scored) -> tuple[Driven, Simulated, Figures]:
    run = Driven("all-small", "all", rows, 4.0, 1, ())
    return run, BY, figures(run, GPU, None, Bootstrap([s.request for s in rows], 0, 50), ())


def failed(number: int) -> Scored:
    request = scored(number, "small").request
    return Scored(request, Reply(request.id, float(number), 1.0, error="status 500"), 0, None, False)


def test_a_request_that_failed_at_a_low_load_takes_no_part_in_its_simulation() -> None:
    _, checks = loads.checked(*low(scored(0, "small"), failed(1), scored(2, "small"), scored(3, "small")))
    assert len(checks) == 2


def test_fewer_than_two_answers_are_no_load_to_check_and_none_no_load_to_simulate() -> None:
    for rows in ((scored(0, "small"),), (scored(0, "small"), failed(1)), (failed(0), failed(1))):
        point, checks = loads.checked(*low(*rows))
        assert not point.simulated and checks == []
    assert loads.points([low(failed(0), failed(1))[0]], BY, 0) == []

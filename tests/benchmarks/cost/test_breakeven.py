"""At the load it names the two cost the same; below it the GPU is dearer, above it cheaper."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.cost.breakeven import RTX_4090, Capacity, HourPrice, Owner, assumptions, break_even, hours, table
from benchmarks.cost.simulate import Asked, Engine, Site, load_points
from models.local.profiles import catalogue
from tests.benchmarks.cost import example

ROOMY = Capacity(1e6, "measured: made up", True)
ALL_SMALL = Owner("all-small", 0.0, 1.0)


def owned_usd(owner: Owner, usd_per_hour: float, rps: float) -> float:
    return owner.hosted_usd + usd_per_hour / 3600 / rps


@pytest.mark.parametrize(
    ("usd", "usd_per_hour", "rps"),
    [
        (0.000125, 0.25, 0.56),
        (0.000125, 0.44, 0.98),
        (0.0025, 0.44, 0.049),
        (0.005, 0.25, 0.014),
        (0.0125, 0.44, 0.010),
    ],
)
def test_a_4090_against_hosted_prices_as_worked_out_by_hand(usd: float, usd_per_hour: float, rps: float) -> None:
    found = break_even(ALL_SMALL, ("cheapest", usd), usd_per_hour, ROOMY)
    assert found.rps == pytest.approx(rps, rel=0.03)


@given(
    st.floats(0.0, 0.01),
    st.floats(1e-6, 0.02),
    st.floats(0.01, 5.0),
    st.floats(0.05, 1.0),
    st.sampled_from([0.5, 1, 2]),
)
def test_at_break_even_both_cost_the_same(
    hosted_usd: float, more_usd: float, usd_per_hour: float, share: float, scale: float
) -> None:
    owner = Owner("routed", hosted_usd, share)
    found = break_even(owner, ("frontier", hosted_usd + more_usd), usd_per_hour, ROOMY, scale)
    assume(found.rps is not None)
    assert found.rps is not None
    scaled = Owner("routed", hosted_usd * scale, share)
    alternative = (hosted_usd + more_usd) * scale
    assert owned_usd(scaled, usd_per_hour, found.rps) == pytest.approx(alternative, rel=1e-6)
    assert owned_usd(scaled, usd_per_hour, found.rps / 2) > alternative > owned_usd(scaled, usd_per_hour, found.rps * 2)


def test_the_simulated_curve_crosses_where_the_closed_form_says() -> None:
    site = Site(Engine(32, 64, [(1, 1.0), (32, 8.0)], "made up"), 1, 0.40)
    asked = [Asked("small", 0.0001, 1.0, 1.0)] * 7 + [Asked("frontier", 0.003, 2.0)] * 3
    found = break_even(Owner("routed", 0.0009, 0.7), ("frontier", 0.003), 0.40, Capacity(4.0, "made up", False))
    assert found.rps is not None
    (point,) = load_points("routed", asked, site, [found.rps])
    assert point.parts.total_usd == pytest.approx(3.0, rel=0.02)


def test_what_one_gpu_cannot_hold_never_pays() -> None:
    found = break_even(ALL_SMALL, ("cheapest", 0.000125), 0.44, Capacity(0.5, "assumed: slow", False))
    assert (found.rps, found.capacity_rps) == (None, 0.5)
    assert found.note == "one GPU is full before: $0.244/1k there against $0.125"


def test_a_hosted_part_dearer_than_the_alternative_never_pays() -> None:
    found = break_even(Owner("routed", 0.001, 0.7), ("cheapest", 0.0005), 0.44, ROOMY)
    assert found.rps is None
    assert found.note == "its hosted part alone costs $1/1k, the alternative not more"


def test_a_gpu_without_requests_has_no_break_even() -> None:
    with pytest.raises(ValueError, match="answers no request"):
        break_even(Owner("all-frontier", 0.003, 0.0), ("cheapest", 0.0005), 0.44, ROOMY)


def test_the_table_has_every_combination_and_says_what_it_assumes() -> None:
    capacity = Capacity.of_card(catalogue()["qwen3-8b-awq"].rate_card, 500, 150)  # type: ignore[arg-type]
    owners = [Owner.of(one) for one in example.FIGURES if one.name in ("all-small", "routed+semantic")]
    found = table(owners, {"cheapest": 0.000139, "frontier": 0.00231}, RTX_4090, capacity)
    assert len(found) == 2 * 2 * 3 * 3
    assert {one.note for one in found if one.rps is not None} == {"capacity assumed"}
    longer = {one.tokens_scale: one.rps for one in found if (one.name, one.against) == ("all-small", "frontier")}
    assert longer[0.5] == pytest.approx(4 * longer[2.0])  # type: ignore[operator]
    stated = "\n".join(assumptions(RTX_4090, capacity))
    assert "$0.40/h" in stated
    assert "(assumed). assumed: RTX 4090" in stated


def test_an_owner_is_read_from_a_driven_row() -> None:
    owner = Owner.of(next(one for one in example.FIGURES if one.name == "routed+semantic"))
    assert owner.hosted_usd == pytest.approx((0.47 + 0.009 + 0.012) / 1000)
    assert owner.gpu_share == pytest.approx(0.55 * (0.024 + 0.012) / 0.024), "what was thrown away was work, too"


def test_a_price_has_a_source_and_a_date() -> None:
    assert all(hour.source and hour.as_of for hour in RTX_4090)
    own = HourPrice(0.4, "an invoice", "2026-11")
    assert [hour.usd_per_hour for hour in hours(own)] == [0.24, 0.4, 0.68]
    assert own in hours(own)
    assert [hour.usd_per_hour for hour in hours(HourPrice(0.5, "an invoice", "2026-11"))] == [0.24, 0.4, 0.5, 0.68]

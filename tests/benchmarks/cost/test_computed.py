from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost import computed, routers
from benchmarks.cost.routers import Candidate, Point, Table
from router.learned import Worth, wanted_tier

TIERS = ("small", "cheap", "frontier")
TABLE = Table(
    ["a", "b", "c", "d"],
    TIERS,
    np.array([[1.0, 2.0, 10.0]] * 4),
    np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], float),
)


def test_the_oracle_takes_the_cheapest_that_is_right_and_else_the_cheapest() -> None:
    choice = computed.oracle(TABLE)
    assert choice.tolist() == [0, 1, 2, 0]
    assert TABLE.at(choice) == ((1 + 2 + 10 + 1) / 4, 0.75)


def test_the_best_single_model_is_the_one_with_most_right_answers_and_the_cheaper_of_equals() -> None:
    assert computed.best_single(TABLE) == "frontier"
    equal = Table(TABLE.ids, TIERS, TABLE.usd_per_1k, np.ones((4, 3)))
    assert computed.best_single(equal) == "small"


def test_a_random_mix_goes_along_the_hull_of_each_task() -> None:
    # One task: small 25 % at 1, cheap 50 % at 2, frontier 75 % at 10
    curve = computed.random_mix(TABLE, ["t"] * 4)
    assert curve.usd_at(0.25) == pytest.approx(1.0)
    assert curve.usd_at(0.50) == pytest.approx(2.0)
    assert curve.usd_at(0.625) == pytest.approx(6.0)
    assert curve.usd_at(0.9) is None


def test_a_random_mix_spends_first_where_a_dollar_brings_most() -> None:
    # Task x gains one answer for 1, task y one for 9: half of what there is to gain costs 1.
    usd = np.array([[1.0, 2.0], [1.0, 10.0]])
    table = Table(["x", "y"], ("small", "frontier"), usd, np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert computed.random_mix(table, ["x", "y"]).usd_at(0.5) == pytest.approx(1.5)


def test_a_dominated_tier_is_not_on_the_hull() -> None:
    table = Table(["a"], TIERS, np.array([[1.0, 5.0, 2.0]]), np.array([[0.0, 0.0, 1.0]]))
    assert computed.random_mix(table, ["t"]).usd_per_1k.tolist() == [1.0, 2.0]


def test_a_draw_of_the_mix_has_the_quality_it_was_asked_for() -> None:
    ids = [str(i) for i in range(1000)]
    right = np.array([[i % 2 == 0, True] for i in range(1000)], float)
    table = Table(ids, ("small", "frontier"), np.array([[1.0, 2.0]] * 1000), right)
    choice = computed.mixed(table, ["t"] * 1000, 0.8, 0)
    assert (choice == 1).sum() == 600
    assert table.at(choice)[1] == pytest.approx(0.8, abs=0.03)
    assert (computed.mixed(table, ["t"] * 1000, 0.4, 0) == 0).all()


def test_a_ranking_sends_the_highest_scores_up_in_each_half() -> None:
    pair = Candidate("", ("small", "frontier"))
    fold = np.array([0, 0, 1, 1])
    scores = np.array([0.0, 1.0, 100.0, 50.0])
    curve = computed.ranked("x", scores, fold, pair, TABLE)
    # Half of each half: b and c, which is where only the frontier is right
    assert curve.usd_at(0.75) == pytest.approx((1 + 10 + 10 + 1) / 4)


@given(
    gains=st.lists(st.floats(-1, 1), min_size=1, max_size=5),
    threshold=st.floats(-0.5, 1.5),
    strength=st.floats(0, 1),
    middle=st.floats(1, 10),
)
def test_routes_are_those_of_the_service(gains: list[float], threshold: float, strength: float, middle: float) -> None:
    worths = [Worth(0.0, 1.0), Worth(strength, middle), Worth(1.0, 10.0)]
    shape = np.array([[w.strength, (w.usd_per_1k - 1.0) / 9.0] for w in worths])
    table = Table([str(i) for i in range(len(gains))], TIERS, np.ones((len(gains), 3)), np.ones((len(gains), 3)))
    found = routers.route(np.array(gains), threshold, Candidate("", TIERS), shape, table)
    assert found.tolist() == [wanted_tier(gain, threshold, worths) for gain in gains]


def test_the_threshold_chosen_is_the_last_before_one_fails() -> None:
    points = [Point(0.0, 9, 1, 1.0), Point(0.1, 8, 1, 0.98), Point(0.2, 7, 1, 0.96), Point(0.3, 6, 1, 0.99)]
    assert routers.cheapest(points, 0.97).threshold == 0.1

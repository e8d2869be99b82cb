"""The metrics are the published ones: against figures worked out by hand, and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.curves import FoldedRanking, Ranking, aiq, auroc, curve, first_crossing, upper_hull

WEAK = np.array([1.0, 0.0, 0.0, 1.0])
STRONG = np.array([1.0, 1.0, 1.0, 0.0])

outcome = st.sampled_from([0.0, 1.0])
rows = st.lists(st.tuples(st.integers(0, 4), outcome, outcome), min_size=1, max_size=12)


def test_a_perfect_ranking_by_hand() -> None:
    found = curve(STRONG - WEAK, WEAK, STRONG)
    # gains 1, 1, 0, -1 in this order, the two ones tied: quality 0.5 -> 1.0 at half -> 1.0 -> 0.75
    assert found.share.tolist() == [0.0, 0.5, 0.75, 1.0]
    assert found.quality.tolist() == [0.5, 1.0, 1.0, 0.75]
    # PGR is 0, 2, 2, 1: areas 0.5·1, 0.25·2, 0.25·1.5
    assert found.apgr() == pytest.approx(0.5 + 0.5 + 0.375)
    assert found.cpt(0.5) == pytest.approx(0.125)
    assert found.cpt(0.8) == pytest.approx(0.2)


def test_a_constant_score_is_a_random_mix() -> None:
    found = curve(np.zeros(4), WEAK, STRONG)
    assert found.share.tolist() == [0.0, 1.0]
    assert found.apgr() == pytest.approx(0.5)
    assert found.cpt(0.5) == pytest.approx(0.5)


@given(rows)
def test_ties_are_the_mean_over_all_orders_of_the_tied(cases: list[tuple[int, float, float]]) -> None:
    scores, weak, strong = (np.array(column, float) for column in zip(*cases[:5], strict=True))
    if weak.mean() == strong.mean():
        return
    areas = []
    for order in itertools.permutations(range(len(scores))):
        jitter = np.empty(len(scores))
        jitter[list(order)] = np.linspace(0.0, 0.5, len(scores))
        areas.append(curve(scores + jitter, weak, strong).apgr())
    assert curve(scores, weak, strong).apgr() == pytest.approx(np.mean(areas), abs=1e-9)


@given(rows, st.data())
def test_a_weight_is_a_repeated_row(cases: list[tuple[int, float, float]], data: st.DataObject) -> None:
    scores, weak, strong = (np.array(column, float) for column in zip(*cases, strict=True))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(cases), max_size=len(cases))))
    if not weights.any():
        return
    weighted = Ranking.of(scores).curve(weak, strong, weights.astype(float))
    repeated = curve(*(np.repeat(column, weights) for column in (scores, weak, strong)))
    shares = np.linspace(0, 1, 7)
    assert [weighted.at(s) for s in shares] == pytest.approx([repeated.at(s) for s in shares])


@given(rows, st.data())
def test_the_quick_area_is_that_of_the_curve(cases: list[tuple[int, float, float]], data: st.DataObject) -> None:
    scores, weak, strong = (np.array(column, float) for column in zip(*cases, strict=True))
    folds = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(cases), max_size=len(cases))))
    ranking = FoldedRanking.of(scores, folds)
    found = ranking.curve(weak, strong)
    if abs(found.strong - found.weak) < 1e-9:
        return
    assert ranking.apgr(weak, strong, np.ones(len(cases))) == pytest.approx(found.apgr())


@given(rows)
def test_auroc_is_the_share_of_pairs_in_the_right_order(cases: list[tuple[int, float, float]]) -> None:
    scores = np.array([score for score, _, _ in cases], float)
    positive = np.array([first > 0 for _, first, _ in cases])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    found = auroc(scores, positive)
    assert np.isnan(found) if not pairs else found == pytest.approx(np.mean(pairs))


def test_a_level_that_is_reached_exactly_is_reached() -> None:
    """20 rows of 149 gain; the 16th of them, 80 %, is the 45th in the order, and the next one comes long after."""
    gains = np.zeros(149)
    gains[[*range(15), 44, 100, 110, 120, 130]] = 1.0
    for both_right in range(18):  # for some of these the sum is a bit below
        weak = (np.arange(149) > 148 - both_right).astype(float)
        assert curve(-np.arange(149.0), weak, weak + gains).cpt(0.8) == pytest.approx(45 / 149)


def test_crossings_are_interpolated_and_may_not_exist() -> None:
    x, y = np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 0.5])
    assert first_crossing(x, y, 0.5) == pytest.approx(0.25)
    assert first_crossing(x, y, 0.0) == 0.0
    assert np.isnan(first_crossing(x, y, 1.5))


def test_aiq_by_hand() -> None:
    # hull through (0, 0.4), (1, 0.8); the point below it and the worse, dearer one do not count; flat to 2
    cost, quality = np.array([0.0, 0.5, 1.0, 1.5]), np.array([0.4, 0.5, 0.8, 0.7])
    assert upper_hull(cost, quality)[0].tolist() == [0.0, 1.0]
    assert aiq(cost, quality, 2.0) == pytest.approx((0.6 + 0.8) / 2)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=10))
def test_the_hull_lies_above_all_points_and_is_concave(points: list[tuple[int, int]]) -> None:
    x, y = (np.array(column, float) for column in zip(*points, strict=True))
    hull_x, hull_y = upper_hull(x, y)
    assert all(np.interp(a, hull_x, hull_y) >= b - 1e-9 for a, b in points)
    slopes = np.diff(hull_y) / np.diff(hull_x)
    assert (slopes > 0).all() and (np.diff(slopes) < 1e-9).all()

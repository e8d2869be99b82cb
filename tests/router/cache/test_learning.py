"""Bounds, prior and learner: what the numbers promise, checked by simulation."""

import math
import random

import numpy as np
import pytest

from models.errors import ConfigError
from router.cache import bounds, learner, prior
from router.cache.learner import EntryHistory, Label, fresh, learn

DELTA = 0.02


def test_the_exact_bound_agrees_with_the_rule_of_three() -> None:
    assert bounds.upper_bound(0, 300) == pytest.approx(3 / 300, rel=0.02)


@pytest.mark.parametrize(("events", "trials", "expected"), [(0, 10, 0.2589), (1, 10, 0.3942), (5, 100, 0.1023)])
def test_the_exact_bound_agrees_with_published_values(events: int, trials: int, expected: float) -> None:
    assert bounds.upper_bound(events, trials) == pytest.approx(expected, abs=5e-4)


def test_the_bound_is_one_without_trials_and_refuses_nonsense() -> None:
    assert bounds.upper_bound(0, 0) == 1.0
    assert bounds.lower_bound(0, 10) == 0.0
    with pytest.raises(ValueError, match="3 events"):
        bounds.upper_bound(3, 2)


def test_the_bound_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    wrong = rng.binomial(200, 0.03, size=2000)
    covered = sum(bounds.upper_bound(int(events), 200) >= 0.03 for events in wrong)
    assert covered / 2000 >= 0.95


def _rows(count: int) -> tuple[prior.Matrix, prior.Matrix]:
    rng = np.random.default_rng(3)
    passed = np.arange(count) % 2
    rows = np.column_stack((rng.uniform(0.7, 1.0, count), passed)).astype(np.float64)
    return rows, passed.astype(np.float64)


def test_separable_labels_give_a_finite_prior_no_surer_than_their_number_allows() -> None:
    few, many = (prior.fit(*_rows(count)) for count in (40, 400))
    good = (0.9, 1.0)
    assert 0.9 < prior.probability(few.score(good)) < prior.probability(many.score(good)) < 0.999


def test_the_prior_never_falls_with_cosine_even_where_the_labels_do() -> None:
    rows, right = _rows(200)
    rows[:, 0] = np.where(right == 1, 0.8, 0.99)
    fitted = prior.fit(rows, right)
    assert fitted.score((0.99, 1.0)) >= fitted.score((0.8, 1.0))


def test_one_kind_of_label_is_no_training_set() -> None:
    rows, _ = _rows(10)
    with pytest.raises(ValueError, match="one kind"):
        prior.fit(rows, np.ones(10))


@pytest.mark.parametrize("text", [b"{}", b"[]", b"no", b'{"intercept": 1, "coefficients": {}}'])
def test_a_prior_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError):
        prior.Prior.from_json(text)


def test_the_threshold_is_where_the_lower_bound_reaches_what_was_asked() -> None:
    labels = (Label(6.0, True), Label(7.0, True))
    threshold = learn(learn(fresh(DELTA), labels[0], DELTA), labels[1], DELTA).threshold
    assert learner.lower_bound(threshold + 1e-6, labels) >= 1 - DELTA
    assert threshold > math.log((1 - DELTA) / DELTA)


def test_good_labels_lower_the_threshold_but_not_below_the_lowest_of_them() -> None:
    history = fresh(DELTA)
    start = history.threshold
    for _ in range(40):
        history = learn(history, Label(start - 0.3, True), DELTA)
    assert start - 0.3 <= history.threshold < start


def test_a_bad_label_below_the_threshold_raises_it() -> None:
    start = fresh(DELTA)
    assert learn(start, Label(1.0, False), DELTA).threshold > start.threshold


def test_one_bad_label_against_a_confident_prior_quarantines_the_entry_for_good() -> None:
    history = learn(fresh(DELTA), Label(3.0, False), DELTA)
    assert history.quarantined
    for _ in range(50):
        history = learn(history, Label(9.0, True), DELTA)
    assert history.quarantined
    assert math.isinf(history.threshold)


def _live(truth: list[float], requests: int, seed: int) -> tuple[int, int]:
    """Hits and wrong hits of entries whose answer is right from the score in `truth` on; labels come as in service."""
    rng = random.Random(seed)
    hits = wrong = 0
    for right_from in truth:
        history: EntryHistory = fresh(DELTA)
        for _ in range(requests):
            score = rng.uniform(0.0, 8.0)
            right = rng.random() < prior.probability(4.0 * (score - right_from))
            if score < history.threshold or rng.random() < 0.05:
                history = learn(history, Label(score, right), DELTA)
            else:
                hits += 1
                wrong += not right
    return hits, wrong


def test_an_entry_never_right_soon_serves_no_more() -> None:
    _, wrong = _live([1e9] * 30, requests=60, seed=1)
    assert wrong / 30 < 1.5  # a third of its 60 requests lie above the starting threshold


def test_entries_as_the_prior_expects_them_keep_wrong_hits_per_hit_under_the_target() -> None:
    rng = random.Random(5)
    entries = [rng.gauss(0.0, learner.SPREAD[0]) for _ in range(60)]
    hits, wrong = _live(entries, requests=40, seed=2)
    assert hits > 200
    assert wrong / hits < DELTA


def test_mixed_entries_keep_wrong_hits_per_hit_under_the_target() -> None:
    hits, wrong = _live([3.0] * 60, requests=40, seed=3)
    assert hits > 50
    assert wrong / hits < DELTA

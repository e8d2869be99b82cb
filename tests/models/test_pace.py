"""What an answer is expected to take, from what the last ones took."""

from __future__ import annotations

import random

import pytest

from models.pace import FORGOTTEN_AFTER_S, LEAST_ANSWERS, Pace


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def taught(seconds: float, per_request_s: float, loads: list[int], noise_s: float = 0.0) -> Pace:
    pace, rng = Pace(), random.Random(1)
    for load in loads:
        pace.answered(seconds + per_request_s * load + rng.uniform(-noise_s, noise_s), load)
    return pace


def test_without_evidence_nothing_is_expected() -> None:
    pace = taught(1.0, 0.0, [1] * (LEAST_ANSWERS - 1))
    assert pace.expected_s(0) is None
    pace.answered(1.0, 1)
    assert pace.expected_s(0) == pytest.approx(1.0)


def test_a_line_is_found_and_followed_beyond_what_was_seen() -> None:
    pace = taught(1.0, 0.1, [1, 4, 9, 16] * 20, noise_s=0.05)
    assert pace.expected_s(0) == pytest.approx(1.1, rel=0.1)
    assert pace.expected_s(39) == pytest.approx(5.0, rel=0.1)


def test_without_a_spread_of_loads_it_is_the_mean() -> None:
    assert taught(2.0, 0.0, [3] * 40).expected_s(100) == pytest.approx(2.0)


def test_more_load_never_makes_it_faster_and_nothing_is_negative() -> None:
    pace = taught(5.0, -0.1, [1, 10, 20, 30] * 10)
    assert pace.expected_s(1000) == pace.expected_s(0) > 0
    assert (taught(0.0, 0.1, [20, 30, 40] * 20).expected_s(0) or 0.0) >= 0.0


def test_what_was_slow_long_ago_is_tried_again() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(LEAST_ANSWERS):
        pace.answered(60.0, 1)
    assert pace.expected_s(0) == pytest.approx(60.0)
    clock.now_s = FORGOTTEN_AFTER_S + 1
    assert pace.expected_s(0) is None


def test_a_backend_that_has_become_faster_is_believed() -> None:
    pace = taught(10.0, 0.0, [1] * 50)
    for _ in range(100):
        pace.answered(1.0, 1)
    assert pace.expected_s(0) == pytest.approx(1.0, abs=0.1)


def test_what_was_given_up_took_longer_and_patience_is_not_speed() -> None:
    pace = Pace()
    for _ in range(LEAST_ANSWERS):
        pace.given_up(3.0, 1)
    expected_s = pace.expected_s(0)
    assert expected_s is not None and 3.0 < expected_s < 4.0
    for _ in range(100):
        pace.given_up(0.1, 1)
    assert pace.expected_s(0) == expected_s
    for _ in range(100):
        pace.answered(0.5, 1)
    assert pace.expected_s(0) == pytest.approx(0.5, abs=0.1)

"""The circuit breaker on a clock of the test's own."""

from __future__ import annotations

import pytest

from models.breaker import Breaker, BreakerPolicy
from models.errors import (
    BadRequest,
    ContextExceeded,
    CreditExhausted,
    FarthingError,
    KeyRejected,
    NotUp,
    Overloaded,
    StreamCut,
    Unavailable,
)

DOWN = Unavailable("down")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def states() -> list[str]:
    return []


@pytest.fixture
def breaker(clock: Clock, states: list[str]) -> Breaker:
    return Breaker(BreakerPolicy(failures=3, open_s=10.0, cool_down_s=300.0), states.append, clock)


def fail(breaker: Breaker, error: FarthingError = DOWN, times: int = 1) -> None:
    for _ in range(times):
        breaker.began()
        breaker.failed(error)


def test_it_opens_after_failures_in_a_row_and_an_answer_between_starts_the_count_anew(breaker: Breaker) -> None:
    fail(breaker, times=2)
    breaker.began()
    breaker.succeeded()
    fail(breaker, times=2)
    assert breaker.state == "closed" and breaker.allows()
    fail(breaker)
    assert breaker.state == "open" and not breaker.allows()


def test_half_open_lets_one_probe_through_and_its_success_closes(
    breaker: Breaker, clock: Clock, states: list[str]
) -> None:
    fail(breaker, times=3)
    clock.now_s += 9.9
    assert not breaker.allows() and breaker.wait_s() == pytest.approx(0.1)
    clock.now_s += 0.2
    assert breaker.allows() and breaker.state == "half_open"
    breaker.began()
    assert not breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert states == ["open", "half_open", "closed"]


def test_a_probe_that_fails_opens_for_the_whole_time_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, times=3)
    clock.now_s += 10
    fail(breaker)
    assert breaker.state == "open" and breaker.wait_s() == 10.0


def test_a_probe_that_was_given_up_may_be_made_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, times=3)
    clock.now_s += 10
    breaker.began()
    breaker.abandoned()
    assert breaker.allows() and breaker.state == "half_open"


@pytest.mark.parametrize("error", [KeyRejected("key"), CreditExhausted("credit")])
def test_a_rejected_key_or_spent_credit_cools_down_at_once_and_long(
    breaker: Breaker, clock: Clock, error: FarthingError
) -> None:
    fail(breaker, error)
    clock.now_s += 299
    assert not breaker.allows()
    clock.now_s += 1
    assert breaker.allows()


@pytest.mark.parametrize("error", [BadRequest("bad"), ContextExceeded("long")])
def test_the_callers_faults_never_count_and_show_that_it_lives(breaker: Breaker, error: FarthingError) -> None:
    fail(breaker, times=2)
    fail(breaker, error)
    fail(breaker, times=2)
    assert breaker.state == "closed"


def cut_by_leaving() -> StreamCut:
    error = StreamCut("the answer broke off")
    error.__cause__ = NotUp("the engine went away")
    return error


@pytest.mark.parametrize("error", [NotUp("not up"), cut_by_leaving()])
def test_that_nobody_is_there_leaves_nothing_for_the_next_one_to_pay_for(
    breaker: Breaker, error: FarthingError
) -> None:
    fail(breaker, times=2)
    fail(breaker, error, times=9)
    fail(breaker, times=2)
    assert breaker.state == "closed" and breaker.allows()


def test_a_probe_that_finds_nobody_closes(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, times=3)
    clock.now_s += 10
    fail(breaker, NotUp("not up"))
    assert breaker.state == "closed" and breaker.allows()


def test_an_overloaded_backend_is_left_alone_as_long_as_it_asked_for(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, Overloaded("full", retry_after_s=4.0), times=5)
    assert breaker.state == "closed" and not breaker.allows() and breaker.wait_s() == 4.0
    clock.now_s += 4.0
    assert breaker.allows()

"""When to ask again: with jitter, within the deadline, no sooner than the server asked for."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import (
    BadRequest,
    CreditExhausted,
    FarthingError,
    KeyRejected,
    Overloaded,
    ProtocolViolation,
    StreamCut,
    Unavailable,
)
from models.retry import RetryPolicy, next_wait_s

seconds = st.floats(0, 1e6, allow_nan=False)


@given(
    attempt=st.integers(1, 5000),
    attempts=st.integers(1, 5000),
    left_s=seconds,
    retry_after_s=st.none() | seconds,
    seed=st.integers(0, 2**32),
)
def test_a_wait_is_within_the_deadline_and_the_cap_and_no_sooner_than_asked_for(
    attempt: int, attempts: int, left_s: float, retry_after_s: float | None, seed: int
) -> None:
    policy = RetryPolicy(attempts=attempts)
    wait_s = next_wait_s(policy, attempt, Unavailable("down", retry_after_s=retry_after_s), left_s, random.Random(seed))
    if wait_s is None:
        return
    assert attempt < attempts
    assert 0 <= wait_s < left_s
    assert wait_s <= max(policy.cap_s, policy.max_retry_after_s)
    assert wait_s >= (retry_after_s or 0)


def test_waits_are_jittered_over_a_range_that_doubles() -> None:
    policy, rng = RetryPolicy(attempts=10, base_s=0.2, cap_s=1.0), random.Random(1)
    for attempt, top_s in ((1, 0.2), (2, 0.4), (3, 0.8), (4, 1.0), (9, 1.0)):
        waits = [next_wait_s(policy, attempt, Unavailable("x"), 60.0, rng) or 0.0 for _ in range(400)]
        assert max(waits) <= top_s
        assert min(waits) < 0.1 * top_s and max(waits) > 0.9 * top_s


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unavailable("x"), True),
        (Overloaded("x"), True),
        (ProtocolViolation("x"), True),
        (Overloaded("x", retry_after_s=3.0), True),
        (Overloaded("x", retry_after_s=60.0), False),
        (KeyRejected("x"), False),
        (CreditExhausted("x"), False),
        (StreamCut("x"), False),
        (BadRequest("x"), False),
    ],
)
def test_only_what_may_pass_soon_is_asked_again(error: FarthingError, again: bool) -> None:
    assert (next_wait_s(RetryPolicy(), 1, error, 60.0, random.Random(0)) is not None) is again
    assert next_wait_s(RetryPolicy(), 2, error, 60.0, random.Random(0)) is None

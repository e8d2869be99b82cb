"""When to ask again: full jitter, never past the deadline, and no sooner than the server asked for. Pure.

Full jitter after Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from models.errors import FarthingError

MAX_DOUBLINGS = 64  # far beyond any cap; a float ends at 1023


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` counts the first; a Retry-After beyond `max_retry_after_s` is not waited for."""

    attempts: int = 2
    base_s: float = 0.2
    cap_s: float = 5.0
    max_retry_after_s: float = 5.0


def next_wait_s(
    policy: RetryPolicy, attempt: int, error: FarthingError, left_s: float, rng: random.Random
) -> float | None:
    """Seconds to wait before attempt `attempt + 1` (attempts count from 1); None when it should not be made."""
    if not error.retryable or attempt >= policy.attempts:
        return None
    wait_s = rng.uniform(0.0, min(policy.cap_s, policy.base_s * 2.0 ** min(attempt - 1, MAX_DOUBLINGS)))
    if error.retry_after_s is not None:
        if error.retry_after_s > policy.max_retry_after_s:
            return None
        wait_s = max(wait_s, error.retry_after_s)
    return wait_s if wait_s < left_s else None

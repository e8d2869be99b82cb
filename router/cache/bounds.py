"""Exact binomial bounds (Clopper and Pearson 1934), by bisection on the tail: no statistics library at run time."""

from __future__ import annotations

import numpy as np

_STEPS = 60


def upper_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided: the rate below which the truth lies with `confidence`. 0 events in n give about 3/n. 1.0 without
    trials."""
    if not 0 <= events <= trials:
        raise ValueError(f"{events} events in {trials} trials")
    if events == trials:
        return 1.0
    return _solve(events, trials, 1.0 - confidence)


def lower_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided: the rate above which the truth lies with `confidence`. 0.0 without events."""
    return 1.0 - upper_bound(trials - events, trials, confidence)


def _solve(events: int, trials: int, tail: float) -> float:
    """The rate at which `events` or fewer come up with probability `tail`."""
    counts = np.arange(1, events + 1)
    log_ways = np.concatenate(([0.0], np.cumsum(np.log((trials - counts + 1) / counts))))
    successes = np.arange(events + 1)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        rate = (low + high) / 2
        terms = log_ways + successes * np.log(rate) + (trials - successes) * np.log1p(-rate)
        if float(np.exp(terms).sum()) > tail:
            low = rate
        else:
            high = rate
    return high

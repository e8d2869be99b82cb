"""Ways to choose between two models, as what they cost and get right at every setting of their one knob. Pure.

A cost of 1 is one token, of prompt or answer, at the small model's price; the strong one's is `ratio` times that. The
strong answer is taken to be as long as the small one's. Who begins with the small model pays for what it drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Floats

SETTINGS: Final = 101  # of a knob
BUDGETS: Final = np.linspace(0.0, 1.0, 21)  # between always-small, 0, and always-strong, 1


@dataclass(frozen=True, slots=True)
class Requests:
    """Parallel columns: which model is right (0..1), and tokens of prompt and of the small answer."""

    weak: Floats
    strong: Floats
    prompt_tokens: Floats
    answer_tokens: Floats
    ratio: float

    def __len__(self) -> int:
        return len(self.weak)

    @property
    def small_cost(self) -> Floats:
        return self.prompt_tokens + self.answer_tokens

    @property
    def strong_cost(self) -> Floats:
        return self.ratio * self.small_cost

    def begun_cost(self, tokens_k: int) -> Floats:
        """Of a small answer dropped after `tokens_k` tokens; 0: when it was whole."""
        read = np.minimum(self.answer_tokens, tokens_k) if tokens_k else self.answer_tokens
        return self.prompt_tokens + read


@dataclass(frozen=True, slots=True)
class Policy:
    """(SETTINGS, n) each: from everything to the small model to everything to the strong one."""

    cost: Floats
    right: Floats


def by_chance(requests: Requests) -> Policy:
    """A random mix, in expectation."""
    share = np.linspace(0.0, 1.0, SETTINGS)[:, None]
    cost = requests.small_cost + share * (requests.strong_cost - requests.small_cost)
    return Policy(cost, requests.weak + share * (requests.strong - requests.weak))


def by_prompt(requests: Requests, score: Floats) -> Policy:
    """The strong model for the highest scores, nothing begun."""
    up = score >= _knob(score)[:, None]
    return Policy(np.where(up, requests.strong_cost, requests.small_cost), np.where(up, requests.strong, requests.weak))


def by_cascade(requests: Requests, doing: Floats, tokens_k: int) -> Policy:
    """The small model begins everything; where it is least likely to do, its answer is dropped."""
    dropped = -doing >= _knob(-doing)[:, None]
    dear = requests.begun_cost(tokens_k) + requests.strong_cost
    return Policy(np.where(dropped, dear, requests.small_cost), np.where(dropped, requests.strong, requests.weak))


def by_band(requests: Requests, gain: Floats, doing: Floats, tokens_k: int, half: float) -> Policy:
    """Prompt and cascade: of the gains within `half` of the threshold, on either side, the tokens decide.

    The tokens' threshold is where as large a part is dropped as the prompt's would have sent up.
    """
    place = (np.argsort(np.argsort(gain, kind="stable"), kind="stable") + 0.5) / len(gain)
    shares = np.linspace(0.0, 1.0, SETTINGS)
    cost, right = np.empty((SETTINGS, len(gain))), np.empty((SETTINGS, len(gain)))
    for row, share in enumerate(shares):
        width = min(half, share, 1.0 - share)  # no band where all, or nothing, goes up
        up = place > 1.0 - share + width
        tried = ~up & (place >= 1.0 - share - width)
        wanted = round(float(share * len(gain))) - int(up.sum())
        least = np.flatnonzero(tried)[np.argsort(doing[tried], kind="stable")[: max(0, wanted)]]
        dropped = np.zeros(len(gain), bool)
        dropped[least] = True
        began = np.where(dropped, requests.begun_cost(tokens_k), 0.0)
        strong = up | dropped
        cost[row] = np.where(strong, requests.strong_cost + began, requests.small_cost)
        right[row] = np.where(strong, requests.strong, requests.weak)
    return Policy(cost, right)


def at_budgets(policy: Policy, requests: Requests, weights: NDArray[np.float64]) -> Floats:
    """(draws, BUDGETS) quality at equal cost. weights: (draws, n), how often each request was drawn."""
    total = weights.sum(axis=1, keepdims=True)
    cost, right = (weights @ part.T / total for part in (policy.cost, policy.right))
    low, high = (weights @ part / total[:, 0] for part in (requests.small_cost, requests.strong_cost))
    spent = (cost - low[:, None]) / (high - low)[:, None]
    return np.array([np.interp(BUDGETS, x, y) for x, y in zip(spent, right, strict=True)])


def _knob(score: Floats) -> Floats:
    """Thresholds from above the highest score to below the lowest, an equal share of the requests between them."""
    inner: Floats = np.quantile(score, np.linspace(1.0, 0.0, SETTINGS)).astype(np.float64)
    inner[0] = np.nextafter(score.max(), np.inf)
    return inner

"""What a deployed router is watched by: drift of inputs and scores, and who escalates. Plain values, for telemetry.

Drift is the population stability index between what training saw and the last requests: below 0.1 nothing, above 0.25
the threshold no longer means what was calibrated. Knows no metrics library.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.deployed import Deployed
from router.estimators.base import Floats

MAX_KEYS: Final = 2_000
HALF_LIFE: Final = 200  # requests of one key after which an old one counts half
LEAST_OF_KEY: Final = 20  # requests of one key below which its share says nothing: one hard question would be all
DRIFTED: Final = 0.25


@dataclass(frozen=True, slots=True)
class Report:
    """psi_*: NaN before `least` requests. escalation: share of recent requests wanting more than the first tier; by key
    only for those with `LEAST_OF_KEY` recent ones."""

    requests: int
    psi_scores: float
    psi_inputs: float
    escalation: float
    escalation_by_key: dict[str, float]


def stability_index(expected: Floats, found: Floats) -> float:
    """Sum of (found − expected)·ln(found/expected) over bins; counts or shares, half a row is added to each bin."""
    e = (expected + 0.5) / (expected + 0.5).sum()
    f = (found + 0.5) / (found + 0.5).sum()
    return float(((f - e) * np.log(f / e)).sum())


class Watch:
    """Over the last `window` requests. Bound to one artifact: a new one needs a new watch."""

    def __init__(self, deployed: Deployed, window: int = 2_000, least: int = 200) -> None:
        self._edges = np.array(deployed.policy.score_edges)
        self._shares = np.array([topic.share for topic in deployed.policy.topics])
        self._deployed = deployed
        self._least = least
        self._recent: deque[tuple[int, int, bool]] = deque(maxlen=window)
        self._keys: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def observe(self, key: str, score: float, vector: NDArray[np.float32], escalated: bool) -> None:
        """key: the API key or tenant, as the caller wants it named. vector: (dim,)."""
        place = int(np.searchsorted(self._edges, score, side="right"))
        topic = int(self._deployed.topic_of(vector[None])[0])
        self._recent.append((place, topic, escalated))
        keep = 0.5 ** (1.0 / HALF_LIFE)
        count, escalations = self._keys.pop(key, (0.0, 0.0))
        self._keys[key] = (count * keep + 1.0, escalations * keep + float(escalated))
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)

    def report(self) -> Report:
        count = len(self._recent)
        enough = count >= self._least
        places = [place for place, _, _ in self._recent]
        topics = [topic for _, topic, _ in self._recent]
        expected = self._shares * count
        even = np.full(len(self._edges) + 1, count / (len(self._edges) + 1))
        return Report(
            requests=count,
            psi_scores=stability_index(even, _counts(places, len(even))) if enough else float("nan"),
            psi_inputs=stability_index(expected, _counts(topics, len(expected))) if enough else float("nan"),
            escalation=sum(escalated for _, _, escalated in self._recent) / count if count else 0.0,
            escalation_by_key={
                key: escalations / seen for key, (seen, escalations) in self._keys.items() if seen >= LEAST_OF_KEY
            },
        )


def _counts(places: Sequence[int], bins: int) -> Floats:
    return np.bincount(np.array(places, np.int64), minlength=bins).astype(float)

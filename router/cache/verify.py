"""May this cached answer serve this question? Gates, then the calibrated chance that it is right, then nothing left
to doubt.

    gates refuse            → miss, whatever the cosine
    score below threshold   → explore: answer afresh, compare, learn
    score above             → serve; now and then explore instead, to know how often serving is wrong

Pure: no index, no store, no clock, no model; chance comes in as `draw`. A doubt anywhere ends in a miss.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from router.cache import bounds, gates, prior
from router.cache.learner import EntryHistory
from router.cache.prior import Prior
from router.cache.text import Reading


class Action(StrEnum):
    SERVE = "serve"
    EXPLORE = "explore"
    MISS = "miss"


@dataclass(frozen=True, slots=True)
class Rules:
    """`max_wrong_hit_rate`: wrong answers per hit that are allowed. `cosine_floor`: below it nothing is looked at.
    `score_floor`: what tuning found necessary beyond that. `explore_rate`: share of would-be hits answered afresh."""

    max_wrong_hit_rate: float = 0.02
    cosine_floor: float = 0.8
    score_floor: float = 0.0
    explore_rate: float = 0.02

    def __post_init__(self) -> None:
        if not 0.0 < self.max_wrong_hit_rate < 0.5:
            raise ValueError("max_wrong_hit_rate must be between 0 and 0.5, without either")
        if not (-1.0 <= self.cosine_floor <= 1.0 and 0.0 <= self.explore_rate <= 1.0):
            raise ValueError("cosine_floor must be a cosine and explore_rate a share")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry near the question: its text as read when it was written, its cosine to the question, its history."""

    reading: Reading
    similarity: float
    history: EntryHistory


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason`: a stable code (`floor`, `gate_<name>`, `verifier`, `unproven`, `quarantined`, `tripped`, `sampled`,
    `proven`). `would_serve`: only chance or the kill switch made it something else than a hit, so its label counts
    for the monitor. `score`: the prior's logit, to be handed to the learner with the label."""

    action: Action
    reason: str
    probability_right: float
    score: float
    would_serve: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decider:
    """The rules with the prior they are read against; one per loaded artifact (`tune.load`, `tune.shipped`)."""

    rules: Rules
    pooled: Prior

    def decide(self, question: Reading, candidate: Candidate, *, draw: float, tripped: bool = False) -> Verdict:
        """`draw`: uniform in 0..1. `tripped`: the monitor's word that hits must stop."""
        if not candidate.similarity >= self.rules.cosine_floor:  # not a number is below, too
            return Verdict(Action.MISS, "floor", 0.0, float("-inf"))
        refused = gates.judge(question, candidate.reading)
        score = self.pooled.score(prior.features(candidate.similarity, refused is None))
        chance = prior.probability(score)
        if refused:
            return Verdict(Action.MISS, f"gate_{refused.gate}", chance, score, detail=refused.detail)
        if candidate.history.quarantined:
            return Verdict(Action.MISS, "quarantined", chance, score)
        if score < max(candidate.history.threshold, self.rules.score_floor):
            return Verdict(Action.EXPLORE, "unproven", chance, score)
        if tripped:
            explores = Action.EXPLORE if draw < self.rules.explore_rate else Action.MISS
            return Verdict(explores, "tripped", chance, score, would_serve=True)
        if draw < self.rules.explore_rate:
            return Verdict(Action.EXPLORE, "sampled", chance, score, would_serve=True)
        return Verdict(Action.SERVE, "proven", chance, score, would_serve=True)


@dataclass(slots=True)
class WrongHitMonitor:
    """How often hits are wrong, from the labels of would-be hits that chance chose; and the kill switch.

    `evidence_hits` and `evidence_wrong` are the replay that chose the thresholds; fresh labels displace it one for one,
    so that in time only what this service saw counts. `tripped` while the bound lies above the budget.
    """

    max_wrong_hit_rate: float
    evidence_hits: int = 0
    evidence_wrong: int = 0
    window: int = 2000
    _labels: deque[bool] = field(default_factory=deque)

    def record(self, verdict: Verdict, right: bool) -> None:
        """Takes a label; those of pairs that would not have been hits say nothing about hits and are left out."""
        if verdict.would_serve:
            self._add(right)

    def complained(self) -> None:
        """A hit was wrong by the word of whoever got it."""
        self._add(False)

    def _add(self, right: bool) -> None:
        self._labels.append(right)
        while len(self._labels) > self.window:
            self._labels.popleft()

    @property
    def labels(self) -> list[bool]:
        """Oldest first, for `restore`."""
        return list(self._labels)

    def renew(self, max_wrong_hit_rate: float, evidence_hits: int, evidence_wrong: int) -> None:
        """Of new thresholds: what was seen under the old ones says nothing about them."""
        self.max_wrong_hit_rate = max_wrong_hit_rate
        self.evidence_hits, self.evidence_wrong = evidence_hits, evidence_wrong
        self._labels.clear()

    def restore(self, labels: Iterable[bool]) -> None:
        """Labels kept from before a restart, oldest first."""
        self._labels = deque(list(labels)[-self.window :])

    @property
    def counted(self) -> tuple[int, int]:
        """Wrong hits and hits that the bound rests on."""
        share = max(0.0, 1.0 - len(self._labels) / self.window)
        kept = min(self.evidence_hits, self.window) * share
        wrong = kept * self.evidence_wrong / self.evidence_hits if self.evidence_hits else 0.0
        return round(wrong + 0.499) + self._labels.count(False), round(kept) + len(self._labels)

    @property
    def upper_bound(self) -> float:
        """One-sided 95 % Clopper-Pearson bound on wrong answers per hit; 1.0 before there is any evidence."""
        wrong, hits = self.counted
        return bounds.upper_bound(min(wrong, hits), hits)

    @property
    def tripped(self) -> bool:
        return self.upper_bound > self.max_wrong_hit_rate

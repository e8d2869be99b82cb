"""The decision, its kill switch, and how labels are made."""

import math

import pytest

from router.cache.answers import Comparison, agree, question_for_judge, verdict
from router.cache.entailment import accepts
from router.cache.learner import EntryHistory, Label, fresh, learn
from router.cache.prior import Prior
from router.cache.text import read
from router.cache.verify import Action, Candidate, Decider, Rules, WrongHitMonitor

PRIOR = Prior(-11.6, {"similarity": 10.0, "passed": 8.2})
DECIDER = Decider(Rules(), PRIOR)
QUESTION = read("How do I reset my password?")
REWORDED = read("How can I reset my password?")
OTHER = read("How do I reset my router?")


def candidate(reading: object = REWORDED, similarity: float = 0.97, history: EntryHistory | None = None) -> Candidate:
    return Candidate(reading, similarity, history or fresh(0.02))  # type: ignore[arg-type]


def test_a_proven_repeat_is_served() -> None:
    made = DECIDER.decide(QUESTION, candidate(), draw=0.5)
    assert (made.action, made.reason) == (Action.SERVE, "proven")
    assert made.probability_right > 0.98


@pytest.mark.parametrize(
    ("changed", "action", "reason"),
    [
        ({"similarity": 0.79}, Action.MISS, "floor"),
        ({"similarity": math.nan}, Action.MISS, "floor"),
        ({"similarity": 0.81}, Action.EXPLORE, "unproven"),
        ({"reading": OTHER, "similarity": 0.999}, Action.MISS, "gate_content"),
        ({"history": learn(fresh(0.02), Label(9.0, False), 0.02)}, Action.MISS, "quarantined"),
    ],
)
def test_any_doubt_is_a_miss_or_a_question_asked_afresh(
    changed: dict[str, object], action: Action, reason: str
) -> None:
    made = DECIDER.decide(QUESTION, candidate(**changed), draw=0.5)  # type: ignore[arg-type]
    assert (made.action, made.reason, made.would_serve) == (action, reason, False)


def test_now_and_then_a_hit_is_explored_and_its_label_counts() -> None:
    made = DECIDER.decide(QUESTION, candidate(), draw=0.001)
    assert (made.action, made.reason, made.would_serve) == (Action.EXPLORE, "sampled", True)


def test_the_kill_switch_stops_every_hit() -> None:
    assert DECIDER.decide(QUESTION, candidate(), draw=0.5, tripped=True).action is Action.MISS
    assert DECIDER.decide(QUESTION, candidate(), draw=0.001, tripped=True).action is Action.EXPLORE


@pytest.mark.parametrize("rate", [0.0, 0.5, -1.0, math.nan])
def test_a_target_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="max_wrong_hit_rate"):
        Rules(max_wrong_hit_rate=rate)


HIT = DECIDER.decide(QUESTION, candidate(), draw=0.001)
NO_HIT = DECIDER.decide(QUESTION, candidate(similarity=0.81), draw=0.5)


def test_the_monitor_starts_tripped_without_evidence_and_opens_once_labels_show_enough() -> None:
    monitor = WrongHitMonitor(0.02)
    assert monitor.tripped
    for _ in range(149):
        monitor.record(HIT, right=True)
    assert not monitor.tripped
    assert monitor.upper_bound == pytest.approx(3 / 149, rel=0.02)


def test_wrong_hits_trip_the_monitor_and_labels_of_no_hits_do_not_count() -> None:
    monitor = WrongHitMonitor(0.02, evidence_hits=187, evidence_wrong=0)
    for _ in range(100):
        monitor.record(NO_HIT, right=False)
    assert not monitor.tripped
    monitor.record(HIT, right=False)
    assert monitor.tripped


def test_what_the_service_sees_displaces_what_the_replay_said() -> None:
    monitor = WrongHitMonitor(0.02, evidence_hits=10_000, evidence_wrong=0, window=100)
    monitor.restore([True] * 90 + [False] * 10)
    assert monitor.counted == (10, 100)
    assert monitor.tripped


def test_only_the_newest_labels_count() -> None:
    monitor = WrongHitMonitor(0.02, window=200)
    monitor.record(HIT, right=False)
    for _ in range(200):
        monitor.record(HIT, right=True)
    assert monitor.counted == (0, 200)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("YES", True), ("No.", False), ("**yes**", True), ("Yes, because", None), ("YESTERDAY", None), ("", None)],
)
def test_a_judge_is_read_strictly(reply: str, expected: bool | None) -> None:
    assert verdict(reply) is expected


def test_answers_are_compared_as_asked() -> None:
    assert agree("Paris", "Paris", Comparison.EXACT) is True
    assert agree("Paris", "**paris**.", Comparison.EXACT) is False
    assert agree("Paris", "**paris**.", Comparison.NORMALISED) is True
    assert agree("Paris", "Lyon", Comparison.NORMALISED) is False
    assert agree("Paris", "paris", Comparison.JUDGE) is True  # no need to ask
    assert agree("Paris", "It is Paris", Comparison.JUDGE) is None


def test_the_judge_sees_the_question_and_both_answers() -> None:
    asked = question_for_judge("capital?", "Paris", "Lyon")
    assert all(part in asked for part in ("capital?", "Paris", "Lyon"))


class Verifier:
    def __init__(self, chance: float | Exception) -> None:
        self.chance = chance

    def chance_same(self, question: str, cached: str) -> float:
        if isinstance(self.chance, Exception):
            raise self.chance
        return self.chance


@pytest.mark.parametrize(
    ("chance", "expected"), [(0.99, True), (0.5, False), (math.nan, False), (RuntimeError(), False)]
)
def test_a_verifier_that_fails_refuses(chance: float | Exception, expected: bool) -> None:
    assert accepts(Verifier(chance), "a", "b", 0.9) is expected

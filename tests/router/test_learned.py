"""The learned decider: what it decides, when the rules decide instead, and what it never does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, RequestError
from router import artifacts
from router.decision import Facts
from router.deployed import Deployed, scored_by
from router.hot import HotArtifact
from router.learned import (
    Conversations,
    LearnedDecider,
    Settings,
    Worth,
    even_worths,
    rollout_place,
    wanted_tier,
)
from router.policy import RuleDecider, TierFacts
from router.rollout import Rollout
from router.training import Samples
from router.watch import Watch, stability_index

ENCODER = "e" * 64
SMALL = TierFacts("small", 4096, images=False, tools=False, local=True)
FRONTIER = TierFacts("frontier", 200_000)
gains = st.floats(-1, 1)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def facts(text: str = "What is it?", **changes: object) -> Facts:
    given = {"request_id": "r", "tenant": "t", "text": text, "prompt_chars": len(text), "prompt_tokens": len(text) // 4}
    return Facts(**{**given, **changes})  # type: ignore[arg-type]


def decider(root: Path, settings: Settings | None = None, **more: object) -> LearnedDecider:
    tiers = [SMALL, FRONTIER]
    hot = HotArtifact(root, ENCODER)
    return LearnedDecider(tiers, hot, RuleDecider(tiers), settings or Settings(), **more)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path, deployed: Deployed) -> Path:
    deployed.write(tmp_path)
    return tmp_path


def vector(group: int) -> np.ndarray:
    return np.eye(12, dtype=np.float32)[group]


def test_the_score_decides(root: Path) -> None:
    made = decider(root)
    easy, hard = made.decide_with(facts(), vector(0)), made.decide_with(facts(), vector(3))
    assert easy.tiers == ("small", "frontier") and easy.reason == "easy"
    assert hard.tiers == ("frontier", "small") and hard.reason == "hard"
    assert easy.score is not None and hard.score is not None and easy.score < 0.3 <= hard.score
    assert hard.artifact == artifacts.current_version(root)


def test_a_tier_that_cannot_is_never_wanted(root: Path) -> None:
    made = decider(root)
    assert made.decide_with(facts(images=True), vector(0)).reason == "images"
    assert made.decide_with(facts(local_only=True), vector(3)).tiers == ("small",)
    with pytest.raises(RequestError):
        made.decide_with(facts(local_only=True, images=True), vector(3))


@pytest.mark.parametrize("bad", [None, np.ones(5, np.float32), np.full(12, np.nan, np.float32)])
def test_without_a_usable_vector_the_rules_decide(root: Path, bad: np.ndarray | None) -> None:
    made = decider(root)
    decision = made.decide_with(facts("Prove step by step that it must terminate."), bad)
    assert decision == RuleDecider([SMALL, FRONTIER]).decide_now(facts("Prove step by step that it must terminate."))
    assert sum(made.fell_back.values()) == 1


async def test_it_embeds_within_its_own_deadline(root: Path) -> None:
    async def quick(text: str) -> np.ndarray:
        return vector(3)

    async def late(text: str) -> np.ndarray:
        await asyncio.sleep(5)
        return vector(3)

    async def broken(text: str) -> np.ndarray:
        raise RuntimeError("the encoder died")

    assert (await decider(root, embed=quick).decide(facts(), 1.0)).reason == "hard"
    for embed in (late, broken):
        made = decider(root, Settings(deadline_s=0.01), embed=embed)
        assert (await made.decide(facts(), 1.0)).artifact == ""
        assert made.fell_back["no_vector"] == 1


def test_shadow_decides_and_records_but_does_not_act(root: Path) -> None:
    decision = decider(root, Settings(Rollout("shadow"))).decide_with(facts(), vector(3))
    assert decision.tiers == ("small", "frontier")  # the rules find it easy
    assert decision.shadow == "frontier"
    assert decision.score is not None and decision.artifact


def test_rollout_acts_on_its_part_and_always_the_same(root: Path) -> None:
    made = decider(root, Settings(Rollout("act", 0.3)))
    asked = [facts(conversation=f"c{i}") for i in range(300)]
    acted = [not made.decide_with(one, vector(3)).shadow for one in asked]
    assert 0.2 < np.mean(acted) < 0.4
    assert acted == [not made.decide_with(one, vector(3)).shadow for one in asked]
    assert rollout_place(facts("a")) != rollout_place(facts("b"))
    assert rollout_place(facts("a", conversation="c")) == rollout_place(facts("b", conversation="c"))


def test_a_share_of_requests_explores_and_says_what_was_wanted(root: Path) -> None:
    made = decider(root, Settings(explore=0.05))
    asked = [facts(request_id=f"req_{i}") for i in range(4_000)]
    explored = [one for one in asked if made.decide_with(one, vector(3)).reason == "explore"]
    assert 0.035 < len(explored) / len(asked) < 0.065
    decision = made.decide_with(explored[0], vector(3))
    assert (decision.tiers[0], decision.shadow) == ("small", "frontier")
    assert decision.score is not None and decision.artifact
    assert made.decide_with(explored[0], vector(0)).tiers[0] == "frontier"  # wanted small: the other is explored
    assert decider(root).decide_with(explored[0], vector(3)).reason == "hard"  # off unless asked for
    assert (
        decider(root, Settings(Rollout("shadow"), explore=0.05)).decide_with(explored[0], vector(3)).reason != "explore"
    )


def test_what_may_not_or_cannot_go_elsewhere_does_not_explore(root: Path) -> None:
    made = decider(root, Settings(explore=0.05))
    names = [f"req_{i}" for i in range(1_000)]
    explored = [name for name in names if made.decide_with(facts(request_id=name), vector(3)).reason == "explore"]
    for changes in ({"local_only": True}, {"images": True}):  # both leave one tier
        reasons = {made.decide_with(facts(request_id=name, **changes), vector(0)).reason for name in explored}
        assert "explore" not in reasons
    calm = next(name for name in names if name not in explored)
    made.decide_with(facts(request_id=calm, conversation="c"), vector(3))
    held = [made.decide_with(facts(request_id=name, conversation="c"), vector(3)) for name in explored]
    assert {decision.reason for decision in held} == {"hard"}
    fresh = made.decide_with(facts(request_id=explored[0], conversation="new"), vector(3))
    assert fresh.reason == "explore"
    assert made.decide_with(facts(request_id=calm, conversation="new"), vector(3)).tiers[0] == "frontier"  # not held


def test_a_tier_that_cannot_be_asked_is_never_drawn_nor_compared_with(root: Path) -> None:
    tiers = [SMALL, TierFacts("cheap", 100_000), FRONTIER]
    made = LearnedDecider(tiers, HotArtifact(root, ENCODER), RuleDecider(tiers), Settings(explore=0.05))

    def drawn(askable: tuple[str, ...] | None) -> dict[str, str]:
        asked = [facts(request_id=f"req_{i}", askable=askable) for i in range(2_000)]
        decisions = {one.request_id: made.decide_with(one, vector(3)) for one in asked}
        return {name: d.tiers[0] for name, d in decisions.items() if d.reason == "explore"}

    everywhere = drawn(None)
    assert set(everywhere.values()) == {"small", "cheap"} and everywhere == drawn(("small", "cheap", "frontier"))
    without = drawn(("small", "frontier"))
    assert set(without.values()) == {"small"} and set(without) == set(everywhere)  # as many all the same
    assert not drawn(("frontier",)) and not drawn(())
    assert not drawn(("small", "cheap"))  # the wanted one's place is taken by another already


def test_the_share_that_explores_is_the_stated_one_to_the_last_bit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = decider(root, Settings(explore=0.02))
    edge = int(0.02 * 2**64)  # exact: a float times a power of two
    for lot, explores in ((0, True), (edge - 1, True), (edge, False), (2**64 - 1, False)):
        monkeypatch.setattr("router.learned._lot", lambda *_, lot=lot: lot)
        assert (made.decide_with(facts(), vector(3)).reason == "explore") is explores


def test_what_was_wanted_comes_next_after_a_drawn_tier(root: Path) -> None:
    tiers = [SMALL, TierFacts("cheap", 100_000), FRONTIER]
    made = LearnedDecider(tiers, HotArtifact(root, ENCODER), RuleDecider(tiers), Settings(explore=0.05))
    decisions = [made.decide_with(facts(request_id=f"req_{i}"), vector(0)) for i in range(1_000)]
    explored = [d for d in decisions if d.reason == "explore"]
    assert explored and all(d.tiers[1] == d.shadow == "small" and len(set(d.tiers)) == 3 for d in explored)


def test_a_conversation_keeps_its_tier_for_a_score_near_the_threshold(root: Path, deployed: Deployed) -> None:
    wide = decider(root, Settings(margin=2.0))
    assert wide.decide_with(facts(conversation="c"), vector(3)).tiers[0] == "frontier"
    assert wide.decide_with(facts(conversation="c"), vector(0)).tiers[0] == "frontier"
    assert wide.decide_with(facts(conversation="d"), vector(0)).tiers[0] == "small"
    assert wide.decide_with(facts(conversation="c", local_only=True), vector(0)).tiers == ("small",)
    narrow = decider(root, Settings(margin=0.01))
    narrow.decide_with(facts(conversation="c"), vector(3))
    assert narrow.decide_with(facts(conversation="c"), vector(0)).tiers[0] == "small"


def test_gains_in_the_band_are_planned_for_the_cascade(root: Path, deployed: Deployed) -> None:
    made = decider(root, Settings(band=(-1.0, 1.0), band_acts=True))
    decision = made.decide_with(facts(), vector(3))
    assert decision.cascade is not None and decision.tiers == ("frontier", "small")
    assert decision.cascade.tier == "small" and 0.0 <= decision.cascade.score <= 1.0
    assert decision.cascade.accept_at is not None and decision.score is not None
    enough = (
        1.0 - decision.cascade.score >= decision.cascade.accept_at
    )  # before any token: as the router itself decides
    assert enough == (decision.score < deployed.policy.threshold)
    assert decision.cascade.scored_by == scored_by(Deployed.load(root, ENCODER).manifest)
    assert decider(root, Settings(band=(0.99, 1.0))).decide_with(facts(), vector(3)).cascade is None
    assert decider(root, Settings(Rollout("shadow"), band=(-1.0, 1.0))).decide_with(facts(), vector(3)).cascade is None


def test_a_conversation_is_held_only_by_a_tier_that_is_known_to_answer(root: Path) -> None:
    acts = decider(root, Settings(margin=2.0, band=(-1.0, 1.0), band_acts=True))
    acts.decide_with(facts(conversation="c"), vector(3))
    assert acts.decide_with(facts(conversation="c"), vector(0)).tiers[0] == "small"  # nothing was held
    watches = decider(root, Settings(margin=2.0, band=(-1.0, 1.0)))
    first = watches.decide_with(facts(conversation="c"), vector(3))
    second = watches.decide_with(facts(conversation="c"), vector(0))
    assert second.tiers[0] == first.tiers[0] == "frontier"  # a shadow moves nothing
    assert first.cascade is not None and second.cascade is None  # held by now, so no longer in doubt


def test_conversations_are_forgotten_in_time() -> None:
    clock = Clock()
    held = Conversations(10.0, clock)
    held.hold(facts(conversation="c"), "small")
    assert held.tier(facts(conversation="c")) == "small"
    assert held.tier(facts(conversation="c", tenant="another")) is None
    clock.now_s = 11.0
    assert held.tier(facts(conversation="c")) is None
    held.hold(facts(), "small")
    assert held.tier(facts()) is None  # no conversation, nothing to keep


@given(gains, st.floats(0, 1), st.floats(0, 1), st.integers(2, 5))
def test_a_higher_threshold_never_wants_a_stronger_tier(gain: float, one: float, two: float, count: int) -> None:
    worths = [Worth((i / (count - 1)) ** 0.5, float(i * i)) for i in range(count)]
    low, high = sorted((one, two))
    assert wanted_tier(gain, high, worths) <= wanted_tier(gain, low, worths)


@given(gains, gains, st.floats(0.001, 1), st.integers(2, 5))
def test_a_higher_gain_never_wants_a_weaker_tier(one: float, two: float, threshold: float, count: int) -> None:
    worths = [Worth((i / (count - 1)) ** 0.5, float(i * i)) for i in range(count)]
    low, high = sorted((one, two))
    assert wanted_tier(low, threshold, worths) <= wanted_tier(high, threshold, worths)


@given(gains, st.floats(-0.5, 1))
def test_between_two_tiers_the_threshold_is_the_least_gain(gain: float, threshold: float) -> None:
    assert wanted_tier(gain, threshold, even_worths(2)) == int(gain >= threshold)


def test_a_cheap_strong_middle_tier_is_wanted_between_the_two() -> None:
    worths = [Worth(0.0, 0.0), Worth(0.7, 1.0), Worth(1.0, 10.0)]
    assert [wanted_tier(gain, 0.2, worths) for gain in (0.0, 0.1, 0.5, 0.9)] == [0, 1, 1, 2]


def test_settings_that_make_no_sense_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="rollout"):
        Rollout("act", 2.0)
    with pytest.raises(ConfigError, match="explore"):
        decider(root, Settings(explore=0.5))
    with pytest.raises(ConfigError, match="2 tiers, but 1"):
        decider(root, worths=[Worth(0, 0)])
    with pytest.raises(ConfigError, match="weakest first"):
        decider(root, worths=[Worth(1, 0), Worth(0, 1)])


def test_the_pointer_swaps_the_artifact_while_running(tmp_path: Path, deployed: Deployed, other: Deployed) -> None:
    first = deployed.write(tmp_path)
    clock = Clock()
    hot = HotArtifact(tmp_path, ENCODER, clock)
    tiers = [SMALL, FRONTIER]
    made = LearnedDecider(tiers, hot, RuleDecider(tiers))
    before = made.version
    assert made.decide_with(facts(), vector(3)).tiers[0] == "frontier"
    other.write(tmp_path)
    assert made.decide_with(facts(), vector(3)).tiers[0] == "frontier"  # it looks once a second
    clock.now_s += 1.0
    assert made.decide_with(facts(), vector(3)).tiers[0] == "small"
    assert made.version != before
    artifacts.point_to(tmp_path, first.name)
    clock.now_s += 1.0
    assert made.version == before


def test_a_bad_artifact_leaves_the_old_one_in_use(root: Path, deployed: Deployed) -> None:
    clock = Clock()
    hot = HotArtifact(root, ENCODER, clock)
    alien = replace(deployed, manifest=replace(deployed.manifest, encoder_sha256="f" * 64), card="of another encoder")
    alien.write(root)
    clock.now_s += 1.0
    assert hot.get().manifest.encoder_sha256 == ENCODER
    assert "another encoder" in hot.error
    with pytest.raises(ConfigError, match="another encoder"):
        HotArtifact(root, ENCODER)  # at start there is no old one


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8))
def test_stability_is_zero_for_the_same_and_positive_otherwise(counts: list[int]) -> None:
    found = np.array(counts, float)
    assert stability_index(found, found) == pytest.approx(0.0)
    assert stability_index(found, found[::-1]) >= 0.0


def test_drift_shows_and_the_like_does_not(deployed: Deployed, fresh: Samples) -> None:
    scores = deployed.gain(fresh.inputs)
    calm, drifted = Watch(deployed), Watch(deployed)
    for row, score in zip(fresh.inputs.vectors, scores, strict=True):
        calm.observe("t", float(score), row, False)
        drifted.observe("t", 0.8, vector(3), True)
    assert calm.report().psi_scores < 0.1 and calm.report().psi_inputs < 0.1
    assert drifted.report().psi_scores > 0.25 and drifted.report().psi_inputs > 0.25


def test_a_key_that_escalates_is_seen_and_little_traffic_says_nothing(deployed: Deployed) -> None:
    watch = Watch(deployed, least=100)
    for i in range(50):
        watch.observe("calm", 0.1, vector(0), False)
        watch.observe("attacker", 0.8, vector(3), i % 10 != 0)
    watch.observe("asked once", 0.8, vector(3), True)
    report = watch.report()
    assert set(report.escalation_by_key) == {"calm", "attacker"}
    assert report.escalation_by_key["calm"] == 0.0
    assert report.escalation_by_key["attacker"] == pytest.approx(0.9, abs=0.03)
    assert report.escalation == pytest.approx(0.45, abs=0.01)
    assert np.isnan(Watch(deployed).report().psi_scores)

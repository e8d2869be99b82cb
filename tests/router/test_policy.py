"""The policy: capability filters, thresholds, order, and what is said when no tier will do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadRequest, ContextExceeded, Unsupported
from router.decision import Facts
from router.policy import RuleDecider, TierFacts, order_from
from router.rules import shape

SMALL = TierFacts("small", 2048, images=False, tools=False, local=True)
CHEAP = TierFacts("cheap", 100_000)
FRONTIER = TierFacts("frontier", 200_000)
HARD = "Prove step by step that sqrt(2) is irrational. You must give at least two proofs."


def facts(text: str = "What is the capital of France?", **changes: object) -> Facts:
    given = {"request_id": "r", "tenant": "t", "text": text, "prompt_chars": len(text), "prompt_tokens": len(text) // 4}
    return Facts(**{**given, **changes})  # type: ignore[arg-type]


def decider(**thresholds: float) -> RuleDecider:
    return RuleDecider([SMALL, CHEAP, FRONTIER], thresholds or None)


async def test_an_easy_prompt_wants_the_first_tier_and_may_go_up() -> None:
    decision = await decider().decide(facts(), 1.0)
    assert decision.tiers == ("small", "cheap", "frontier")
    assert decision.reason == "easy"


def test_a_hard_prompt_wants_the_last_tier_and_may_come_down() -> None:
    decision = decider().decide_now(facts(HARD))
    assert decision.tiers == ("frontier", "cheap", "small")
    assert decision.reason == "hard"
    assert decision.score is not None and decision.score >= 0.5


def test_a_middle_score_wants_the_middle_tier() -> None:
    score = shape(facts(HARD)).score
    decision = decider(cheap=score - 0.05, frontier=score + 0.05).decide_now(facts(HARD))
    assert decision.tiers == ("cheap", "frontier", "small")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": True}, "images"),
        ({"tools": True}, "tools"),
        ({"tool_results": True}, "tools"),
        ({"prompt_tokens": 2000, "max_output_tokens": 100}, "context"),
    ],
)
def test_a_tier_that_cannot_take_the_request_is_left_out(changes: dict[str, object], reason: str) -> None:
    decision = decider(frontier=1.0).decide_now(facts(**changes))
    assert decision.tiers == ("cheap", "frontier")
    assert decision.reason == reason


def test_local_only_leaves_the_machine_for_nobody() -> None:
    decision = decider().decide_now(facts(HARD, local_only=True))
    assert decision.tiers == ("small",)
    assert decision.reason == "local_only"


@pytest.mark.parametrize(
    ("tiers", "changes", "error", "param"),
    [
        ([SMALL], {"images": True}, Unsupported, "messages"),
        ([SMALL], {"tools": True}, Unsupported, "tools"),
        ([SMALL, CHEAP], {"prompt_tokens": 500_000}, ContextExceeded, "messages"),
        ([CHEAP], {"local_only": True}, BadRequest, "farthing.local_only"),
    ],
)
def test_when_no_tier_will_do_the_caller_hears_what_to_change(
    tiers: list[TierFacts], changes: dict[str, object], error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as caught:
        RuleDecider(tiers).decide_now(facts(**changes))
    assert caught.value.param == param  # type: ignore[attr-defined]


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_the_order_holds_every_tier_once_and_never_a_weaker_before_a_stronger(case: tuple[int, int]) -> None:
    wanted, count = case
    order = order_from(wanted, count)
    assert sorted(order) == list(range(count))
    assert order[0] == wanted
    stronger = [i for i in order if i > wanted]
    assert order[1 : 1 + len(stronger)] == stronger == sorted(stronger)


@given(st.text(max_size=500), st.floats(0, 1), st.floats(0, 1))
def test_a_lower_threshold_never_wants_a_weaker_tier(text: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    strength = {"small": 0, "cheap": 1, "frontier": 2}
    eager = decider(frontier=low).decide_now(facts(text)).tiers[0]
    sparing = decider(frontier=high).decide_now(facts(text)).tiers[0]
    assert strength[eager] >= strength[sparing]


def test_the_version_changes_with_whatever_changes_decisions() -> None:
    versions = {
        decider().version,
        decider(frontier=0.7).version,
        RuleDecider([SMALL, FRONTIER]).version,
        RuleDecider([TierFacts("small", 4096, images=False, tools=False, local=True), CHEAP, FRONTIER]).version,
    }
    assert len(versions) == 4
    assert decider().version == decider().version


@given(st.text(max_size=2000))
def test_the_score_is_a_probability_and_its_parts_explain_it(text: str) -> None:
    found = shape(facts(text))
    assert 0.0 < found.score < 1.0
    assert all(part > 0 for part in found.parts.values())

"""The learned router in the router's process: shadow, acting, without a vector, refusing; and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import ConfigError
from router.decision import Decision, Facts
from router.embedding.batcher import Batcher
from router.embedding.encoder import TextEncoder
from router.embedding.minilm import load_default
from router.rollout import Rollout
from router.rollout import write as write_rollout
from serving.app import build_decider, policy_version
from serving.config import Config, parse
from serving.deciding import Refusal
from serving.learned import LearnedRouting, open_learned
from serving.ledger.explain import explain, reason
from serving.ledger.row import Row
from serving.routing import RouterProcess
from serving.telemetry import GatewayMetrics, RouterMetrics
from tests.serving.conftest import Setup, running

TIERS = """
tiers:
  - {name: small, backends: [{kind: engine, profile: embedded}]}
  - {name: frontier, backends: [{kind: http, url: "http://127.0.0.1:1/v1", model: gpt-6.1-sol}]}
"""
LEARNED = TIERS + "routing: {decider: learned, learned: {mode: MODE}}\n"
HARD = "Let f be a continuous function on [0, 1]. Prove that the integral of f squared is at least its square."
PROMPTS = [HARD, "What is the capital of France?", "Which is a virus? A) measles B) tetanus C) malaria D) asthma"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_default()


def config(mode: str = "act") -> Config:
    return parse(LEARNED.replace("MODE", mode))


def facts(text: str, **changes: object) -> Facts:
    return replace(Facts("req_1", "acme", text, len(text), len(text) // 4), **changes)  # type: ignore[arg-type]


@pytest.fixture
def learned(encoder: TextEncoder) -> LearnedRouting:
    return open_learned(config(), encoder.identity.sha256)


def process(encoder: TextEncoder, mode: str) -> RouterProcess:
    learned = open_learned(config(mode), encoder.identity.sha256)
    made = RouterProcess(build_decider(config(mode)), RouterMetrics(), learned)
    made.encoder, made.text_encoder = Batcher(encoder), encoder
    return made


async def test_it_acts_on_its_own_score_and_says_which_artifact_decided(encoder: TextEncoder) -> None:
    router = process(encoder, "act")
    decisions = [await router.decide(facts(prompt), 10.0) for prompt in PROMPTS]
    await router.close()
    for decision in decisions:
        assert isinstance(decision, Decision)
        assert decision.artifact and decision.score is not None and not decision.shadow
        assert set(decision.tiers) == {"small", "frontier"}
    assert router.learned is not None and router.learned.report().requests == len(PROMPTS)


async def test_in_shadow_the_rules_act_and_its_own_wish_is_recorded(encoder: TextEncoder) -> None:
    router, rules = process(encoder, "shadow"), build_decider(config())
    for prompt in PROMPTS:
        decision, acted = await router.decide(facts(prompt), 10.0), await rules.decide(facts(prompt), 1.0)
        assert isinstance(decision, Decision)
        assert decision.tiers == acted.tiers and decision.reason == acted.reason
        assert decision.shadow in ("small", "frontier") and decision.score != acted.score
    await router.close()


async def test_without_a_vector_in_time_the_rules_decide(encoder: TextEncoder) -> None:
    router = process(encoder, "act")
    decision = await router.decide(facts(HARD), 0.0)
    await router.close()
    assert isinstance(decision, Decision) and not decision.artifact
    assert router.learned is not None and router.learned.fell_back["no_vector"] == 1


class CountedFeedback(GatewayMetrics):
    def __init__(self, counted: list[tuple[str, str, bool]]) -> None:
        super().__init__()
        self._counted = counted

    def feedback(self, row: Row, good: bool) -> None:
        super().feedback(row, good)
        self._counted.append((row.route, row.reason, good))


async def test_an_explored_answer_is_not_stored_and_feedback_on_it_is_counted(
    setup: Setup, encoder: TextEncoder
) -> None:
    text = TIERS + "routing: {decider: learned, learned: {mode: act, explore: 0.05}}\n"
    counted: list[tuple[str, str, bool]] = []
    async with running(setup) as service:
        service.router.encoder = Batcher(encoder)
        service.router.learned = open_learned(parse(text), encoder.identity.sha256)
        service.accounts.metrics = CountedFeedback(counted)
        for i in range(200):
            response, _ = await service.ask(f"hello number {i}")
            if response.headers["x-farthing-reason"] == "explore":
                break
        route, name = response.headers["x-farthing-route"], response.headers["x-request-id"]
        rows = {row["request_id"]: row for row in await service.rows(i + 1)}
        said = {"request_id": name, "good": True}
        async with service.http.post(f"{service.url}/v1/farthing/feedback", json=said) as answer:
            assert answer.status == 200
        again, _ = await service.ask(f"hello number {i}")
    assert counted == [(route, "explore", True)]
    assert rows[name]["shadow"] and rows[name]["shadow"] != route and rows[name]["cache_entry"] == ""
    assert again.headers["x-farthing-cache"] == "miss"


def test_a_request_nobody_can_take_is_refused_as_by_the_rules(learned: LearnedRouting) -> None:
    refusal = learned.decide(facts("x", prompt_tokens=10**7), None)
    assert isinstance(refusal, Refusal) and refusal.kind == "ContextExceeded"


def test_what_must_stay_here_stays(learned: LearnedRouting, encoder: TextEncoder) -> None:
    decision = learned.decide(facts(HARD, local_only=True), encoder.encode([HARD])[0])
    assert isinstance(decision, Decision) and decision.tiers == ("small",)


def test_an_artifact_of_another_encoder_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="another encoder"):
        open_learned(config(), "0" * 64)


def test_stated_strengths_are_one_for_each_tier(encoder: TextEncoder) -> None:
    stated = LEARNED.replace("{mode: MODE}", "{mode: act, strengths: {small: 0, frontier: 1}}")
    open_learned(parse(stated), encoder.identity.sha256)
    with pytest.raises(ConfigError, match="one for each tier"):
        parse(stated.replace("small: 0, ", ""))


def test_another_way_of_deciding_is_another_policy() -> None:
    texts = [TIERS, LEARNED.replace("MODE", "act"), LEARNED.replace("MODE", "shadow")]
    assert len({policy_version(parse(text))() for text in texts}) == 3


def test_a_router_told_otherwise_is_another_policy(tmp_path: Path) -> None:
    text = LEARNED.replace("{mode: MODE}}", f"{{mode: shadow}}, artifacts: {tmp_path}}}")
    versions = []
    for told in (None, Rollout("act", 0.5), Rollout("act"), Rollout("shadow"), None):
        write_rollout(tmp_path, told)
        versions.append(policy_version(parse(text))())
    assert len(set(versions)) == 3
    assert versions[0] == versions[3] == versions[4]  # told what is configured: the same answers may be served
    assert "+act-0.5" in versions[1]


def test_a_folder_that_is_gone_is_no_other_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.hot.LOOK_EVERY_S", 0.0)
    root = tmp_path / "artifacts"
    root.mkdir()
    version = policy_version(parse(LEARNED.replace("{mode: MODE}}", f"{{mode: shadow}}, artifacts: {root}}}")))
    nothing = version()
    (root / "current").symlink_to("v1")
    write_rollout(root, Rollout("act", 0.5))
    told = version()
    assert told == f"{nothing}+act-0.5+v1"
    root.rename(tmp_path / "away")
    assert version() == told  # the router, too, keeps to what it had
    (tmp_path / "away").rename(root)
    write_rollout(root, None)
    assert version() == f"{nothing}+v1"


def test_a_past_request_is_explained() -> None:
    row = Row(
        request_id="req_1",
        at_ms=0,
        status="answered",
        route="frontier",
        model="gpt-6.1-sol",
        reason="fallback_overloaded",
        score=0.31,
        shadow="small",
    )
    text = "\n".join(explain(row))
    for part in ("frontier (gpt-6.1-sol)", "a stronger tier", "(overloaded)", "+0.310", "small would have answered"):
        assert part in text
    assert reason("easy").startswith("easy: the score")
    assert reason("never_heard_of") == "never_heard_of"

"""The composition root's small decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.errors import ConfigError
from router.artifacts import Manifest
from router.cascade import KIND, NAMES, WHOLE, Head, Heads
from router.decision import Facts
from router.policy import RULES
from serving.app import answering, build_cascade, build_decider, policy_version
from serving.config import Config, parse
from serving.telemetry import GatewayMetrics

HI = Facts("r", "t", "hi", 2, 1)
BASE = """
tiers:
  - {name: small, backends: [{kind: engine, profile: embedded}]}
  - {name: frontier, backends: [{kind: http, url: "http://a/v1", model: gpt-6-luna}]}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("profile: embedded", "profile: qwen3-8b-awq"),
        ("profile: embedded", "profile: embedded, args: {max_model_len: 4096}"),
        ("profile: embedded", "profile: embedded, weights: elsewhere"),
        ("gpt-6-luna", "gpt-6.1-sol"),
        ("http://a/v1", "http://b/v1"),
        ("name: frontier", "name: best"),
    ],
)
def test_what_decides_an_answer_sets_caches_apart(old: str, new: str) -> None:
    assert answering(parse(BASE.replace(old, new))) != answering(parse(BASE))


@pytest.mark.parametrize(
    "more",
    ["listen: {port: 9000}", "budget: {frontier_usd_per_day: 3}", "gateway: {replicas: 2}", "retry: {base_s: 1}"],
)
def test_what_does_not_leaves_the_cache_valid(more: str) -> None:
    assert answering(parse(BASE + more)) == answering(parse(BASE))


def cascade(mode: str, root: Path, more: str = "") -> Config:
    return parse(f"{BASE}routing: {{cascade: {{mode: {mode}, artifacts: '{root}'{more}}}}}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    head = Head(np.zeros(len(NAMES)), np.ones(len(NAMES)), np.zeros(len(NAMES)), 0.0)
    Heads(Manifest(KIND, "", "2026-11-26"), {16: head, WHOLE: head}, RULES).write(tmp_path)
    return tmp_path


def test_the_cascade_is_off_unless_asked_for(root: Path) -> None:
    assert build_cascade(parse(BASE), GatewayMetrics()) is None
    assert build_decider(parse(BASE)).decide_now(HI).cascade is None


def test_a_configured_cascade_is_loaded_and_planned_for(root: Path) -> None:
    made = build_cascade(cascade("act", root, ", accept_at: 0.7"), GatewayMetrics())
    assert made is not None and made.mode == "act"
    assert (made.current().tokens_k, made.current().accept_at) == (16, 0.7)
    assert build_decider(cascade("act", root)).decide_now(HI).cascade is not None
    assert build_decider(cascade("act", root, ", band: [0.9, 1]")).decide_now(HI).cascade is None


def test_a_cascade_that_cannot_be_loaded_stops_the_start(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trained for 16 tokens"):
        build_cascade(cascade("act", root, ", tokens: 8"), GatewayMetrics())
    with pytest.raises(ConfigError, match="nothing is current"):
        build_cascade(cascade("act", tmp_path / "empty"), GatewayMetrics())


def test_an_acting_cascade_is_another_policy(root: Path) -> None:
    versions = [policy_version(parse(BASE))(), policy_version(cascade("act", root))()]
    versions += [policy_version(cascade("act", root, ", accept_at: 0.9"))(), policy_version(cascade("shadow", root))()]
    assert len(set(versions)) == 4
    assert "+cascade-" in versions[1] and "+cascade-" not in versions[3]

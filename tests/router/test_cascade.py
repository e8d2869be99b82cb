"""The cascade's features, heads and artifact: what they say of tokens, and what they refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from router import artifacts
from router.__main__ import main
from router.artifacts import Manifest
from router.cascade import KIND, NAMES, WHOLE, Head, Heads, Token, features
from router.decision import CascadePlan, Facts
from router.deployed import PRIOR, Deployed, scored_by
from router.embedding.minilm import load_default
from router.policy import RULES, RuleDecider, TierFacts, doubtful
from router.train_cascade import Generations, out_of_fold, quality

SMALL = TierFacts("small", 4096, images=False, tools=False, local=True)
FRONTIER = TierFacts("frontier", 200_000)
NO_SCORE = CascadePlan("small", 0.0, "")
logprobs = st.floats(-200, 0, allow_nan=False)


def named(tokens: list[Token], score: float | None = None) -> dict[str, float]:
    return dict(zip(NAMES, features(tokens, score).tolist(), strict=True))


def facts(**changes: object) -> Facts:
    given = {"request_id": "r", "tenant": "t", "text": "What?", "prompt_chars": 5, "prompt_tokens": 1}
    return Facts(**{**given, **changes})  # type: ignore[arg-type]


def test_features_of_known_tokens() -> None:
    even = (math.log(0.5), math.log(0.5))
    found = named([Token(math.log(0.5), even), Token(math.log(0.25), (math.log(0.5), math.log(0.25)))], score=0.3)
    assert found["mean"] == pytest.approx(math.log(0.125) / 2)
    assert found["least"] == pytest.approx(math.log(0.25))
    assert found["low_quartile"] == pytest.approx(math.log(0.25) + 0.25 * math.log(2))
    other = 0.5 * math.log(2) + 0.5 * math.log(4)  # a half, a quarter, and the rest, a quarter
    assert found["mean_entropy"] == pytest.approx((math.log(2) + other) / 2)
    assert found["score"] == 0.3


def test_what_is_not_known_is_nan() -> None:
    found = named([Token(-1.0)])
    unknown = {name for name, value in found.items() if math.isnan(value)}
    assert unknown == {"mean_entropy", "score"}


@given(st.lists(st.tuples(logprobs, st.lists(logprobs, max_size=5)), min_size=1, max_size=20))
def test_a_head_always_gives_a_probability(given: list[tuple[float, list[float]]]) -> None:
    tokens = [Token(one, tuple(sorted(top, reverse=True))) for one, top in given]
    rng = np.random.default_rng(0)
    head = Head.fit(rng.normal(size=(50, len(NAMES))), rng.integers(0, 2, 50).astype(float))
    said = head.probability(features(tokens)[None])
    assert 0.0 <= said[0] <= 1.0


def test_a_likelihood_of_zero_is_no_accident() -> None:
    assert np.isfinite(features([Token(-math.inf, (0.0, -math.inf))], 0.0)).all()


def generations(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Answers whose tokens are the likelier the more often they are right."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        right = float(rng.random() < 0.5)
        length = int(rng.integers(2, 30))
        logprob = -np.abs(rng.normal(0.2 if right else 1.0, 0.5, length))
        tokens = [[round(float(one), 3), round(float(one), 3), round(float(one) - 1, 3)] for one in logprob]
        rows.append({"id": f"{seed}-{i}", "prompt": f"question {i}?", "correct": right, "tokens": tokens})
    return rows


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "generations.jsonl"
    path.write_text("\n".join(map(json.dumps, generations(400))), encoding="utf-8")
    return path


def test_a_head_finds_a_signal_and_none_where_there_is_none(file: Path) -> None:
    made = Generations.read([file])
    fits = np.ones(len(made), bool)
    rows = made.rows(WHOLE, np.zeros(len(made)))
    good = quality(out_of_fold(rows, made.correct, made.folds(), fits), made.correct)
    assert good["auroc"] > 0.9 and good["brier"] < good["brier_base"] and good["calibration_error"] < 0.1
    shuffled = np.random.default_rng(1).permutation(made.correct)
    none = quality(out_of_fold(rows, shuffled, made.folds(), fits), shuffled)
    assert 0.35 < none["auroc"] < 0.65


def test_train_writes_an_artifact_that_judges(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "artifacts"
    assert main(["train-cascade", "--generations", str(file), "--out", str(root), "--tokens", "4", "29"]) == 0
    assert "calibration error" in capsys.readouterr().out
    heads = Heads.load(root / artifacts.current_version(root))
    assert heads.manifest.kind == KIND and heads.scored_by == RULES
    assert set(heads.heads) == {4, WHOLE}  # hardly an answer is longer than 29
    cascade = heads.using(4, 0.5)
    sure, unsure = [Token(-0.05, (-0.05, -4.0))] * 6, [Token(-2.0, (-2.0, -2.1))] * 6
    for ended in (False, True):
        assert cascade.judge(sure, NO_SCORE, ended=ended).accepted
        assert not cascade.judge(unsure, NO_SCORE, ended=ended).accepted
    late = [*unsure[:4], *([sure[0]] * 20)]  # what comes after the fourth token does not count
    assert cascade.judge(late, NO_SCORE, ended=False) == cascade.judge(unsure, NO_SCORE, ended=False)
    with pytest.raises(ConfigError, match="trained for 4 tokens, not 5"):
        heads.using(5, 0.5)


def test_a_routers_score_joins_under_its_own_name(file: Path, tmp_path: Path) -> None:
    arguments = ["train-cascade", "--generations", str(file), "--out", str(tmp_path), "--artifact", str(PRIOR)]
    assert main([*arguments, "--tokens", "4"]) == 0
    heads = Heads.load(tmp_path / artifacts.current_version(tmp_path))
    encoder_sha256 = load_default().identity.sha256
    assert heads.scored_by == scored_by(Deployed.load(PRIOR, encoder_sha256).manifest)
    assert heads.manifest.encoder_sha256 == encoder_sha256
    assert 0.0 < heads.heads[WHOLE].mean[NAMES.index("score")] < 1.0  # a chance of failing, not a gain


def test_a_score_of_other_origin_counts_as_usual() -> None:
    mean = np.zeros(len(NAMES))
    weights = np.zeros(len(NAMES))
    weights[NAMES.index("score")] = 1.0
    head = Head(mean, np.ones(len(NAMES)), weights, 0.0)
    cascade = Heads(Manifest(KIND, "v", ""), {4: head, WHOLE: head}, "mine").using(4, 0.5)
    token = [Token(-1.0)]
    assert cascade.judge(token, CascadePlan("small", 3.0, "mine"), ended=True).probability > 0.9
    assert cascade.judge(token, CascadePlan("small", 3.0, "another"), ended=True).probability == 0.5


@pytest.mark.parametrize(
    ("stated", "planned", "accepted"),
    [(None, None, True), (None, 0.6, False), (None, -0.2, True), (0.7, 0.1, False), (0.4, 0.9, True)],
)
def test_the_configuration_goes_before_the_plan_and_the_plan_before_a_half(
    stated: float | None, planned: float | None, accepted: bool
) -> None:
    head = Head(np.zeros(len(NAMES)), np.ones(len(NAMES)), np.zeros(len(NAMES)), 0.0)  # always a half
    cascade = Heads(Manifest(KIND, "v", ""), {4: head, WHOLE: head}, RULES).using(4, stated)
    verdict = cascade.judge([Token(-1.0)], CascadePlan("small", 0.0, RULES, planned), ended=True)
    assert verdict.probability == 0.5 and verdict.accepted is accepted


def test_no_feature_speaks_the_wrong_way() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, len(NAMES)))
    right = (rng.random(400) < 1 / (1 + np.exp(rows[:, 0] - rows[:, 3]))).astype(float)  # the wrong way round
    head = Head.fit(rows, right)
    assert (head.weights[:3] >= 0).all() and (head.weights[3:] <= 0).all()


@pytest.mark.parametrize("damage", ["kind", "features", "head", "json"])
def test_a_foreign_or_damaged_artifact_is_refused(tmp_path: Path, damage: str) -> None:
    head = Head(np.zeros(len(NAMES)), np.ones(len(NAMES)), np.zeros(len(NAMES)), 0.0)
    heads = Heads(Manifest(KIND, "", "2026-11-26"), {4: head, WHOLE: head}, RULES)
    stated = {"features": list(NAMES), "scored_by": RULES, "heads": {"0": head.to_json(), "4": head.to_json()}}
    manifest = replace(heads.manifest, version="v", kind="router" if damage == "kind" else KIND)
    if damage == "features":
        stated["features"] = ["other"]
    if damage == "head":
        stated["heads"]["4"]["mean"] = [1.0]  # type: ignore[index]
    data = b"{" if damage == "json" else json.dumps(stated).encode()
    with pytest.raises(ConfigError):
        Heads.load(artifacts.write(tmp_path, manifest, {"heads.json": data}))


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1", "prompt": "q", "correct": 1, "tokens": []},
        {"id": "1", "prompt": "q", "correct": 2, "tokens": [[-1]]},
        {"id": "1", "prompt": "q", "correct": 1, "tokens": [["x"]]},
        {"id": "1", "prompt": "q", "tokens": [[-1]]},
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.jsonl:1"):
        Generations.read([path])


def test_the_band_has_both_its_ends() -> None:
    tiers = [SMALL, FRONTIER]
    band = (0.2, 0.4)
    assert [doubtful(facts(), tiers, score, band) for score in (0.19, 0.2, 0.4, 0.41)] == [False, True, True, False]
    assert not doubtful(facts(), tiers, 0.3, None)


@pytest.mark.parametrize(
    "changes", [{"tools": True}, {"tool_results": True}, {"json_schema": True}, {"images": True}, {"local_only": True}]
)
def test_what_cannot_be_tried_has_no_plan(changes: dict[str, object]) -> None:
    assert not doubtful(facts(**changes), [SMALL, FRONTIER], 0.3, (0.0, 1.0))


def test_the_rules_plan_within_their_band_and_their_version_says_so() -> None:
    tiers = [SMALL, FRONTIER]
    plain, banded = RuleDecider(tiers), RuleDecider(tiers, band=(0.0, 0.4))
    assert plain.decide_now(facts()).cascade is None
    decision = banded.decide_now(facts())
    assert decision.cascade is not None and decision.cascade.tier == "small" and decision.cascade.scored_by == RULES
    assert decision.tiers == plain.decide_now(facts()).tiers
    assert plain.version != banded.version

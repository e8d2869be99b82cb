"""From a file of pairs to an artifact that another process loads."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import cache as benchmark
from models.errors import ConfigError
from router import __main__ as command
from router import tune_cache
from router.cache import pairs, replay, tune
from router.cache.pairs import Pair
from router.cache.verify import Decider, Rules

RULES = Rules(max_wrong_hit_rate=0.05, cosine_floor=0.5)
OWN = Path("benchmarks/data/cache_pairs.jsonl")


class Identity:
    sha256 = "an encoder"


class BagOfWords:
    """Cosines that behave like an encoder's: near 1 for rewordings, blind to order."""

    identity = Identity()
    dim = 512

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.full((len(texts), self.dim), 1e-3, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().rstrip("?").split():
                row[sum(map(ord, word)) * 31 % self.dim] += 1.0
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def some_pairs() -> list[Pair]:
    things = ["invoice", "table", "garden", "backup", "letter", "window", "report", "folder", "ticket", "server"]
    made = []
    for at, thing in enumerate(things * 7):
        verb = f"{'paint' if at % 2 else 'export'} the {thing} called number {at}"
        made.append(Pair(f"How do I {verb}?", f"How can I {verb}?", True, "frame"))
        made.append(Pair(f"How do I {verb}?", f"Why did Tom {verb}?", False, "question"))
        made.append(Pair(f"Did Tom{at} see the {thing}?", f"Did the {thing} see Tom{at}?", False, "order"))
    return made


def write(path: Path, rows: Sequence[Pair]) -> Path:
    path.write_text("\n".join(json.dumps({"a": p.a, "b": p.b, "same": int(p.same), "type": p.group}) for p in rows))
    return path


@pytest.fixture(scope="module")
def tuning() -> tune.Tuning:
    return tune.tune(some_pairs(), BagOfWords(), RULES)


def test_enough_clean_pairs_meet_the_target_and_few_do_not(tuning: tune.Tuning) -> None:
    assert tuning.verified
    assert not tune.tune(some_pairs()[:60], BagOfWords(), RULES).verified


def test_the_curve_falls_in_hits_and_carries_its_bound(tuning: tune.Tuning) -> None:
    hits = [point.tally.hits for point in tuning.curve]
    assert hits == sorted(hits, reverse=True)
    assert tuning.chosen.tally.wrong_hit_bound <= tuning.rules.max_wrong_hit_rate
    assert len(tune.table(tuning.curve, "P(right)")) == len(tuning.curve) + 1


def test_an_artifact_loads_with_its_encoder_and_no_other(tuning: tune.Tuning, tmp_path: Path) -> None:
    tune.write(tmp_path, tuning, "an encoder")
    loaded = tune.load(tmp_path, "an encoder")
    assert loaded.decider == Decider(tuning.rules, tuning.pooled)
    assert loaded.evidence_hits == tuning.chosen.tally.hits
    with pytest.raises(ConfigError, match="another encoder"):
        tune.load(tmp_path, "another one")


def test_the_shipped_thresholds_are_for_the_default_encoder_only() -> None:
    with pytest.raises(ConfigError, match="default encoder"):
        tune.shipped("another one")


def test_the_command_writes_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune_cache, "load_default", BagOfWords)
    monkeypatch.setattr(tune_cache, "Rules", lambda **given: RULES)
    file = write(tmp_path / "pairs.jsonl", some_pairs())
    assert command.main(["tune-cache", "--pairs", str(file), "--out", str(tmp_path / "artifacts")]) == 0
    printed = capsys.readouterr().out
    assert "the target of 5.00% is met" in printed
    assert (tmp_path / "artifacts" / "current" / "curve.json").is_file()
    assert tune.load(tmp_path / "artifacts", "an encoder").evidence_wrong == 0


def test_the_picture_is_a_png(tuning: tune.Tuning, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from router.cache import plot

    plot.draw(tuning, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"a": "x", "b": "y"}', "pairs.jsonl:1: same must be 0 or 1"),
        ('\n{"a": "x", "b": "y", "same": 2}', "pairs.jsonl:2: same must be"),
        ('{"a": "", "b": "y", "same": 1}', "a and b must be texts"),
        ("[1]", "a row must be an object"),
        ("nonsense", "pairs.jsonl:1:"),
        ("", "no pairs in"),
        ('{"a": "x", "b": "y", "same": 1}', "needs pairs that are the same and pairs that are not"),
    ],
)
def test_a_bad_file_is_named_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    complaint: str,
) -> None:
    monkeypatch.setattr(tune_cache, "load_default", BagOfWords)
    file = tmp_path / "pairs.jsonl"
    file.write_text(content)
    assert command.main(["tune-cache", "--pairs", str(file), "--out", str(tmp_path / "out")]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pairs_are_read_from_gzip_and_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"a": "x", "b": "y", "same": 1, "test": "t", "split": "heldout"}'))
    assert pairs.load([packed]) == [Pair("x", "y", True, "t", heldout=True)]
    packed.write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match="not a readable file"):
        pairs.load([packed])
    with pytest.raises(ConfigError, match=r"missing\.jsonl"):
        pairs.load([tmp_path / "missing.jsonl"])


def test_the_benchmark_counts_what_each_rule_does(tuning: tune.Tuning) -> None:
    found = benchmark.report(some_pairs(), BagOfWords(), Decider(tuning.rules, tuning.pooled))
    assert found["rules"]["cosine >= 0.99"]["wrong_hits"] == 70  # the order swaps, to which cosine is blind
    assert found["rules"]["+ order"]["wrong_hits"] == found["rules"]["full decision"]["wrong_hits"] == 0
    assert found["rules"]["full decision"]["hits"] > 0
    assert {row["type"]: row["served"] for row in found["by_type"]}["order"] == 0


def test_no_gate_lets_an_own_near_miss_pass_and_most_paraphrases_pass() -> None:
    known = pairs.load([OWN])
    cases = [case for case in replay.cases(known, BagOfWords()) if not case.refused]
    assert [(case.pair.a, case.pair.b) for case in cases if not case.pair.same] == []
    assert len(cases) > 0.7 * sum(pair.same for pair in known)

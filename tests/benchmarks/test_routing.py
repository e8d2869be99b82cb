"""The instrument on a made-up world whose answer is known: the router finds the topic, length tells nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import own_traffic, routing
from router.embedding.encoder import EncoderIdentity
from router.embedding.minilm import load_default

EASY, HARD = "apples", "theorems"


class TopicEncoder:
    """Two directions, by the first word, and noise."""

    identity = EncoderIdentity("w" * 64, "t" * 64, "mean", "", 256)
    dim = 6

    def encode(self, texts: list[str]) -> np.ndarray:
        rng = np.random.default_rng(len(texts))
        vectors = 0.2 * rng.normal(size=(len(texts), self.dim)).astype(np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[int(text.startswith(HARD))] += 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "load_default", TopicEncoder)
    monkeypatch.setattr(own_traffic, "load_default", TopicEncoder)
    monkeypatch.setattr(routing, "RANDOM_DRAWS", 30)


def outcomes(path: Path, task: str, n: int = 240, seed: int = 0) -> Path:
    """Where the prompt is about theorems only the strong model is right, else both; a tenth of all is the other way."""
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for i in range(n):
            hard, noise = i % 2 == 1, rng.random() < 0.1
            row = {
                "id": f"{task}/{i}",
                "task": task,
                "group": f"{task}-{i // 2 % 4}",
                "prompt": f"{HARD if hard else EASY} {task} {i} {'x' * int(rng.integers(1, 60))}",
                "weak_model": "w",
                "strong_model": "s",
                "weak_correct": int(hard == noise),
                "strong_correct": 1,
            }
            file.write(json.dumps(row) + "\n")
    return path


def last_line(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def test_it_finds_what_is_there_and_nothing_where_there_is_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [outcomes(tmp_path / f"{task}.jsonl", task, seed=seed) for seed, task in enumerate(("a", "b"))]
    assert routing.main(["--outcomes", *map(str, files), "--resamples", "50"]) == 0
    results = last_line(capsys.readouterr().out)["results"]
    sets = {(name, split) for name in ("a", "b", "pooled") for split in ("seen", "unseen")}
    assert {(r["set"], r["split"]) for r in results} == sets
    for result in results:
        ours, length = (result["rankings"][name]["apgr"] for name in ("router", "length"))
        assert ours > 0.65 and abs(length - 0.5) < 0.12, result["set"]
        assert abs(result["random_apgr"][0] - 0.5) < 0.05
        assert ("task mean (gain)" in result["rankings"]) == (result["split"] == "seen")
        assert result["router_less"]["length"]["verdict"] == "better"


def test_files_of_different_pairs_are_measured_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (outcomes(tmp_path / f"{task}.jsonl", task, 80) for task in ("a", "b"))
    second.write_text(second.read_text().replace('"weak_model": "w"', '"weak_model": "other"'))
    assert routing.main(["--outcomes", str(first), str(second), "--resamples", "10"]) == 0
    results = last_line(capsys.readouterr().out)["results"]
    assert {(r["set"], r["pair"]["weak"]) for r in results} == {("a", "w"), ("b", "other")}


def test_a_file_of_several_pairs_is_measured_pair_by_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(outcomes(tmp_path / "a.jsonl", "a", 160), weak_model=lambda number: ("v", "w")[number // 2 % 2])
    for pair, weak in (([], ["v", "w"]), (["--pair", "w,s"], ["w"]), (["--pair", "x,y"], ["v", "w"])):
        assert routing.main(["--outcomes", str(path), "--resamples", "5", *pair]) == 0
        results = last_line(capsys.readouterr().out)["results"]
        assert [(r["pair"]["weak"], r["rows"]) for r in results if r["split"] == "seen"] == [(w, 80) for w in weak]


def changed(path: Path, **changes: Any) -> Path:
    """Values that are callables are given the row's number."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {name: value(number) if callable(value) else value for name, value in changes.items()}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({"group": lambda number: f"g{number}"}, True),  # each prompt a group of its own
        ({"weak_correct": 1}, False),  # no gap: no figure, which is not NaN
        ({"weak_correct": 0, "strong_correct": 0}, False),
    ],
)
def test_odd_files_are_measured_or_said_to_have_no_figure(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    changes: dict[str, Any],
    measured: bool,
) -> None:
    path = changed(outcomes(tmp_path / "a.jsonl", "a", 60), **changes)
    assert routing.main(["--outcomes", str(path), "--resamples", "10"]) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert "NaN" not in line and not recwarn.list
    for result in json.loads(line)["results"]:
        assert (result["rankings"]["router"]["apgr"] is not None) == measured


def test_groups_with_broken_labels_are_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken,) = routing.BROKEN_LABELS
    path = changed(outcomes(tmp_path / "a.jsonl", "a", 80), group=lambda number: ("a", "b", broken, "c")[number % 4])
    assert routing.main(["--outcomes", str(path), "--resamples", "5"]) == 0
    told = capsys.readouterr()
    assert f"20 rows of {broken} are left out" in told.err
    assert {result["rows"] for result in last_line(told.out)["results"]} == {60}
    changed(path, group=broken)
    assert routing.main(["--outcomes", str(path), "--resamples", "5"]) == 2
    assert "--keep-broken measures them" in capsys.readouterr().err
    assert routing.main(["--outcomes", str(path), "--resamples", "5", "--keep-broken"]) == 0


def test_a_pair_in_the_wrong_order_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(outcomes(tmp_path / "a.jsonl", "a", 60), weak_correct=1, strong_correct=0)
    assert routing.main(["--outcomes", str(path), "--resamples", "10"]) == 0
    assert "warning: s is right less often than w" in capsys.readouterr().err


def test_what_cannot_be_measured_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = outcomes(tmp_path / "a.jsonl", "a", 60)
    for message, changes in (
        ("all rows are of one prompt", {"prompt": "the same"}),
        ("no row has a text", {"prompt": None, "prompt_chars": 5}),
    ):
        assert routing.main(["--outcomes", str(changed(path, **changes))]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.out == ""


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert routing.main(["--outcomes", str(tmp_path / "missing")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert routing.main(["--outcomes", "a", "--pair", "one"]) == 2
    assert "--pair is WEAK,STRONG" in capsys.readouterr().err
    same = str(outcomes(tmp_path / "a.jsonl", "a", 60))
    assert own_traffic.main(["--prior", same, "--workload", same]) == 2
    assert "that would be no shift" in capsys.readouterr().err
    one_prompt = changed(outcomes(tmp_path / "b.jsonl", "b", 240), prompt="the same")
    assert own_traffic.main(["--prior", same, "--workload", str(one_prompt)]) == 2
    assert "all rows have one prompt" in capsys.readouterr().err


def test_the_shipped_prior_is_measured_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "load_default", load_default)
    path = outcomes(tmp_path / "a.jsonl", "a", 8)
    assert routing.main(["--outcomes", str(path), "--artifact", "prior", "--only-artifact", "--resamples", "5"]) == 0
    assert last_line(capsys.readouterr().out)["results"][0]["split"].startswith("as trained")


def test_what_cannot_be_drawn_has_been_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = outcomes(tmp_path / "a.jsonl", "a", 60)
    assert routing.main(["--outcomes", str(path), "--resamples", "5", "--png", str(path / "a.png")]) == 2
    captured = capsys.readouterr()
    assert last_line(captured.out)["results"]
    assert str(path) in captured.err.splitlines()[-1]


def test_own_rows_beat_a_prior_that_learned_the_opposite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_traffic, "SIZES", (50, 100))
    monkeypatch.setattr(own_traffic, "DRAWS", 1)
    prior, workload = outcomes(tmp_path / "a.jsonl", "a"), outcomes(tmp_path / "b.jsonl", "b", 400)
    swapped = {EASY: HARD, HARD: EASY}
    changed(prior, group="all the prior's rows are of one group")
    rows = [json.loads(line) for line in prior.read_text().splitlines()]
    for row in rows:
        first, rest = row["prompt"].split(" ", 1)
        row["prompt"] = f"{swapped[first]} {rest}"
    prior.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert own_traffic.main(["--prior", str(prior), "--workload", str(workload)]) == 0
    out = capsys.readouterr().out
    assert last_line(out)["less_prior"]["100 rows"]["verdict"] == "better"
    assert "the prior is beaten from" in out

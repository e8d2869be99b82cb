"""The loop as a user runs it: train, calibrate, use, profile, explain, on files, with an encoder without a model."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import artifacts
from router.__main__ import main
from router.deployed import PRIOR, Deployed
from router.embedding.encoder import EncoderIdentity

needs_drawing = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
TOPICS = ("law of contracts", "sum these numbers", "capital city geography", "python function bug")


class WordEncoder:
    """Bags of hashed words: texts that share words are near each other."""

    identity = EncoderIdentity("w" * 64, "t" * 64, "mean", "", 256)
    dim = 24

    def encode(self, texts: list[str]) -> np.ndarray:
        vectors = np.full((len(texts), self.dim), 1e-3, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"[a-z]+", text.lower()):
                row[hashlib.sha256(word.encode()).digest()[0] % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("train", "calibrate", "profile", "explain"):
        monkeypatch.setattr(f"router.{module}.load_default", WordEncoder)


def outcome_rows(n: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        topic = i % 4
        rows.append(
            {
                "id": f"{seed}/{i}",
                "task": "t",
                "group": TOPICS[topic],
                "prompt": f"{TOPICS[topic]} question {seed} {i} " + "more " * int(rng.integers(0, 9)),
                "weak_model": "w",
                "strong_model": "s",
                "weak_correct": int(rng.random() > 0.1 + 0.2 * topic),
                "strong_correct": int(rng.random() > 0.05),
                "weak_tokens": 100,
                "strong_tokens": 200,
            }
        )
    return rows


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name, seed in (("train", 1), ("sample", 2)):
        made[name] = tmp_path / f"{name}.jsonl.gz"
        with gzip.open(made[name], "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in outcome_rows(240, seed))
    return made


@pytest.fixture
def trained(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    arguments = ["--outcomes", str(files["train"]), "--out", str(tmp_path / "artifacts"), "--resamples", "20"]
    assert main(["train", *arguments]) == 0
    return tmp_path / "artifacts"


def test_train_prints_every_estimator_beside_the_baselines(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--outcomes", str(files["train"]), "--out", str(tmp_path / "a"), "--resamples", "20"]
    assert main([*command, "--cache", str(tmp_path / "cache"), "--without", "knn", "--note", "Made up."]) == 0
    out, err = capsys.readouterr()
    for name in ("length", "task mean (gain)", "task + length", "ridge", "forest", "router", "oracle"):
        assert re.search(rf"^{re.escape(name)} +\d\.\d\d\d", out, re.MULTILINE), name
    assert "knn" not in out and "fold 5 of 5" in err
    deployed = Deployed.load(tmp_path / "a", WordEncoder.identity.sha256)
    assert deployed.manifest.metrics["rankings"]["router"]["apgr"] > 0.55
    assert "Made up." in deployed.card
    assert main([*command, "--split", "unseen", "--cache", str(tmp_path / "cache")]) == 0
    out, err = capsys.readouterr()
    assert "task mean" not in out and "embedding" not in err  # no group was seen; every vector was known


def test_calibrate_writes_a_version_that_keeps_its_promise_on_the_sample(
    trained: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = artifacts.current_version(trained)
    command = ["calibrate", "--outcomes", str(files["sample"]), "--artifact", str(trained)]
    assert main([*command, "--frontier-share", "0.25"]) == 0
    deployed = Deployed.load(trained, WordEncoder.identity.sha256)
    assert deployed.manifest.version != first
    assert deployed.policy.chosen["frontier_share"] <= 0.25
    assert deployed.policy.chosen["target"] == {"frontier_share": 0.25}
    assert "◄" in capsys.readouterr().out
    assert main([*command, "--quality", "0.9"]) == 0
    assert Deployed.load(trained, "").policy.chosen["quality_kept_ci95"][0] >= 0.9
    capsys.readouterr()
    current = artifacts.current_version(trained)
    assert main([*command, "--check"]) == 0
    marked = next(line for line in capsys.readouterr().out.splitlines() if "◄" in line)
    assert marked.startswith(f"{Deployed.load(trained, '').policy.threshold:+.4f}")
    assert artifacts.current_version(trained) == current  # a check writes nothing
    assert main(["use", "--artifact", str(trained), first]) == 0
    assert artifacts.current_version(trained) == first
    assert f"{first}" in capsys.readouterr().out


def test_calibrate_to_a_price(trained: Path, files: dict[str, Path], tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    one = "{input_usd_per_mtok: %s, output_usd_per_mtok: %s, as_of: 2026-11-26, source: made up}"
    prices.write_text(f"w: {one % (1, 1)}\ns: {one % (10, 10)}\n")
    command = ["calibrate", "--outcomes", str(files["sample"]), "--artifact", str(trained)]
    assert main([*command, "--usd-per-1k", "1.0", "--prices", str(prices)]) == 0
    assert Deployed.load(trained, "").policy.chosen["usd_per_1k"] <= 1.0
    assert main([*command, "--usd-per-1k", "0.01", "--prices", str(prices)]) == 2


def test_what_the_user_can_mend_is_one_line(
    trained: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in outcome_rows(20, 3)))
    alike = tmp_path / "alike.jsonl"
    wrong = [row | {"weak_correct": 0, "strong_correct": 0} for row in outcome_rows(120, 4)]
    alike.write_text("".join(json.dumps(row) + "\n" for row in wrong))
    sample, out = ["--outcomes", str(files["sample"])], ["--out", str(tmp_path / "x")]
    refused = {
        "too few to learn": ["train", "--outcomes", str(few), *out],
        "too few to calibrate": ["calibrate", "--outcomes", str(few), "--artifact", str(trained), "--quality", "0.9"],
        "give --out DIR": ["calibrate", *sample, "--quality", "0.9"],
        "another encoder": ["calibrate", *sample, *out, "--quality", "0.9"],  # the prior is MiniLM's
        "holds no answered request": ["profile", "--traffic", str(tmp_path / "empty"), "--artifact", str(trained)],
        "no price for 'w'": ["calibrate", *sample, "--artifact", str(trained), "--usd-per-1k", "1"],
        "--pair is WEAK,STRONG": ["calibrate", *sample, *out, "--quality", "0.9", "--pair", "one"],
        "equally well on every row": ["train", "--outcomes", str(alike), *out],
        "s is right on no row": ["calibrate", "--outcomes", str(alike), "--artifact", str(trained), "--check"],
        "no row is of group nobody": ["train", *sample, *out, "--leave-out", "nobody"],
        "is not as `python -m serving export` writes it": ["profile", "--traffic", str(tmp_path / "odd")],
        "few.jsonl:1: no row of `python -m serving export [--texts]`: it has no at_ms, status": [
            "profile",
            "--traffic",
            str(few),
        ],
    }
    (tmp_path / "empty").write_text("")
    (tmp_path / "odd").write_text(json.dumps(traffic_rows()[1] | {"at_ms": "yesterday"}) + "\n")
    capsys.readouterr()
    for message, command in refused.items():
        assert main(command) == 2, command
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--resamples", "-1"], ["--resamples", "many"], ["--without", "knnn"]], ids=lambda option: option[1]
)
def test_options_that_make_no_sense_are_refused(files: dict[str, Path], tmp_path: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--outcomes", str(files["sample"]), "--out", str(tmp_path / "x"), *option])
    assert not (tmp_path / "x").exists()


def traffic_rows() -> list[dict[str, Any]]:
    rows = []
    for i in range(120):
        text = "law of contracts, the same every time" if i % 2 else f"{TOPICS[3]} {i} please explain it"
        rows.append(
            {
                "request_id": str(i),
                "at_ms": 1_000_000 + i * 600_000,
                "status": "answered" if i else "failed",
                "route": "small" if i % 2 else "frontier",
                "input_tokens": 20,
                "output_tokens": 80,
                "cost_nusd": 1_000_000,
                "prompt_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "text": text if i < 110 else "",
            }
        )
    return rows


def test_profile_finds_what_repeats(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "traffic.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in traffic_rows()))
    capsys.readouterr()
    assert main(["profile", "--traffic", str(path), "--artifact", str(trained), "--topics", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("119 answered requests, 11,900 tokens, $0.1190 ($1.0000 per 1,000)")
    law = next(line for line in out.splitlines() if "contracts" in line)
    assert "98%" in law and "100%" in law and "routine" in law
    assert "(no text kept)" in out


@needs_drawing
def test_the_page_holds_its_plots_and_escapes_prompts(trained: Path, tmp_path: Path) -> None:
    path, page = tmp_path / "traffic.jsonl", tmp_path / "page.html"
    rows = [row | {"text": f"<script>alert({i})</script> {row['text']}"} for i, row in enumerate(traffic_rows())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["profile", "--traffic", str(path), "--artifact", str(trained), "--html", str(page)]) == 0
    html = page.read_text()
    assert "data:image/png;base64," in html and "<script" not in html and "http" not in html.replace("https", "http*")


@needs_drawing
def test_calibrate_draws_its_curve(trained: Path, files: dict[str, Path], tmp_path: Path) -> None:
    png = tmp_path / "curve.png"
    command = ["calibrate", "--outcomes", str(files["sample"]), "--artifact", str(trained), "--png", str(png)]
    assert main([*command, "--frontier-share", "0.5"]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_explain_says_why(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["explain", "a python function bug question", "--artifact", str(trained)]) == 0
    out = capsys.readouterr().out
    assert re.match(r"(small|frontier): expected gain [+-]0\.\d+, threshold", out)
    assert "estimator" in out and "nearest topics" in out and "python function bug" in out


def test_the_shipped_prior_is_whole_small_and_of_the_embedded_encoder() -> None:
    from router.embedding.load import identify
    from router.embedding.minilm import folder
    from router.embedding.recipe import Stated, read_recipe

    identity = identify(folder(), read_recipe(folder(), Stated()))
    deployed = Deployed.load(PRIOR, identity.sha256)
    assert sum(path.stat().st_size for path in PRIOR.iterdir()) < 1_000_000
    assert "2023" in deployed.card and "Apache-2.0" in deployed.card and "high_school_mathematics" in deployed.card
    assert deployed.stack.dim == 384

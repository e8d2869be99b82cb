"""Outcome rows of both shapes, and what is said about files that are neither."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import ConfigError
from router.outcomes import MIXED, Pair, read


def pair_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"mmlu/law/{number}",
        "task": "mmlu",
        "group": "law",
        "prompt": f"Question {number}?",
        "weak_model": "w",
        "strong_model": "s",
        "weak_correct": 0,
        "strong_correct": 1,
    }
    return row | changes


def models_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"zeroeval/gsm/{number}",
        "task": "gsm",
        "question": f"How many {number}?",
        "prompt": f"Template. How many {number}?",
        "prompt_tokens": 7,
        "models": {"w": {"correct": 0, "completion_tokens": 3}, "s": {"correct": 1, "completion_tokens": 5}},
    }
    return row | changes


def write(path: Path, *rows: dict[str, Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as file:
            file.write(text)
    else:
        path.write_text(text)
    return path


def test_pair_rows(tmp_path: Path) -> None:
    found = read([write(tmp_path / "a.jsonl", pair_row(0), pair_row(1, weak_correct=0.25))])
    assert found.pair == Pair("w", "s")
    assert found.gain.tolist() == [1.0, 0.75]
    assert found.groups.tolist() == ["law", "law"]
    assert np.isnan(found.weak_tokens).all()


def test_verdicts_on_further_models_are_kept_beside_the_pair(tmp_path: Path) -> None:
    models = models_row(0)["models"] | {"b": {"correct": 1}, "a": {"correct": 0.5}, "c": {"text": "not graded"}}
    path = write(tmp_path / "a.jsonl", models_row(0, models=models), models_row(1))
    found = read([path], Pair("w", "s")).others
    assert found is not None and np.array_equal(found, [[0.5, 1.0], [np.nan, np.nan]], equal_nan=True)
    assert read([write(tmp_path / "b.jsonl", pair_row(0), models_row(1))], Pair("w", "s")).others is None
    wrong = write(tmp_path / "c.jsonl", models_row(0, models=models | {"b": {"correct": 2}}))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        read([wrong], Pair("w", "s"))


def test_rows_of_several_models_need_a_pair_and_give_tokens(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", models_row(0), models_row(1, models={"w": {"correct": 1}}))
    with pytest.raises(ConfigError, match="--pair WEAK,STRONG, of w, s"):
        read([path])
    found = read([path], Pair("w", "s"))
    assert found.ids == ["zeroeval/gsm/0"]
    assert found.texts == ["How many 0?"]  # the question, not the template
    assert (found.chars[0], found.prompt_tokens[0], found.strong_tokens[0]) == (21, 7, 5)
    assert found.groups.tolist() == ["gsm"]


def test_a_withheld_text_leaves_its_length(tmp_path: Path) -> None:
    row = models_row(0, question=None, prompt=None, prompt_chars=99)
    found = read([write(tmp_path / "a.jsonl", row)], Pair("w", "s"))
    assert found.chars.tolist() == [99] and not found.has_text.any()


def test_a_row_as_people_write_it(tmp_path: Path) -> None:
    """Byte order mark, line ends of Windows, numbers as names, nulls where nothing is known."""
    models = {"w": {"correct": True}, "s": {"correct": 0.5}, "not graded": {"correct": None}, "not asked": None}
    rows = [pair_row(0, id=7, group=0, weak_tokens=None), pair_row(1, models=None, group=None)]
    for name, written in (("pair", rows), ("models", [models_row(0, models=models)])):
        text = "".join(json.dumps(row) + "\r\n" for row in written)
        (tmp_path / name).write_bytes(("\ufeff" + text).encode())
    pairs, several = read([tmp_path / "pair"]), read([tmp_path / "models"], Pair("w", "s"))
    assert (pairs.ids, pairs.groups.tolist()) == (["7", "mmlu/law/1"], ["0", "mmlu"])
    assert (several.gain.tolist(), several.others) == ([-0.5], None)


def test_equal_prompts_get_one_number(tmp_path: Path) -> None:
    found = read([write(tmp_path / "a.jsonl", pair_row(0), pair_row(1), pair_row(2, prompt="Question 0?"))])
    assert found.prompts.tolist() == [0, 1, 0]


def test_two_pairs_are_an_error_unless_mixed(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.jsonl", pair_row(0)), write(tmp_path / "b.jsonl", pair_row(1, weak_model="other"))]
    with pytest.raises(ConfigError, match=r"different pairs \(other,s; w,s\)"):
        read(paths)
    assert read(paths, mixed=True).pair == MIXED


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a.jsonl:1: not JSON"),
        ("[1]", "an object is expected"),
        ('{"id": "x"}', "the row has no 'weak_model'"),
        (json.dumps(pair_row(0, weak_correct=2)), "between 0 and 1"),
        (json.dumps(pair_row(0, weak_correct="no")), "could not convert"),
        (json.dumps(pair_row(0, weak_correct=None)), "weak_correct is null"),
        (json.dumps(pair_row(0, weak_correct=math.nan)), "between 0 and 1"),
        (json.dumps(pair_row(0, prompt=["a"])), "'prompt' is a text"),
        (json.dumps(pair_row(0, id=None)), "'id' is a text or a number"),
        (json.dumps(pair_row(0, group={})), "'group' is a text or a number"),
        (json.dumps(pair_row(0, id="\ud83d")), "surrogates not allowed"),
        (json.dumps(pair_row(0, weak_model=None)), "'weak_model' is a text or a number"),
        (json.dumps(pair_row(0, prompt_chars=math.inf)), "prompt_chars is inf"),
        (json.dumps(pair_row(0, weak_tokens=-1)), "weak_tokens is -1"),
        (json.dumps(models_row(0, models=["w", "s"])), "'models' is an object"),
        (json.dumps(models_row(0, models={"w": 1, "s": 0})), "'models' is an object"),
        ("\n", "holds no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=message):
        read([tmp_path / "a.jsonl"])


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read([tmp_path / "missing.jsonl"])
    (tmp_path / "not.gz").write_text("plain")
    with pytest.raises(ConfigError, match=r"cannot read .*not\.gz"):
        read([tmp_path / "not.gz"])
    path = write(tmp_path / "a.jsonl", pair_row(0))
    with pytest.raises(ConfigError, match="ids occur twice, such as 'mmlu/law/0'"):
        read([path, path])
    with pytest.raises(ConfigError, match="no row with both models of --pair WEAK,STRONG; its first row has w,s"):
        read([path], Pair("s", "w"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b'{"id": 1}')[:10] + b"\xff" * 20)
    with pytest.raises(ConfigError, match=r"cannot read .*cut\.gz"):
        read([tmp_path / "cut.gz"])
    with pytest.raises(ConfigError, match="--pair is WEAK,STRONG"):
        Pair.parse("only-one")

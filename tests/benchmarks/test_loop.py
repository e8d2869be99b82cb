"""The loop's command line: what it refuses, before anything is started. The loop itself: tests/stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loop import main
from tests.benchmarks.cost import questions


def test_what_cannot_be_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = questions.write(tmp_path / "rows.jsonl", 40)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "rollout.json").write_text("{}")
    refused = {
        "cannot read": ["--zeroeval", str(tmp_path / "none")],
        "no price for 'gpt-99'": ["--zeroeval", str(rows), "--frontier", "gpt-99"],
        "is not empty": ["--zeroeval", str(rows), "--out", str(tmp_path / "used")],
        "cannot be made one": ["--zeroeval", str(rows), "--out", str(rows / "below")],
    }
    for message, command in refused.items():
        assert main(command) == 1
        told = capsys.readouterr()
        assert message in told.err and told.err.count("\n") == 1 and told.out == ""


def test_too_few_questions_are_refused_before_they_are_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = questions.write(tmp_path / "rows.jsonl", 397)
    models = ["--small", "little", "--frontier", "gpt-4o-2024-08-06"]
    assert main(["--zeroeval", str(rows), *models]) == 1
    told = capsys.readouterr()
    assert "of 397 questions a quarter, 99, is to calibrate on, which takes 100" in told.err and told.out == ""

"""The learned router's loop whole: its commands, one after the other, beside a running service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.cost import questions

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def test_from_traffic_to_a_router_that_acts_and_back(tmp_path: Path) -> None:
    rows, out = questions.write(tmp_path / "rows.jsonl", 420), tmp_path / "out"
    models = ["--small", "little", "--frontier", questions.MODELS["frontier"], "--questions", "420"]
    command = [sys.executable, "-m", "benchmarks.loop", "--zeroeval", str(rows), *models, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    known = [json.loads(line) for line in (out / "learn-outcomes.jsonl").read_text().splitlines()]
    assert {(row["models"]["small"]["correct"], row["models"]["frontier"]["correct"]) for row in known} == {
        (0, 1),
        (1, 1),
    }
    for passive in ("instrument", "shadow", "backed_out"):
        assert found[passive]["routes"] == {"small": found[passive]["requests"]}
        assert found[passive]["decided by the learned router"] == 0
        assert sum(found[passive]["wanted"].values()) == found[passive]["requests"]
    some, all_ = found["tenth"], found["all"]
    assert 0 < some["decided by the learned router"] < some["requests"] / 3
    assert all_["decided by the learned router"] == all_["requests"]
    assert all_["routes"] == found["shadow"]["wanted"]  # it does what it said in shadow
    assert all_["quality kept"] > found["shadow"]["quality kept"]
    assert found["back_out_s"] < 5
    assert "farthing_router_acting_ratio 0.0" in done.stdout

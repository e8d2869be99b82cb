"""The cost benchmark whole: replayed tiers, the service, every architecture, the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cost import results_io
from tests.benchmarks.cost import questions

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def test_a_small_replay_runs_and_its_books_agree(tmp_path: Path) -> None:
    rows = questions.write(tmp_path / "rows.jsonl", 120)
    sizes = ["--questions", "24", "--rps", "16", "--check-rps", "4", "--check-s", "2"]
    command = [sys.executable, "-m", "benchmarks.cost", "--zeroeval", str(rows), "--small", "little", *sizes]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = results_io.load(tmp_path / "out" / "run.json")
    assert json.loads(done.stdout.splitlines()[-1])["schema"] == run.schema
    driven = {one.name: one for one in run.figures if not one.computed}
    assert list(driven) == [
        *("all-frontier", "all-cheapest", "all-small", "routed-gpu", "routed", "routed-exact", "routed-semantic"),
    ]
    asked = {one.requests for one in driven.values()}
    assert asked == {33}  # 24 questions, a fifth of all word for word again, a twentieth in other words
    for one in driven.values():
        assert one.failed == 0
        assert one.ledger_nusd == one.counted_nusd, one.name
        assert one.wrong_cache_hits == 0
        assert sum(one.shares.values()) == pytest.approx(1.0)
        assert one.ttft_p50_ms is not None
    assert driven["all-frontier"].quality_kept is not None
    assert driven["all-frontier"].quality_kept.value == 1.0
    assert driven["routed-exact"].cache_hits > 0
    assert driven["routed-exact"].parts.total_usd < driven["routed"].parts.total_usd
    assert driven["all-small"].parts.frontier_usd == 0.0
    assert driven["all-small"].parts.gpu_idle_usd > 0.0
    assert {point.simulated for point in run.loads} == {True, False}
    assert (tmp_path / "out" / "index.html").is_file()

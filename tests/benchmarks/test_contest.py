"""Contenders of known speed under the real load generator: who is faster shows, and a wrong answer stops the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import contest, overhead, scripted
from benchmarks.child import BenchmarkError, Nursery, python
from benchmarks.client import Expected
from benchmarks.contest import RPS, TTFT_P50_MS, Aim, Case, Contender, Results
from benchmarks.load import Plan
from benchmarks.measure import Spread

TOKENS = 3
STREAM = Case("stream", 2)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[str]]:
    """One that answers at once, and one that takes 40 ms to its first token."""
    nursery = Nursery(tmp_path)
    slow_flags = ["--ttft-ms=40"]
    with (
        nursery.child("fast", python("benchmarks.scripted")) as fast,
        nursery.child("slow", python("benchmarks.scripted", *slow_flags)) as slow,
    ):
        yield [f"{child.wait_for_line('ready ', 20)}/v1" for child in (fast, slow)]
    assert nursery.left_behind == []


def test_ratios_show_who_is_faster(servers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan("", "m", tokens=TOKENS, expected=Expected(text=scripted.text(TOKENS), tokens=TOKENS))
    fast, slow = (Contender(name, replace(plan, url=url)) for name, url in zip(("fast", "slow"), servers, strict=True))
    results = Results()
    contest.contest([fast, slow], [STREAM], 2, results, lambda case: 5 * case.clients)
    assert [r["requests"] for reports in results.reports.values() for r in reports] == [10, 10, 10, 10]
    assert results.sent("fast") == 2 * (10 + STREAM.clients), "the warm-ups too"
    ratio, added = results.ratio(STREAM, RPS, "fast", "slow"), results.difference(STREAM, TTFT_P50_MS, "slow", "fast")
    assert ratio is not None and ratio.median > 1
    assert added is not None and added.median > 0
    assert results.ratio(STREAM, RPS, "fast", "absent") is None
    told = capsys.readouterr().out
    assert [line.split()[4] for line in told.splitlines()] == ["fast", "slow", "fast", "slow"], "round by round"
    records = contest.records(results)
    assert [r["contender"] for r in records] == ["fast", "slow"]
    assert records[0]["requests"] == 20 and records[0]["rps"]["low"] <= records[0]["rps"]["median"]


def test_a_wrong_answer_stops_the_contest(servers: list[str]) -> None:
    wrong = Plan(servers[0], "m", tokens=TOKENS, expected=Expected(tokens=TOKENS + 1))
    with pytest.raises(BenchmarkError, match="3 tokens instead of 4"):
        contest.contest([Contender("fast", wrong)], [STREAM], 1, Results(), lambda _: 2)


def test_an_aim_is_met_missed_or_not_measured() -> None:
    spread = Spread(2.0, 1.0, 3.0)
    assert Aim("a", spread, at_least=2.0).met is True
    assert Aim("a", spread, at_least=2.1).met is False
    assert Aim("a", spread, at_most=1.9).met is False
    assert Aim("a", None, at_least=1.0).met is None
    assert "NO" in Aim("a", spread, at_most=1.9).line() and "not measured" in Aim("a", None, 1.0).line()
    assert Aim("a", spread, at_least=2.0).record()["found"] == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_the_expected_figures_are_taken_from_the_right_pairs() -> None:
    rates = {"direct": 1000.0, "gateway": 300.0, "hits": 900.0, "litellm": 10.0}
    results = Results()
    for kind in overhead.KINDS:
        for clients in (1, 32):
            for name, rps in rates.items():
                report = {"rps": rps, "latency_ms": {"p50": 1000 / rps}}
                results.add(name, Case(kind, clients), report)
    found = [aim.found.median for aim in overhead.aims(results, (1, 32)) if aim.found]
    assert found == [30.0, 30.0, 3.0, 3.0, 2.333, 2.333]
    assert [aim.met for aim in overhead.aims(results, (1, 32))] == [True] * 6


def test_a_record_that_cannot_be_kept_is_printed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="No such file"):
        contest.finish({"benchmark": "x"}, [], str(tmp_path / "no folder" / "x.json"))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["benchmark"] == "x"

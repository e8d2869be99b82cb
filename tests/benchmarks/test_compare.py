"""What has changed is said, what is noise is not, and what cannot be compared is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import compare
from benchmarks.compare import BETTER, HIGHER, LOWER, NO_INTERVAL, SAME, WORSE, Measure, verdict
from benchmarks.cost import results_io
from benchmarks.cost.results import Figures, Interval, Run
from tests.benchmarks.cost import example


@pytest.mark.parametrize(
    ("a", "b", "better", "expected"),
    [
        ((1.0, 0.9, 1.1), (1.2, 1.1, 1.3), LOWER, SAME),
        ((1.0, 0.9, 1.1), (1.3, 1.2, 1.4), LOWER, WORSE),
        ((1.0, 0.9, 1.1), (1.3, 1.2, 1.4), HIGHER, BETTER),
        ((1.3, 1.2, 1.4), (1.0, 0.9, 1.1), LOWER, BETTER),
        ((1.3, 1.2, 1.4), (1.0, 0.9, 1.1), HIGHER, WORSE),
        ((1.0, None, None), (1.3, 1.2, 1.4), LOWER, NO_INTERVAL),
        ((0.0, None, None), (0.0, None, None), LOWER, SAME),
    ],
)
def test_a_verdict_rests_on_intervals(a: Any, b: Any, better: str, expected: str) -> None:
    assert verdict(Measure(*a, better), Measure(*b, better)) == expected


spans = st.lists(st.floats(0, 100), min_size=3, max_size=3).map(sorted).map(lambda s: (s[1], s[0], s[2]))


@given(spans, spans)
def test_the_other_way_round_better_is_worse(a: Any, b: Any) -> None:
    swapped = {BETTER: WORSE, WORSE: BETTER, SAME: SAME}
    for better in (LOWER, HIGHER):
        assert (
            verdict(Measure(*a, better), Measure(*b, better))
            == swapped[verdict(Measure(*b, better), Measure(*a, better))]
        )


def routed(run: Run, **changes: Any) -> Run:
    def change(one: Figures) -> Figures:
        return dataclasses.replace(one, **changes) if one.name == "routed" else one

    return dataclasses.replace(run, figures=[change(one) for one in run.figures])


def keep(run: Run, path: Path) -> str:
    results_io.dump(run, path)
    return str(path)


@pytest.fixture
def before(tmp_path: Path) -> str:
    return keep(example.run(), tmp_path / "a.json")


def outcome(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    text = capsys.readouterr().out
    return text, json.loads(text.splitlines()[-1])


def verdicts(record: dict[str, Any]) -> dict[str, str]:
    return {one["figure"]: one["verdict"] for one in record["figures"]}


def test_a_run_has_not_changed_from_itself(before: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([before, before]) == 0
    _, record = outcome(capsys)
    assert set(record["verdicts"]) == {SAME}
    assert record["warnings"] == []


def test_dearer_beyond_noise_is_worse_and_the_exit_code_says_so(
    before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = keep(routed(example.run(), total=Interval(0.9, 0.87, 0.93), latency_p99_ms=9000.0), tmp_path / "b.json")
    assert compare.main([before, after]) == 1
    text, record = outcome(capsys)
    found = verdicts(record)
    assert found["routed: $/1k requests"] == WORSE
    assert found["routed: latency p99 ms"] == NO_INTERVAL
    assert "1.213" in text
    assert compare.main([after, before]) == 0, "the way back is better"


def test_what_lies_within_the_intervals_is_noise(
    before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = keep(routed(example.run(), quality=Interval(0.895, 0.885, 0.905)), tmp_path / "b.json")
    assert compare.main([before, after]) == 0
    assert verdicts(outcome(capsys)[1])["routed: quality"] == SAME


def test_money_is_not_judged_across_price_lists(
    before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dearer = dataclasses.replace(routed(example.run(), total=Interval(9.0, 8.9, 9.1)), prices=[{"model": "gpt-4o"}])
    assert compare.main([before, keep(dearer, tmp_path / "b.json")]) == 0
    text, record = outcome(capsys)
    assert verdicts(record)["routed: $/1k requests"] == "other prices"
    assert "beware: prices differ" in text


def test_the_same_list_on_the_next_day_is_the_same_price(
    before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def on(day: str) -> Run:
        price = {"model": "gpt-4o", "input_usd_per_mtok": 2.5, "on": day, "source": f"a list, on {day}"}
        return dataclasses.replace(example.run(), prices=[price])

    days = [keep(on(day), tmp_path / f"{day}.json") for day in ("2026-11-26", "2026-11-27")]
    assert compare.main(days) == 0
    text, record = outcome(capsys)
    assert set(verdicts(record).values()) <= {SAME, "no interval"} and "prices" not in text


def test_other_hardware_is_warned_of_and_an_architecture_that_is_missing_named(
    before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = example.run()
    other = dataclasses.replace(run, hardware={**run.hardware, "cores": 64}, figures=run.figures[:-1])
    assert compare.main([before, keep(other, tmp_path / "b.json")]) == 0
    _, record = outcome(capsys)
    assert record["warnings"][0] == "cores: 2 and 64"
    assert "such as oracle: $/1k requests" in record["warnings"][1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"workload": "traffic"}, "workload: replay and traffic"),
        ({"seed": 8}, "seed: 7 and 8"),
        ({"workload_facts": {"questions": 2119, "repeats": 0.0}}, "workload's repeats: 0.2 and 0.0"),
    ],
)
def test_another_workload_is_refused_but_for_anyway(
    before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], why: str
) -> None:
    other = keep(dataclasses.replace(example.run(), **change), tmp_path / "b.json")
    assert compare.main([before, other]) == 2
    captured = capsys.readouterr()
    assert why in captured.err
    assert captured.out == ""
    assert compare.main([before, other, "--anyway"]) == 0
    assert why in outcome(capsys)[1]["warnings"]


def contest(path: Path, load: float = 0.5, rate: float = 100.0, ratio: float = 2.0) -> str:
    def around(value: float) -> dict[str, float]:
        return {"median": value, "low": value * 0.95, "high": value * 1.05}

    row = {"contender": "gateway", "kind": "unary", "clients": 1, "rps": around(rate), "p50_ms": around(10.0)}
    aims = [
        {"what": "gateway over peer", "at_least": 1.5, "at_most": None, "found": around(ratio), "met": True},
        {"what": "not measured", "at_least": 1.5, "at_most": None, "found": None, "met": None},
    ]
    machine = {"cores": 2, "cpu": "made up", "load_average_before": load, "versions": {"ray": "2.60.0"}}
    path.write_text(json.dumps({"benchmark": "overhead", "machine": machine, "results": [row], "ratios": aims}))
    return str(path)


def test_between_rounds_of_a_contest_only_ratios_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = contest(tmp_path / "a.json")
    assert compare.main([a, contest(tmp_path / "b.json", rate=50.0)]) == 0
    assert verdicts(outcome(capsys)[1])["unary x1 gateway: rps"] == WORSE, "said, though it decides nothing"
    assert compare.main([a, contest(tmp_path / "c.json", ratio=1.0)]) == 1
    assert verdicts(outcome(capsys)[1])["gateway over peer"] == WORSE


def test_a_machine_that_was_busy_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = contest(tmp_path / "a.json"), contest(tmp_path / "b.json", load=9.0)
    assert compare.main([a, b]) == 0
    assert outcome(capsys)[1]["warnings"] == [f"the machine was busy before {b}: load 9 on 2 cores"]


def test_a_ranking_without_a_figure_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"length": {"apgr": None, "ci95": [None, None]}, "router": {"apgr": 0.6, "ci95": [0.5, 0.7]}}
    found = {"set": "a", "split": "seen", "pair": {"weak": "w", "strong": "s"}, "rankings": figures}
    whole = {"benchmark": "routing", "data_sha256": "d", "encoder_sha256": "e", "results": [found]}
    (tmp_path / "a.json").write_text(json.dumps(whole))
    assert compare.main([str(tmp_path / "a.json")] * 2) == 0
    out = capsys.readouterr().out
    assert "router: APGR" in out and "length" not in out


def test_kinds_do_not_mix_even_anyway(before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([before, contest(tmp_path / "b.json"), "--anyway"]) == 2
    assert "a result of cost and one of overhead" in capsys.readouterr().err


def test_what_is_no_result_is_refused(before: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.json").write_text("[]")
    assert compare.main([before, str(tmp_path / "b.json")]) == 2
    assert "no run of the cost benchmark" in capsys.readouterr().err
    assert compare.main([before, str(tmp_path / "none.json")]) == 2


KEPT = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_every_kept_result_can_be_read(path: Path) -> None:
    found = compare.read(path)
    assert found.measures
    assert {change.verdict for change in compare.compare(found, found)} <= {SAME, NO_INTERVAL}

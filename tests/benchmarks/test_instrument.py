"""The arithmetic of the check, and that it runs. Whether the figures are right is for the command to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compare, instrument, scripted
from benchmarks.contest import Case, Results
from benchmarks.instrument import Reading, readings, stated
from benchmarks.measure import Spread

TIMING = scripted.Timing(0.1, 0.02)
STREAM = Case("stream", 16)


def test_what_a_perfect_instrument_reads() -> None:
    found = {name: value for name, (_, value) in stated(TIMING, 46, STREAM).items()}
    assert found == pytest.approx(
        {
            "latency p50, ms": 1000.0,
            "requests/s": 16.0,
            "tokens/s": 736.0,
            "time to first token p50, ms": 100.0,
            "time per token p50, ms": 20.0,
        }
    )
    assert set(stated(TIMING, 46, Case("unary", 1))) == {"latency p50, ms", "requests/s", "tokens/s"}


def reading(measured: float) -> Reading:
    return Reading("stream x1", "requests/s", 50.0, Spread(measured, measured, measured))


@pytest.mark.parametrize(("measured", "off", "inside"), [(50.9, 1.8, True), (49.1, -1.8, True), (51.1, 2.2, False)])
def test_off_counts_both_ways(measured: float, off: float, inside: bool) -> None:
    assert reading(measured).off_percent == pytest.approx(off)
    assert reading(measured).within(2.0) is inside


def test_one_figure_that_is_off_fails_the_whole() -> None:
    record = instrument.record_of([reading(50.0), reading(47.0)], 2.0, {"out": None, "tokens": 3})
    assert record["met"] is False
    assert record["worst"]["off_percent"] == -6.0
    assert record["config"] == {"tokens": 3}
    assert "NO" in instrument.render([reading(47.0)], 2.0)


def test_each_figure_is_read_where_the_report_has_it() -> None:
    report = {
        "latency_ms": {"p50": 1.0},
        "rps": 2.0,
        "output_tokens_per_s": 3.0,
        "ttft_ms": {"p50": 4.0},
        "tpot_ms": {"p50": 5.0},
    }
    results = Results()
    results.add("scripted", STREAM, report)
    assert [one.found.median for one in readings(results, TIMING, 46, [STREAM])] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_the_command_measures_every_case_and_keeps_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "instrument.json"
    quick = ["--ttft-ms=5", "--itl-ms=1", "--tokens=4", "--clients=1,2", "--waves=1", "--rounds=1"]
    assert instrument.main([*quick, "--within=1e9", "--out", str(kept)]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record == json.loads(kept.read_text())
    assert {one["case"] for one in record["figures"]} == {"stream x1", "stream x2", "unary x1", "unary x2"}
    assert record["left_behind"] == []
    assert len(compare.read(kept).measures) == 16


def test_a_time_of_nothing_has_no_percentage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        instrument.main(["--itl-ms=0"])
    assert "not above 0" in capsys.readouterr().err

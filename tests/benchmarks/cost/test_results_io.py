"""A run survives its file, and a file that is none is refused with the reason."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.child import BenchmarkError
from benchmarks.cost import results, results_io
from tests.benchmarks.cost import example

finite = st.floats(allow_nan=False, allow_infinity=False)
money = st.floats(0, 1e6)
text = st.text(max_size=12)
counts = st.integers(0, 10**12)
intervals = st.builds(results.Interval, finite, finite, finite)
parts = st.builds(results.Parts, money, money, money, money, money)
shares = st.dictionaries(text, money, max_size=3)
free = st.dictionaries(text, st.one_of(counts, finite, text, st.none(), st.lists(text, max_size=2)), max_size=3)
maybe = st.one_of(st.none(), finite)
figures = st.builds(
    results.Figures,
    name=text,
    label=text,
    requests=counts,
    failed=counts,
    parts=parts,
    total=intervals,
    shares=shares,
    quality=st.one_of(st.none(), intervals),
    graded=counts,
    quality_kept=st.one_of(st.none(), intervals),
    latency_p50_ms=maybe,
    ledger_nusd=st.one_of(st.none(), counts),
    replayed=st.lists(text, max_size=2),
    computed=st.booleans(),
    timeline=st.lists(st.builds(results.Bucket, finite, st.dictionaries(text, counts, max_size=2)), max_size=2),
)
runs = st.builds(
    results.Run,
    workload=text,
    commit=text,
    at=text,
    command=text,
    seed=counts,
    duration_s=finite,
    hardware=free,
    versions=st.dictionaries(text, text, max_size=2),
    config=free,
    prices=st.lists(free, max_size=2),
    assumptions=st.lists(text, max_size=2),
    figures=st.lists(figures, max_size=2),
    loads=st.lists(st.builds(results.LoadPoint, text, finite, parts, counts, st.booleans(), maybe), max_size=2),
    break_even=st.lists(
        st.builds(
            results.BreakEven, text, st.sampled_from(["cheapest", "frontier"]), finite, maybe, finite, finite, text
        ),
        max_size=2,
    ),
    curves=st.lists(st.builds(results.MixPoint, text, finite, finite), max_size=2),
    checks=st.lists(st.builds(results.Check, text, st.booleans(), maybe, maybe, text), max_size=2),
    workload_facts=free,
)


@given(runs)
def test_a_run_comes_back_as_it_was(run: results.Run) -> None:
    line = results_io.one_line(run)
    assert "\n" not in line
    assert results_io.parse(line, "here") == run


def test_the_file_and_the_line_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    results_io.dump(example.run(), path)
    assert json.loads(path.read_text()) == json.loads(results_io.one_line(example.run()))
    assert results_io.one_line(results_io.load(path)) == results_io.one_line(example.run())
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_run_that_cannot_be_written_leaves_the_file_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    results_io.dump(example.run(), path)
    before = path.read_bytes()
    bad = dataclasses.replace(example.run(), duration_s=float("nan"))
    with pytest.raises(BenchmarkError, match="duration_s is nan"):
        results_io.dump(bad, path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results_io.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        results_io.dump(example.run(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"], "nothing half written is left beside it"


def test_where_the_bad_figure_lies_is_said() -> None:
    point = results.LoadPoint("routed", 1.0, results.Parts(frontier_usd=float("inf")))
    with pytest.raises(BenchmarkError, match=r"loads\.0\.parts\.frontier_usd is inf"):
        results_io.one_line(dataclasses.replace(example.run(), loads=[point]))


def test_what_json_has_no_word_for_becomes_text() -> None:
    config = {"on": datetime.date(2026, 11, 26), "file": Path("a/b"), "n": np.int64(3)}
    loaded = results_io.parse(results_io.one_line(dataclasses.replace(example.run(), config=config)), "here")
    assert loaded.config == {"on": "2026-11-26", "file": "a/b", "n": 3}


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(results_io.one_line(example.run())), **fields})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is no JSON"),
        ("[]", "no run of the cost benchmark"),
        ('{"benchmark": "overhead"}', "no run of the cost benchmark"),
        (changed(schema=99), "has schema 99; this version reads 1"),
        (changed(seed="seven"), "seed: "),
        (changed(loads=[{"name": "x", "offered_rps": 1.0}]), r"loads\.0\.parts: "),
        (changed(break_even=[{"name": "x", "against": "luck"}]), r"break_even\.0\.against: "),
    ],
)
def test_what_is_no_run_is_refused_with_the_reason(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(BenchmarkError, match=why):
        results_io.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"cannot read .*none\.json: No such file"):
        results_io.load(tmp_path / "none.json")


def test_what_a_later_version_added_is_left_out() -> None:
    assert results_io.parse(changed(added_later=1), "here").seed == 7

"""What a run looks like: every figure is in the report, every table says what was replayed, and nothing is fetched."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.child import Nursery
from benchmarks.cost import command, figures, page, results_io, tables
from benchmarks.cost.results import BreakEven, Check, Interval, Parts, Run
from tests.benchmarks.cost import example

BARE = dataclasses.replace(example.run(), loads=(), break_even=(), curves=(), checks=(), prices=(), assumptions=())


def test_the_report_states_everything_that_makes_it_defensible() -> None:
    run = example.run()
    text = tables.render(run)
    for stated in (run.commit, run.at, run.command, "seed 7", "498 s", "cores 2", "gpus none", "ray 2.60.0"):
        assert stated in text
    for assumption in run.assumptions:
        assert f"- {assumption}" in text
    for price in run.prices:
        assert str(price["model"]) in text
    assert max(map(len, text.splitlines())) < 170


def test_every_table_of_figures_says_what_was_replayed() -> None:
    for table in tables.tables(example.run()):
        if table.title != "Prices":
            assert any("replayed, not done afresh: texts, latency (all rows)" in n for n in table.notes), table.title
            assert "replayed" in table.text()


def test_rows_that_differ_in_what_was_replayed_are_named() -> None:
    live = dataclasses.replace(example.FIGURES[3], replayed=())
    notes = tables.cost(dataclasses.replace(example.run(), figures=[example.FIGURES[0], live])).notes
    assert notes == [
        "replayed, not done afresh: texts, latency (all frontier)",
        "replayed, not done afresh: nothing (routed)",
    ]


def cells(table: tables.Table, row: str) -> dict[str, str]:
    found = next(cells for cells in table.rows if cells[0] == row)
    return dict(zip(table.head, found, strict=True))


def test_the_cost_table_parts_the_money() -> None:
    row = cells(tables.cost(example.run()), "routed + semantic cache")
    assert row["total"] == "0.602"
    assert row["of frontier"] == "26.1%"
    assert [row[p] for p in ("frontier", "cheap", "GPU busy", "GPU idle", "wasted")] == [
        *("0.470", "0.009", "0.024", "0.087", "0.012"),
    ]


def test_routes_have_columns_in_the_order_of_their_price_and_unknown_ones_follow() -> None:
    odd = dataclasses.replace(example.FIGURES[4], shares={"frontier": 0.2, "attic": 0.1, "cache": 0.7})
    table = tables.answers(dataclasses.replace(example.run(), figures=[odd]))
    assert list(table.head[3:6]) == ["cache", "frontier", "attic"]


def test_what_was_not_measured_is_a_dash_and_no_zero() -> None:
    blank = dataclasses.replace(example.FIGURES[3], quality=None, quality_kept=None, latency_p99_ms=None)
    run = dataclasses.replace(example.run(), figures=[blank])
    assert cells(tables.answers(run), "routed")["right"] == "–"
    assert cells(tables.speed(run), "routed")["p99 ms"] == "–"
    assert cells(tables.cost(run), "routed")["of frontier"] == "–", "nothing to compare with"


def test_the_account_shows_a_difference_between_ledger_and_count() -> None:
    wrong = dataclasses.replace(example.FIGURES[3], ledger_nusd=3_500_000_000, counted_nusd=3_490_000_000)
    assert (
        cells(tables.account(dataclasses.replace(example.run(), figures=[wrong])), "routed")["difference"] == "0.010000"
    )


def test_break_even_has_a_column_for_each_price_of_the_hour_and_says_why_not() -> None:
    never = [BreakEven("all-small", "cheapest", usd, None, 0.5, 0.5, "too slow") for usd in (0.25, 0.4)]
    run = dataclasses.replace(example.run(), break_even=[*example.run().break_even, *never])
    table = tables.break_even(run)
    assert list(table.head[-2:]) == ["$0.25/h", "$0.40/h"]
    assert [row[2:] for row in table.rows if row[:2] == ["all small", "cheapest hosted"]] == [
        ["1x", "4.2", "0.5", "0.799"],
        ["2x", "2.1", "", "0.4"],
        ["0.5x", "0.5", "–", "–"],
    ]
    assert "all small, cheapest hosted, 0.5x at $0.25, $0.40/h: too slow" in table.notes


def test_facts_that_have_parts_get_lines_of_their_own() -> None:
    run = dataclasses.replace(example.run(), workload_facts={"questions": 9, "cost_at_97": {"routed": 0.31}})
    head = dict(tables.header(run))
    assert head["workload"] == "replay, questions 9"
    assert head["cost_at_97"] == "{routed 0.31}"


def test_a_missed_aim_is_printed_as_missed_with_its_reason() -> None:
    text = tables.checks(example.run()).text()
    assert re.search(r"of all-frontier +0\.33 +0\.3 +NOT MET +the router's part", text)


def test_a_run_without_loads_or_checks_has_no_such_tables() -> None:
    titles = [table.title for table in tables.tables(BARE)]
    assert titles == ["Cost", "Routes and quality", "Latency and throughput", "Accounts"]
    assert "none stated" in tables.render(BARE)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return page.write(example.run(), tmp_path_factory.mktemp("report"))


def test_the_page_is_written_with_its_pictures_and_its_data(written: list[Path]) -> None:
    assert [path.name for path in written] == ["index.html", "run.json", *(f"{n}.png" for n in figures.PICTURES)]
    for picture in written[2:]:
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert results_io.load(written[1]).commit == "abc1234"


class Seen(HTMLParser):
    """Attributes that would fetch something, and rows."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.rows = 0
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.rows += tag == "tr"
        assert tag != "script"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_fetches_nothing_and_escapes_what_it_is_told(written: list[Path]) -> None:
    text = written[0].read_text()
    seen = Seen()
    seen.feed(text)
    assert len(seen.addresses) == len(figures.PICTURES)
    assert all(address.startswith("data:image/png;base64,") for address in seen.addresses)
    assert "@import" not in text
    assert "url(" not in text
    assert "<made up>" in seen.texts, "as text, not as a tag"
    assert "<assumed>" in "".join(seen.texts)
    assert seen.rows == sum(1 + len(table.rows) for table in tables.tables(example.run()))
    assert "prefers-color-scheme: dark" in text


def test_pictures_without_data_are_left_out(tmp_path: Path) -> None:
    plain = [dataclasses.replace(one, timeline=(), quality=None) for one in example.FIGURES[:1]]
    drawn = figures.draw(dataclasses.replace(BARE, figures=plain), tmp_path)
    assert [path.stem for path in drawn] == ["cost-by-part"]


def test_a_bar_is_as_long_as_its_parts() -> None:
    axes = figures.bars(example.run()).axes[0]
    assert len(axes.containers[0].patches) == len(example.FIGURES)
    ends = [0.0] * len(example.FIGURES)
    for container in axes.containers:
        for row, patch in enumerate(getattr(container, "patches", ())):
            ends[row] = max(ends[row], patch.get_x() + patch.get_width())
    assert ends == pytest.approx([one.parts.total_usd for one in example.FIGURES])


def stars(run: Run) -> list[tuple[float, float]]:
    lines = figures.load(run).axes[0].lines
    return [xy for line in lines if line.get_marker() == "*" for xy in zip(*line.get_data(), strict=True)]


def test_break_even_is_marked_where_the_lines_of_that_price_cross() -> None:
    run = example.run()
    found = stars(run)
    assert [rps for rps, _ in found] == [0.066, 0.048, 0.799]
    assert [usd for _, usd in found] == pytest.approx([2.31, 2.31, 0.139], rel=0.05), "on the alternative's line"
    text = " ".join(t.get_text() for t in figures.load(run).axes[0].get_legend().get_texts())
    assert "beats cheapest hosted from 0.8/s" in text
    none = [dataclasses.replace(one, gpu_usd_per_hour=0.6) for one in run.break_even]
    assert stars(dataclasses.replace(run, break_even=none)) == []


def test_an_idle_part_below_zero_does_not_break_the_picture() -> None:
    """The ledger's idle is negative where the rate card is too dear."""
    odd = dataclasses.replace(
        example.FIGURES[2], parts=Parts(gpu_busy_usd=0.2, gpu_idle_usd=-0.1), total=Interval(0.1, 0.1, 0.1)
    )
    assert figures.bars(dataclasses.replace(BARE, figures=[odd])) is not None
    assert cells(tables.cost(dataclasses.replace(BARE, figures=[odd])), "all small")["GPU idle"] == "-0.100"


def test_a_failed_check_stands_out_on_the_page(tmp_path: Path) -> None:
    text = page.render(dataclasses.replace(BARE, checks=[Check("the aim", False)]), [])
    assert '<td class="missed">NOT MET</td>' in text


def test_a_result_that_cannot_be_kept_is_printed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that is full after eight minutes costs the files, not the figures."""
    (tmp_path / "out").write_text("no folder")
    with pytest.raises(OSError, match="File exists"):
        command.report(BARE, tmp_path / "out", Nursery(tmp_path))
    assert capsys.readouterr().out.splitlines()[-1] == results_io.one_line(BARE)

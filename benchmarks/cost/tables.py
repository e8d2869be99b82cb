"""A run as tables: what is printed to a terminal and what the page holds are the same rows.

`tables(run)` gives them as text cells, `render(run)` the whole report as lines. Every table says what in it was
replayed, computed or simulated rather than driven afresh. Knows neither how a run is made nor HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.cost.results import BreakEven, Figures, Interval, LoadPoint, Run
from router.tables import text_table

NONE: Final = "–"
MET, MISSED = "met", "NOT MET"
ALL_FRONTIER: Final = "all-frontier"
AGAINST: Final = {"cheapest": "cheapest hosted", "frontier": "frontier"}
WORDS: Final = ("against", "note", "source", "provider")  # columns to be read, not compared: to the left
TIERS: Final = ("cache", "small", "cheap", "frontier")  # the order of columns; other routes follow by name


@dataclass(frozen=True, slots=True)
class Table:
    """`notes` say what the rows rest on; without rows there is nothing to show."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        return "\n".join([self.title, "", text_table(self._padded()), *self.notes])

    def _padded(self) -> list[list[str]]:
        """Columns of words made equally wide, so that to the right is to the left too."""
        columns = list(zip(self.head, *self.rows, strict=True))
        widths = [max(map(len, column)) if column[0] in WORDS else 0 for column in columns]
        return [[cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in (self.head, *self.rows)]


def render(run: Run) -> str:
    """The whole report for a terminal."""
    parts = ["\n".join(f"{name.replace('_', ' '):<10} {value}" for name, value in header(run))]
    parts += [table.text() for table in tables(run)]
    parts.append("\n".join(["assumptions", "", *(f"- {text}" for text in run.assumptions or ["none stated"])]))
    return "\n\n".join(parts)


def header(run: Run) -> list[tuple[str, str]]:
    """What was run, when, on what."""
    plain = {name: fact for name, fact in run.workload_facts.items() if not isinstance(fact, Mapping)}
    facts = [("workload", ", ".join([run.workload, *_pairs(plain)]))]
    facts += [("run", f"{run.at}, commit {run.commit}, seed {run.seed}, {run.duration_s:,.0f} s")]
    facts += [("command", run.command), ("hardware", ", ".join(_pairs(run.hardware)))]
    facts += [("versions", ", ".join(_pairs(run.versions)))]
    facts += [(name, _text(fact)) for name, fact in run.workload_facts.items() if name not in plain]
    return [(name, value or NONE) for name, value in facts]


def tables(run: Run) -> list[Table]:
    """All of a run's tables that have rows, in the order of reading."""
    found = [cost(run), answers(run), speed(run), account(run), loads(run), break_even(run), checks(run), prices(run)]
    return [table for table in found if table.rows]


def cost(run: Run) -> Table:
    """The headline: $/1k requests and what it is made of."""
    base = next((f.total.value for f in run.figures if f.name == ALL_FRONTIER), 0.0)
    rows = []
    for one in run.figures:
        parts = one.parts
        each = (parts.frontier_usd, parts.cheap_usd, parts.gpu_busy_usd, parts.gpu_idle_usd, parts.wasted_usd)
        share = f"{one.total.value / base:.1%}" if base else NONE
        cells = [_named(one), usd(one.total.value), bounds(one.total, usd), share, percent(one.quality_kept)]
        rows.append([*cells, *map(usd, each)])
    head = ["$/1k requests", "total", "95 %", "of frontier", "quality kept", "frontier", "cheap", "GPU busy"]
    return Table("Cost", [*head, "GPU idle", "wasted"], rows, _replayed(run.figures))


def answers(run: Run) -> Table:
    """Who answered, and how well."""
    routes = _routes(run.figures)
    rows = []
    for one in run.figures:
        cells = [_named(one), f"{one.requests:,}", f"{one.failed:,}"]
        cells += [f"{one.shares[route]:.1%}" if route in one.shares else NONE for route in routes]
        cells += [f"{one.graded:,}", percent(one.quality), bounds(one.quality, _share)]
        cells += [percent(one.quality_kept), bounds(one.quality_kept, _share)]
        rows.append([*cells, f"{one.cache_hits:,}", f"{one.wrong_cache_hits:,}"])
    head = ["answers", "requests", "failed", *routes, "graded", "right", "95 %", "kept", "95 %", "hits", "wrong hits"]
    return Table("Routes and quality", head, rows, _replayed(run.figures))


def speed(run: Run) -> Table:
    """Driven rows only: a computed one has no time."""
    driven = [one for one in run.figures if not one.computed]
    rows = []
    for one in driven:
        times = (one.latency_p50_ms, one.latency_p99_ms, one.ttft_p50_ms, one.ttft_p99_ms, one.output_tokens_per_s)
        rows.append([_named(one), *map(_whole, times), f"{one.input_tokens:,}", f"{one.output_tokens:,}"])
    head = ["speed", "p50 ms", "p99 ms", "TTFT p50", "TTFT p99", "tokens/s", "tokens in", "tokens out"]
    return Table("Latency and throughput", head, rows, _replayed(driven))


def account(run: Run) -> Table:
    """The service's ledger beside the benchmark's own count, to the nano-dollar."""
    both = [one for one in run.figures if one.ledger_nusd is not None and one.counted_nusd is not None]
    rows = []
    for one in both:
        ledger, counted = one.ledger_nusd or 0, one.counted_nusd or 0
        rows.append([_named(one), f"{ledger / 1e9:.6f}", f"{counted / 1e9:.6f}", f"{(ledger - counted) / 1e9:.6f}"])
    return Table("Accounts", ["USD, idle apart", "ledger", "counted", "difference"], rows, _replayed(both))


def loads(run: Run) -> Table:
    """$/1k at each offered load, an architecture after the other, simulated ones marked."""
    named = labels(run)
    order = list(dict.fromkeys(point.name for point in run.loads))
    points = sorted(run.loads, key=lambda point: (order.index(point.name), point.offered_rps))
    rows = [_load(named.get(point.name, point.name), point) for point in points]
    head = ["at an offered load", "req/s", "how", "GPUs", "$/1k", "frontier", "cheap", "GPU busy", "GPU idle", "wasted"]
    notes = [] if all(not point.simulated for point in run.loads) else ["sim: simulated from measured service times"]
    notes += _replayed(_of(run, [point.name for point in run.loads]))
    return Table("Cost against load", [*head, "overflow", "p99 ms"], rows, notes)


def break_even(run: Run) -> Table:
    """The load above which owning the GPU pays, a column for each price of its hour."""
    named = labels(run)
    hours = sorted({one.gpu_usd_per_hour for one in run.break_even})
    lines: dict[tuple[str, str, float], list[BreakEven]] = {}
    for one in run.break_even:
        lines.setdefault((one.name, one.against, one.tokens_scale), []).append(one)
    rows, notes = [], []
    for (name, against, scale), found in lines.items():
        at = {one.gpu_usd_per_hour: NONE if one.rps is None else f"{one.rps:.3g}" for one in found}
        cells = [named.get(name, name), AGAINST[against], f"{scale:g}x", f"{found[0].capacity_rps:.3g}"]
        rows.append([*cells, *(at.get(hour, "") for hour in hours)])
        why: dict[str, list[str]] = {}
        for one in found:
            if one.rps is None:
                why.setdefault(one.note, []).append(f"${one.gpu_usd_per_hour:.2f}")
        where = f"{named.get(name, name)}, {AGAINST[against]}, {scale:g}x"
        notes += [f"{where} at {', '.join(prices)}/h: {note}" for note, prices in why.items()]
    head = ["pays above, req/s", "against", "tokens", "one GPU holds", *(f"${hour:.2f}/h" for hour in hours)]
    known = list(dict.fromkeys(one.note for one in run.break_even if one.rps is not None and one.note))
    legend = [f"{NONE}: at no load that one GPU holds"] if notes else []
    return Table("Break-even", head, rows, [*known, *legend, *notes, *_replayed(_of(run, [k[0] for k in lines]))])


def checks(run: Run) -> Table:
    rows = []
    for one in run.checks:
        cells = [one.name, _number(one.value), _number(one.wanted), MET if one.met else MISSED]
        rows.append([*cells, one.note])
    return Table("Checks and aims", ["check", "found", "wanted", "verdict", "note"], rows, _replayed(run.figures))


def prices(run: Run) -> Table:
    """Every price as the run states it, whatever its fields are called."""
    names = list(dict.fromkeys(name for price in run.prices for name in price))
    rows = [[_text(price[name]) if name in price else NONE for name in names] for price in run.prices]
    return Table("Prices", names, rows)


def labels(run: Run) -> dict[str, str]:
    return {one.name: one.label for one in run.figures}


def usd(value: float) -> str:
    """Tenths of a cent: what a small model costs for 1,000 requests is a few of them."""
    return f"{value:,.3f}"


def percent(found: Interval | None) -> str:
    return NONE if found is None else _share(found.value)


def bounds(found: Interval | None, write: Any) -> str:
    return NONE if found is None else f"[{write(found.low)}, {write(found.high)}]"


def _load(label: str, point: LoadPoint) -> list[str]:
    parts = point.parts
    each = (parts.frontier_usd, parts.cheap_usd, parts.gpu_busy_usd, parts.gpu_idle_usd, parts.wasted_usd)
    cells = [label, f"{point.offered_rps:g}", "sim" if point.simulated else "driven", str(point.gpus)]
    return [*cells, usd(parts.total_usd), *map(usd, each), _share(point.overflow_share), _whole(point.latency_p99_ms)]


def _named(one: Figures) -> str:
    return f"{one.label} (computed)" if one.computed else one.label


def _replayed(figures: Sequence[Figures]) -> list[str]:
    """One line for each kind of row: which of its parts were not done afresh."""
    lines = []
    for what in dict.fromkeys(tuple(one.replayed) for one in figures):
        of = [one.label for one in figures if tuple(one.replayed) == what]
        who = "all rows" if len(of) == len(figures) else ", ".join(of)
        lines.append(f"replayed, not done afresh: {', '.join(what) or 'nothing'} ({who})")
    if computed := [one.label for one in figures if one.computed]:
        lines.append(f"computed from outcomes, not driven over HTTP: {', '.join(computed)}")
    return lines


def _of(run: Run, names: Iterable[str]) -> list[Figures]:
    wanted = set(names)
    return [one for one in run.figures if one.name in wanted]


def _routes(figures: Sequence[Figures]) -> list[str]:
    present = {route for one in figures for route in one.shares}
    return [*(route for route in TIERS if route in present), *sorted(present - set(TIERS))]


def _pairs(facts: Mapping[str, Any]) -> list[str]:
    return [f"{name} {_text(value)}" for name, value in facts.items()]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(_pairs(value)) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{value:.1%}"


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"

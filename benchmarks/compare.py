"""What changed between two results, beyond noise.

    python -m benchmarks.compare A.json B.json [--anyway]

Both are runs of the cost benchmark, or both results of `benchmarks.overhead`, `.engine`, `.instrument`, `.routing`,
`.index` or `.embedding`. A figure has changed when the two intervals have no point in common: 95 % of a bootstrap over
questions in a cost or routing run, lowest to highest round in the others. That misses small changes rather than
inventing any. A figure without an interval is shown and not judged.

Other workloads, seeds, models or lengths are refused, unless --anyway. Other hardware, versions and prices are warned
of, and a machine that was busy; with other prices no sum of money is judged. In overhead and engine only the ratios
between contenders decide: rates are those of one machine on one day. The last line is one JSON object. Exit code: 0
nothing that decides is worse beyond noise, 1 something is, 2 not comparable or not readable.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.child import BenchmarkError
from benchmarks.contest import Case, tell
from benchmarks.cost import results_io
from benchmarks.cost.results import Figures, Interval, Run
from router.tables import text_table

LOWER, HIGHER, NEITHER = "lower", "higher", ""  # which is better
BETTER, WORSE, CHANGED, SAME = "better", "worse", "changed", "within noise"
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
NO_INTERVAL, OTHER_PRICES = "no interval", "other prices"
PARTS: Final = {"index": "sizes", "embedding": "runtimes"}
RATES: Final = {"overhead": "rps", "engine": "output_tokens_per_s"}  # answers are of one length: one says the other
TIMES: Final = {
    "p50_ms": LOWER,
    "p99_ms": LOWER,
    "ttft_p50_ms": LOWER,
    "ttft_p99_ms": LOWER,
}
PASSING: Final = ("load_average_before", "commit")  # of a machine's description: not what it is
HARDWARE: Final = ("cpu", "cores", "memory_gib", "gpus", "python")
ENGINE_MUST: Final = ("model", "weights", "dummy", "arg", "tokens", "prompt_words", "ttft_ms", "itl_ms")


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure; without `low` and `high` it was not repeated. `money`: prices change it. `decides`: the exit code."""

    value: float
    low: float | None = None
    high: float | None = None
    better: str = NEITHER
    money: bool = False
    decides: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What is compared: `must` be equal for a comparison to mean anything, `should` for it to mean much."""

    path: str
    kind: str
    measures: Mapping[str, Measure]
    must: Mapping[str, Any] = field(default_factory=dict)
    should: Mapping[str, Any] = field(default_factory=dict)
    prices: Any = None
    busy: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    name: str
    a: Measure
    b: Measure
    verdict: str

    @property
    def ratio(self) -> float | None:
        return self.b.value / self.a.value if self.a.value else None

    def record(self) -> dict[str, Any]:
        ends = {"a": [self.a.value, self.a.low, self.a.high], "b": [self.b.value, self.b.low, self.b.high]}
        return {"figure": self.name, **ends, "ratio": self.ratio, "verdict": self.verdict}


def read(path: Path) -> Result:
    """Raises BenchmarkError when it is none of the results that can be compared."""
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"cannot read {path}: {error}") from error
    kind = raw.get("benchmark") if isinstance(raw, dict) else None
    if kind in RATES:
        return _contest(str(path), raw)
    if kind == "instrument":
        return _instrument(str(path), raw)
    if kind == "routing":
        return _routing(str(path), raw)
    if kind in PARTS:
        measures = dict(_numbers(kind, raw.get(PARTS[kind])))
        return Result(str(path), kind, measures, {"device": raw["device"]}, _hardware(raw["machine"]))
    return _cost(str(path), results_io.load(path))


def compare(a: Result, b: Result) -> list[Change]:
    """Figures that both have, in A's order."""
    same_prices = a.prices == b.prices
    found = []
    for name, first in a.measures.items():
        if (second := b.measures.get(name)) is not None:
            judged = same_prices or not first.money
            found.append(Change(name, first, second, verdict(first, second) if judged else OTHER_PRICES))
    return found


def verdict(a: Measure, b: Measure) -> str:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return SAME if a.value == b.value else NO_INTERVAL
    if a.low <= b.high and b.low <= a.high:
        return SAME
    if a.better == NEITHER:
        return CHANGED
    return BETTER if (b.value < a.value) == (a.better == LOWER) else WORSE


def refusals(a: Result, b: Result) -> list[str]:
    """Why the two cannot be compared."""
    if a.kind != b.kind:
        return [f"a result of {a.kind} and one of {b.kind}"]
    return list(_differences(a.must, b.must))


def warnings(a: Result, b: Result) -> list[str]:
    found = list(_differences(a.should, b.should))
    if a.prices != b.prices:
        found.append("prices differ: no sum of money is judged")
    found += [one.busy for one in (a, b) if one.busy]
    for one, other, path in ((a, b, a.path), (b, a, b.path)):
        if missing := [name for name in one.measures if name not in other.measures]:
            found.append(f"only in {path}: {len(missing)} figures, such as {missing[0]}")
    return found


def render(changes: Sequence[Change]) -> str:
    rows = [["figure", "A", "", "B", "", "B / A", "verdict"]]
    for one in changes:
        ratio = "–" if one.ratio is None else f"{one.ratio:.3f}"
        rows.append([one.name, *_cells(one.a), *_cells(one.b), ratio, one.verdict])
    return text_table(rows)


def _cells(one: Measure) -> tuple[str, str]:
    return f"{one.value:.4g}", "" if one.low is None or one.high is None else f"[{one.low:.4g}, {one.high:.4g}]"


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name) != b.get(name):
            yield f"{name}: {a.get(name)} and {b.get(name)}"


def _cost(path: str, run: Run) -> Result:
    measures: dict[str, Measure] = {}
    for one in run.figures:
        measures |= {f"{one.name}: {name}": measure for name, measure in _figures(one)}
    plain = {f"workload's {k}": v for k, v in run.workload_facts.items() if not isinstance(v, Mapping)}
    must = {"workload": run.workload, "seed": run.seed, **plain}
    should = {**{k: v for k, v in run.hardware.items() if k not in PASSING}, **run.versions}
    prices = [_undated(price) for price in run.prices]
    return Result(path, "cost", measures, must, should, prices, _busy(path, run.hardware))


def _undated(price: Mapping[str, Any]) -> dict[str, Any]:
    """What is paid, whenever it was looked up: the same list on the next day is the same price."""
    return {name: _DATE.sub("", str(value)) for name, value in price.items() if name != "on"}


def _figures(one: Figures) -> Iterator[tuple[str, Measure]]:
    yield "$/1k requests", _interval(one.total, LOWER, money=True)
    if one.quality is not None:
        yield "quality", _interval(one.quality, HIGHER)
    if one.quality_kept is not None:
        yield "quality kept", _interval(one.quality_kept, HIGHER)
    yield "failed", Measure(one.failed, better=LOWER)
    yield "wrong cache hits", Measure(one.wrong_cache_hits, better=LOWER)
    for route, share in one.shares.items():
        yield f"share of {route}", Measure(share)
    for name, better in (("latency_p50_ms", LOWER), ("latency_p99_ms", LOWER), ("ttft_p50_ms", LOWER)):
        if (value := getattr(one, name)) is not None:
            yield name.replace("_", " "), Measure(value, better=better)


def _interval(found: Interval, better: str, money: bool = False) -> Measure:
    return Measure(found.value, found.low, found.high, better, money)


def _contest(path: str, raw: Mapping[str, Any]) -> Result:
    kind, machine = raw["benchmark"], raw["machine"]
    parts = {"": raw.get("results", ())}
    parts |= {f"{part} ": raw[part]["results"] for part in ("vllm", "scripted") if part in raw}
    measures: dict[str, Measure] = {}
    for part, rows in parts.items():
        for row in rows:
            case = Case(row["kind"], row["clients"], row.get("prompt_words")).name
            who = f"{part}{case} {row['contender']}"
            shown = {RATES[kind]: HIGHER, **TIMES}
            measures |= {f"{who}: {n}": _spread(row[n], b, False) for n, b in shown.items() if row.get(n)}
    for ratio in raw.get("ratios", ()):
        if ratio["found"] is not None:
            measures[ratio["what"]] = _spread(ratio["found"], LOWER if ratio["at_least"] is None else HIGHER)
    config = raw.get("config", {})
    must = {name: config[name] for name in ENGINE_MUST if name in config} if kind == "engine" else {}
    should = _hardware(machine) | raw.get("peer", {})
    should |= {name: raw[name] for name in ("rounds", "seconds") if name in raw}
    return Result(path, kind, measures, must, should, busy=_busy(path, machine))


def _instrument(path: str, raw: Mapping[str, Any]) -> Result:
    """Neither way is better: right is what was stated."""
    measures = {f"{one['case']}: {one['figure']}": _spread(one["found"], NEITHER) for one in raw["figures"]}
    return Result(
        path, "instrument", measures, raw["config"], _hardware(raw["machine"]), busy=_busy(path, raw["machine"])
    )


def _routing(path: str, raw: Mapping[str, Any]) -> Result:
    """Every ranking's APGR, with 95 % of its bootstrap; without a gap between the models there is none."""
    measures = {
        f"{one['set']} {one['split']} {ranking}: APGR": Measure(found["apgr"], low, high, HIGHER)
        for one in raw["results"]
        for ranking, found in one["rankings"].items()
        for low, high in (found["ci95"],)
        if found["apgr"] is not None
    }
    must = {"data": raw["data_sha256"], "pairs": [one["pair"] for one in raw["results"]]}
    return Result(path, "routing", measures, must, {"encoder": raw["encoder_sha256"]})


def _numbers(name: str, found: Any) -> Iterator[tuple[str, Measure]]:
    """Every number in it by its path; measured once each, so shown and not judged."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from _numbers(f"{name} {key}", value)
    elif isinstance(found, Sequence) and not isinstance(found, str):
        for value in found:
            yield from _numbers(f"{name} {value['entries']}", value)
    elif isinstance(found, int | float):
        yield name, Measure(float(found))


def _hardware(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: machine.get(name) for name in HARDWARE}, **machine["versions"]}


def _busy(path: str, machine: Mapping[str, Any]) -> str:
    load, cores = machine.get("load_average_before", 0.0), machine.get("cores", 1)
    return f"the machine was busy before {path}: load {load:g} on {cores} cores" if load > cores else ""


def _spread(found: Mapping[str, float], better: str, decides: bool = True) -> Measure:
    return Measure(found["median"], found["low"], found["high"], better, decides=decides)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--anyway", action="store_true", help="compare what should not be compared")
    options = parser.parse_args(argv)
    try:
        a, b = read(options.a), read(options.b)
    except BenchmarkError as error:
        print(f"benchmarks.compare: {error}", file=sys.stderr)
        return 2
    refused, warned = refusals(a, b), warnings(a, b)
    if a.kind != b.kind or (refused and not options.anyway):
        print(f"benchmarks.compare: not comparable: {'; '.join(refused)}", file=sys.stderr)
        return 2
    changes = compare(a, b)
    for text in (*refused, *warned):
        tell(f"beware: {text}")
    tell(render(changes))
    counts = Counter(one.verdict for one in changes)
    tell(", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no figure in common")
    tell(
        json.dumps(
            {
                "a": a.path,
                "b": b.path,
                "kind": a.kind,
                "warnings": [*refused, *warned],
                "figures": [one.record() for one in changes],
                "verdicts": dict(counts),
            }
        )
    )
    return 1 if any(one.verdict == WORSE and one.a.decides for one in changes) else 0


if __name__ == "__main__":
    sys.exit(main())

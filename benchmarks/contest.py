"""Contenders under the same load, round by round: A B C, A B C. Ratios are taken inside a round, then their median.

So a machine that is slower for a minute slows all of them, and one bad measurement decides nothing. Knows no gateway.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.child import ROOT, BenchmarkError, python
from benchmarks.load import KEY_ENV, Plan, arguments_of
from benchmarks.measure import Spread

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load. `prompt_words` and `tokens` stand in for the plan's own where a case is about lengths."""

    kind: str  # unary or stream
    clients: int
    prompt_words: int | None = None
    tokens: int | None = None

    @property
    def name(self) -> str:
        lengths = "" if self.prompt_words is None else f" {self.prompt_words}w"
        return f"{self.kind} x{self.clients}{lengths}"

    def of(self, plan: Plan) -> Plan:
        """The plan under this load."""
        expected = replace(plan.expected, tokens=self.tokens) if self.tokens else plan.expected
        return replace(
            plan,
            stream=self.kind == "stream",
            clients=self.clients,
            prompt_words=self.prompt_words or plan.prompt_words,
            tokens=self.tokens or plan.tokens,
            expected=expected,
        )


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is asked: a plan without its case."""

    name: str
    plan: Plan


@dataclass(frozen=True, slots=True)
class Figure:
    """Where a figure lies in a report."""

    path: tuple[str, ...]

    def of(self, report: Report) -> float:
        value: Any = report
        for step in self.path:
            value = value[step]
        return float(value)


RPS = Figure(("rps",))
TOKENS_PER_S = Figure(("output_tokens_per_s",))
LATENCY_P50_MS = Figure(("latency_ms", "p50"))
LATENCY_P99_MS = Figure(("latency_ms", "p99"))
TTFT_P50_MS = Figure(("ttft_ms", "p50"))
TTFT_P99_MS = Figure(("ttft_ms", "p99"))
TPOT_P50_MS = Figure(("tpot_ms", "p50"))
TPOT_P99_MS = Figure(("tpot_ms", "p99"))
PROMPT_TOKENS_PER_S = Figure(("prompt_tokens_per_s",))
GOODPUT_RPS = Figure(("goodput_rps",))


@dataclass(slots=True)
class Results:
    """The reports of every contender in every case, by round."""

    reports: dict[tuple[str, Case], list[Report]] = field(default_factory=dict)
    warm: dict[str, int] = field(default_factory=dict)  # requests of rounds that do not count, by contender

    def add(self, contender: str, case: Case, report: Report) -> None:
        self.reports.setdefault((contender, case), []).append(report)

    def rounds(self, contender: str, case: Case) -> int:
        return len(self.reports.get((contender, case), ()))

    def sent(self, *contenders: str) -> int:
        """Requests of these contenders, the warm-ups too."""
        of_them = [r for (name, _), reports in self.reports.items() if name in contenders for r in reports]
        warm = sum(count for name, count in self.warm.items() if name in contenders)
        counted: int = sum(r["requests"] + r["warmup"] for r in of_them)
        return warm + counted

    def spread(self, contender: str, case: Case, figure: Figure) -> Spread:
        return Spread.of([figure.of(r) for r in self.reports[contender, case]])

    def ratio(self, case: Case, figure: Figure, over: str, under: str) -> Spread | None:
        """None when one of the two was not measured in this case."""
        return self._paired(case, figure, over, under, lambda a, b: a / b)

    def difference(self, case: Case, figure: Figure, over: str, under: str) -> Spread | None:
        return self._paired(case, figure, over, under, lambda a, b: a - b)

    def _paired(
        self, case: Case, figure: Figure, over: str, under: str, combine: Callable[[float, float], float]
    ) -> Spread | None:
        if (over, case) not in self.reports or (under, case) not in self.reports:
            return None
        pairs = zip(self.reports[over, case], self.reports[under, case], strict=True)
        return Spread.of([combine(figure.of(a), figure.of(b)) for a, b in pairs])


@dataclass(frozen=True, slots=True)
class Aim:
    """What a ratio or difference was expected to be, and what it is."""

    what: str
    found: Spread | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """None: not measured in this run."""
        if self.found is None:
            return None
        low = self.at_least is None or self.found.median >= self.at_least
        return low and (self.at_most is None or self.found.median <= self.at_most)

    def line(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        if self.found is None:
            return f"{self.what:<58} {'-':>9}            ({bound}): not measured"
        spread = f"[{self.found.low:g} .. {self.found.high:g}]"
        return f"{self.what:<58} {self.found.median:>9g} {spread:<20} ({bound}): {'yes' if self.met else 'NO'}"

    def record(self) -> dict[str, Any]:
        found = self.found
        spread = None if found is None else {"median": found.median, "low": found.low, "high": found.high}
        return {
            "what": self.what,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "found": spread,
            "met": self.met,
        }


def measure(plan: Plan) -> Report:
    """One measurement in a process of its own. Raises BenchmarkError when an answer was wrong: no figure then."""
    done = subprocess.run(
        python("benchmarks.load", *arguments_of(plan)),
        cwd=ROOT,
        env={**os.environ, KEY_ENV: plan.key},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # Ctrl-C is ours; leaving this call ends it
        check=False,
    )
    if done.returncode == 0:
        report: Report = json.loads(done.stdout.splitlines()[-1])
        return report
    raise BenchmarkError(f"{plan.url} gave wrong answers: {(done.stdout or done.stderr).strip()[-1500:]}")


def contest(
    contenders: Sequence[Contender],
    cases: Sequence[Case],
    rounds: int,
    results: Results,
    count: Callable[[Case], int] | None = None,
) -> None:
    """All rounds of all cases into `results`, a line for each. `count` requests, or the plan's seconds without it.

    Rounds by time begin with one that does not count: connections, pages and files are then as they will be.
    """
    warm = 0 if count else 1
    for case in cases:
        for lap in range(rounds + warm):
            for index, contender in enumerate(contenders):
                number = results.rounds(contender.name, case) if lap >= warm else -1
                plan = replace(
                    case.of(contender.plan),
                    count=count(case) if count else None,
                    warmup=max(contender.plan.warmup, case.clients),
                    nonce=contender.plan.nonce if contender.plan.repeat else f"{case.name} {index} {number}",
                )
                report = {**measure(plan), "warmup": plan.warmup}
                if number < 0:
                    before = results.warm.get(contender.name, 0)
                    results.warm[contender.name] = before + report["requests"] + plan.warmup
                    continue
                results.add(contender.name, case, report)
                tell(row(f"{case.name} round {number + 1}", contender.name, report))


HEADER = f"{'case':<22} {'contender':<12} {'req/s':>9} {'tokens/s':>9} {'p50 ms':>9} {'p99 ms':>9} {'ttft p50':>9}"


def row(case: str, contender: str, report: Mapping[str, Any]) -> str:
    """One line of the table for people."""
    ttft = report.get("ttft_ms")
    first = f"{ttft['p50']:>9.2f}" if ttft else f"{'-':>9}"
    latency = report["latency_ms"]
    rates = f"{report['rps']:>9.1f} {report['output_tokens_per_s']:>9.0f}"
    return f"{case:<22} {contender:<12} {rates} {latency['p50']:>9.2f} {latency['p99']:>9.2f} {first}"


def records(results: Results) -> list[dict[str, Any]]:
    """For the JSON: medians with their spread over the rounds."""
    found = []
    for (contender, case), reports in results.reports.items():
        figures = {"rps": RPS, "output_tokens_per_s": TOKENS_PER_S, "p50_ms": LATENCY_P50_MS, "p99_ms": LATENCY_P99_MS}
        if reports[0].get("ttft_ms"):
            figures |= {"ttft_p50_ms": TTFT_P50_MS, "ttft_p99_ms": TTFT_P99_MS, "goodput_rps": GOODPUT_RPS}
        if reports[0].get("tpot_ms"):
            figures |= {"tpot_p50_ms": TPOT_P50_MS, "tpot_p99_ms": TPOT_P99_MS}
        if reports[0].get("prompt_tokens"):
            figures["prompt_tokens_per_s"] = PROMPT_TOKENS_PER_S
        spreads = {name: results.spread(contender, case, figure) for name, figure in figures.items()}
        found.append(
            {
                "contender": contender,
                "kind": case.kind,
                "clients": case.clients,
                "prompt_words": case.prompt_words,
                "tokens": case.tokens,
                "requests": sum(r["requests"] for r in reports),
                "client_cpu_share": max(r["client_cpu_share"] for r in reports),
                **{name: {"median": s.median, "low": s.low, "high": s.high} for name, s in spreads.items()},
            }
        )
    return found


def tell(text: str) -> None:
    """A line for people, on stdout like the JSON that comes last."""
    print(text, flush=True)


def finish(record: Mapping[str, Any], aims: Sequence[Aim], out: str | None) -> None:
    """Print the aims and the record as the last line, then keep it: what cannot be kept has been seen at least."""
    tell("")
    for aim in aims:
        tell(aim.line())
    text = json.dumps({**record, "ratios": [aim.record() for aim in aims]})
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if out:
        with open(out, "w", encoding="utf-8") as file:  # noqa: PTH123 - a path from the command line
            file.write(text + "\n")

"""Is the instrument right? A server of known latency and rate, measured with the client all benchmarks measure with.

    python -m benchmarks.instrument [--ttft-ms 100 --itl-ms 20 --tokens 48] [--clients 1,16] [--out FILE]

`benchmarks.scripted` sends token i of an answer ttft + i·itl after its request, whoever else asks. So the time to the
first token, the time per token, the latency and, with N callers who ask again at once, the rate are known beforehand;
`benchmarks.load`, in a process of its own as always, must find them within --within percent. What it finds too much is
its own cost and the server's timer (uvloop's ticks once a millisecond). The last line is one JSON object; exit code 1
when a figure is further off, or an answer was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import contest, machine, scripted
from benchmarks.child import Nursery, guarded, python, say
from benchmarks.client import Expected
from benchmarks.contest import LATENCY_P50_MS, RPS, TOKENS_PER_S, TTFT_P50_MS, Case, Contender, Figure, Results
from benchmarks.load import Plan, counts, positive
from benchmarks.measure import Spread
from router.tables import text_table

TPOT_P50_MS = Figure(("tpot_ms", "p50"))
WITHIN_PERCENT = 2.0
SERVER = "scripted"


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure: what it must be, and what the rounds found."""

    case: str
    figure: str
    stated: float
    found: Spread

    @property
    def off_percent(self) -> float:
        return 100.0 * (self.found.median / self.stated - 1.0)

    def within(self, percent: float) -> bool:
        return abs(self.off_percent) <= percent

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "off_percent": round(self.off_percent, 3)}


def stated(timing: scripted.Timing, tokens: int, case: Case) -> dict[str, tuple[Figure, float]]:
    """What a perfect instrument reads, by name: where it lies in a report, and its value."""
    latency_s = timing.ttft_s + (tokens - 1) * timing.itl_s
    found = {
        "latency p50, ms": (LATENCY_P50_MS, 1000 * latency_s),
        "requests/s": (RPS, case.clients / latency_s),
        "tokens/s": (TOKENS_PER_S, case.clients * tokens / latency_s),
    }
    if case.kind == "stream":
        found["time to first token p50, ms"] = (TTFT_P50_MS, 1000 * timing.ttft_s)
        found["time per token p50, ms"] = (TPOT_P50_MS, 1000 * timing.itl_s)
    return found


def readings(results: Results, timing: scripted.Timing, tokens: int, cases: Sequence[Case]) -> Iterator[Reading]:
    for case in cases:
        for name, (figure, value) in stated(timing, tokens, case).items():
            yield Reading(case.name, name, value, results.spread(SERVER, case, figure))


def render(found: Sequence[Reading], percent: float) -> str:
    rows = [["case", "figure", "stated", "measured", "off", f"within {percent:g} %"]]
    for one in found:
        cells = [one.case, one.figure, f"{one.stated:,.2f}", f"{one.found.median:,.2f}", f"{one.off_percent:+.2f} %"]
        rows.append([*cells, "yes" if one.within(percent) else "NO"])
    return text_table(rows)


def record_of(found: Sequence[Reading], percent: float, options: Mapping[str, Any]) -> dict[str, Any]:
    worst = max(found, key=lambda one: abs(one.off_percent))
    return {
        "benchmark": "instrument",
        "date": machine.now(),
        "machine": machine.describe(),
        "config": {name: value for name, value in options.items() if name != "out"},
        "figures": [one.record() for one in found],
        "worst": worst.record(),
        "met": worst.within(percent),
    }


def run(options: argparse.Namespace, folder: Path) -> int:
    timing = scripted.Timing(options.ttft_ms / 1000, options.itl_ms / 1000)
    cases = [Case(kind, clients) for kind in ("stream", "unary") for clients in options.clients]
    expected = Expected(text=scripted.text(options.tokens), tokens=options.tokens)
    flags = [f"--ttft-ms={options.ttft_ms}", f"--itl-ms={options.itl_ms}"]
    nursery, results = Nursery(folder), Results()
    with nursery.child("server", python("benchmarks.scripted", *flags)) as server:
        url = server.wait_for_line("ready ", 30.0) + "/v1"
        plan = Plan(url, SERVER, tokens=options.tokens, expected=expected)
        contest.tell(contest.HEADER)
        waves = lambda case: options.waves * case.clients  # noqa: E731
        contest.contest([Contender(SERVER, plan)], cases, options.rounds, results, waves)
    found = list(readings(results, timing, options.tokens, cases))
    record = record_of(found, options.within, vars(options))
    contest.tell("\n" + render(found, options.within))
    text = json.dumps({**record, "left_behind": nursery.left_behind})
    contest.tell(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    for process in nursery.left_behind:
        say(f"had to be killed: {process}")
    return 0 if record["met"] and not nursery.left_behind else 1


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.instrument",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--ttft-ms", type=_time, default=100.0, help="of the server (default: 100)")
    found.add_argument("--itl-ms", type=_time, default=20.0, help="between its tokens (default: 20)")
    found.add_argument("--tokens", type=positive, default=48, help="of every answer (default: 48)")
    found.add_argument("--clients", type=counts, default=(1, 16), metavar="N,N", help="default: 1,16")
    found.add_argument("--waves", type=positive, default=4, help="requests of each caller in a round (default: 4)")
    found.add_argument("--rounds", type=positive, default=3, help="default: 3")
    found.add_argument("--within", type=float, default=WITHIN_PERCENT, metavar="PERCENT", help="default: 2")
    found.add_argument("--out", type=Path, metavar="FILE", help="keep the JSON here too")
    return found


def _time(text: str) -> float:
    """For argparse: a deviation from zero has no percentage."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not above 0")
    return value


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return guarded("benchmarks.instrument", lambda folder: run(options, folder))


if __name__ == "__main__":
    sys.exit(main())

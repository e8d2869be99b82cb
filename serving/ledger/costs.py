"""What requests cost: the report of `python -m serving costs`. Integers all the way: its sums are the rows' sums.

Three prices stand side by side: what was paid here, idle GPU included; what the same tokens would have cost at the
frontier; and at the cheapest hosted tier. Knows the tables and nothing of the service.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, case, func, literal_column, select

from models.errors import BadRequest
from serving.ledger.schema import engine_uptime, requests
from serving.ledger.store import Store, epoch_ms, utc

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_HOUR_MS = 3_600_000
_DAY_MS = 86_400_000
_ANSWERED = ("answered", "cached", "coalesced")
_SUMMED = ("input_tokens", "cached_input_tokens", "output_tokens", "cost_nusd", "billed_nusd")  # as in Line


@dataclass(frozen=True, slots=True)
class Line:
    """Requests of one route, or of all. `billed_nusd` is the part of `cost_nusd` that hosted providers bill."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_nusd: int = 0
    billed_nusd: int = 0


@dataclass(frozen=True, slots=True)
class Alternative:
    """What the same tokens would have cost elsewhere, over those requests for which it is known: what they cost here
    (idle GPU not included) and there."""

    requests: int
    cost_nusd: int
    alternative_nusd: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """`used_nusd` is the rate card's sum over rows; `idle_nusd` is paid less used, negative if the card is too high."""

    paid_nusd: int
    used_nusd: int
    idle_nusd: int


@dataclass(frozen=True, slots=True)
class CostReport:
    """`routes` is by tier, with `cache`, and `none` for what no tier answered. `answered_by_day`: UTC day → route → how
    many requests it answered."""

    since_ms: int
    until_ms: int
    tenant: str | None
    total: Line
    routes: dict[str, Line] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    gpu: Gpu | None = None  # None: no engine was running, or the report is of one tenant
    all_frontier: Alternative | None = None
    all_cheapest: Alternative | None = None
    answered_by_day: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def spent_nusd(self) -> int:
        """Everything: rows, and the time the GPU was paid and not used."""
        return self.total.cost_nusd + (self.gpu.idle_nusd if self.gpu else 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"spent_nusd": self.spent_nusd}


def report(store: Store, since_ms: int, now_ms: int, tenant: str | None = None) -> CostReport:
    """Sum the rows of requests admitted in [since, now). One statement, so that all sums are of the same rows."""
    with store.read() as connection:
        groups = connection.execute(_groups(since_ms, now_ms, tenant)).all()
        paid_nusd = _paid_nusd(connection, since_ms, now_ms) if tenant is None else None
    routes: dict[str, list[Line]] = {}
    statuses: Counter[str] = Counter()
    answered: dict[str, Counter[str]] = {}
    for route, status, day, count, *sums in groups:
        line = Line(count, *map(int, sums[: len(_SUMMED)]))
        routes.setdefault(route or "none", []).append(line)
        statuses[status] += count
        if status in _ANSWERED:
            answered.setdefault(utc(int(day) * _DAY_MS)[:10], Counter())[route or "none"] += count
    by_route = {name: _sum(lines) for name, lines in routes.items()}
    total = _sum(by_route.values())
    used_nusd = total.cost_nusd - total.billed_nusd
    return CostReport(
        since_ms,
        now_ms,
        tenant,
        total,
        dict(sorted(by_route.items(), key=lambda item: -item[1].requests)),
        dict(statuses.most_common()),
        None if paid_nusd is None else Gpu(paid_nusd, used_nusd, paid_nusd - used_nusd),
        all_frontier=_alternative([group[-6:-3] for group in groups]),
        all_cheapest=_alternative([group[-3:] for group in groups]),
        answered_by_day={day: dict(routes) for day, routes in sorted(answered.items())},
    )


def _groups(since_ms: int, now_ms: int, tenant: str | None) -> Select[*tuple[Any, ...]]:
    """One row a route, status and UTC day: count, sums of `_SUMMED`, then for each alternative how many requests have
    it, what they cost, and what they would have cost."""
    r = requests.c
    day = r.at_ms.op("/")(literal_column(str(_DAY_MS)))  # of two integers, in SQLite as in PostgreSQL
    columns: list[ColumnElement[Any]] = [r.route, r.status, day, func.count()]
    columns += [func.sum(r[name]) for name in _SUMMED]
    for other in (r.all_frontier_nusd, r.all_cheapest_nusd):
        columns += [func.count(other), func.sum(case((other.is_not(None), r.cost_nusd), else_=0)), func.sum(other)]
    query = select(*columns).where(r.at_ms >= since_ms, r.at_ms < now_ms).group_by(r.route, r.status, day)
    return query if tenant is None else query.where(r.tenant == tenant)


def _sum(lines: Iterable[Line]) -> Line:
    return Line(*map(sum, zip(*map(astuple, lines), strict=True)))


def _alternative(groups: Sequence[Sequence[Any]]) -> Alternative | None:
    count, cost_nusd, other_nusd = (sum(int(group[i] or 0) for group in groups) for i in range(3))
    return Alternative(count, cost_nusd, other_nusd) if count else None


def _paid_nusd(connection: Connection, since_ms: int, now_ms: int) -> int | None:
    """The time of all engines within the window at their hourly price; None when there was none."""
    u = engine_uptime.c
    overlapping = select(u.from_ms, u.to_ms, u.nusd_per_hour).where(u.from_ms < now_ms, u.to_ms > since_ms)
    parts = [
        (min(to_ms, now_ms) - max(from_ms, since_ms)) * price
        for from_ms, to_ms, price in connection.execute(overlapping)
    ]
    return sum(parts) // _HOUR_MS if parts else None


def render(report: CostReport) -> str:
    """The report for people."""
    whose = f", tenant {report.tenant}" if report.tenant is not None else ""
    rows: list[tuple[str, ...]] = [
        ("route", "requests", "share", "$/1k requests", "input tokens", "cached", "output tokens", "cost")
    ]
    rows += [_cells(name, line, report.total.requests) for name, line in report.routes.items()]
    rows.append(_cells("total", report.total, report.total.requests))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    statuses = ", ".join(f"{name} {count:,}" for name, count in report.statuses.items()) or "no requests"
    return "\n".join(
        [
            f"requests admitted {utc(report.since_ms)} to {utc(report.until_ms)}{whose}",
            "",
            *table,
            "",
            f"statuses       {statuses}",
            f"GPU            {_gpu(report)}",
            f"spent          {_spent(report)}",
            f"all-frontier   {_elsewhere(report, report.all_frontier)}",
            f"all-cheapest   {_elsewhere(report, report.all_cheapest)}",
        ]
    )


def _cells(name: str, line: Line, of_requests: int) -> tuple[str, ...]:
    share = f"{line.requests / of_requests:.1%}" if of_requests else "-"
    tokens = (f"{n:,}" for n in (line.input_tokens, line.cached_input_tokens, line.output_tokens))
    return name, f"{line.requests:,}", share, _per_1k(line.cost_nusd, line.requests), *tokens, usd(line.cost_nusd)


def _per_1k(nusd: int, count: int) -> str:
    return usd(nusd * 1_000 // count) if count else "-"


def _gpu(report: CostReport) -> str:
    gpu = report.gpu
    if gpu is None:
        return "not shared out by tenant" if report.tenant is not None else "no engine ran"
    text = f"paid {usd(gpu.paid_nusd)}, used {usd(gpu.used_nusd)}, idle {usd(gpu.idle_nusd)}"
    return text if gpu.idle_nusd >= 0 else f"{text} (negative: the price per token is above what the machine costs)"


def _spent(report: CostReport) -> str:
    parts = f"requests {usd(report.total.cost_nusd)}, of which hosted {usd(report.total.billed_nusd)}"
    idle = f" + idle {usd(report.gpu.idle_nusd)}" if report.gpu else ""
    per_1k = _per_1k(report.spent_nusd, report.total.requests)
    return f"{usd(report.spent_nusd)} = {parts}{idle}; $/1k requests {per_1k}"


def _elsewhere(report: CostReport, other: Alternative | None) -> str:
    if other is None:
        return "no hosted tier configured" if report.total.requests else "-"
    paid_nusd = other.cost_nusd + (report.gpu.idle_nusd if report.gpu else 0)
    saved_nusd = other.alternative_nusd - paid_nusd
    verdict = f"saved {usd(saved_nusd)}" if saved_nusd >= 0 else f"{usd(-saved_nusd)} dearer here"
    if other.alternative_nusd:
        verdict += f" ({abs(saved_nusd) / other.alternative_nusd:.1%})"
    some = "" if other.requests == report.total.requests else f" over {other.requests:,} of the requests"
    return f"{usd(other.alternative_nusd)} for the same tokens{some}: {verdict}"


def usd(nusd: int) -> str:
    """Micro-dollar precision for reading; exact figures are in --json."""
    sign = "-" if nusd < 0 else ""
    return f"{sign}${Decimal(abs(nusd)) / 10**9:,.6f}"


def parse_since(text: str, now_ms: int) -> int:
    """`90s`, `30m`, `1h`, `7d`, `2w` ago, or a date or time (UTC unless it says otherwise), as epoch milliseconds."""
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", text.strip()):
        return max(0, now_ms - int(match[1]) * _UNITS_MS[match[2]])
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadRequest(f"'{text}' is no time: write 1h, 7d or 2026-11-01", param="since") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", default="24h", metavar="WHEN", help="1h, 7d, 2026-11-01 (default: 24h)")
    parser.add_argument("--tenant", help="only this tenant's requests")
    parser.add_argument("--json", action="store_true", help="exact figures, in nano-USD")


def run(args: argparse.Namespace, store: Store) -> int:
    now_ms = epoch_ms()
    costs = report(store, parse_since(args.since, now_ms), now_ms, args.tenant)
    text = orjson.dumps(costs.to_json(), option=orjson.OPT_INDENT_2).decode() if args.json else render(costs)
    sys.stdout.write(text + "\n")
    return 0

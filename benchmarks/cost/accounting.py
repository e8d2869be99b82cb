"""From replies and the ledger's rows to the figures of one architecture.

Two counts of the same money that share no code path but the price list: ours, from the usage each answer stated, and
the ledger's own. Intervals come from a bootstrap over questions: all requests that ask one question are drawn
together, so that a repeat is not a second piece of evidence. Pure: knows no service and no clock but the moment it is
given.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost.architectures import FRONTIER, SMALL, Gpu
from benchmarks.cost.drive import Reply
from benchmarks.cost.results import Bucket, Figures, Interval, Parts
from benchmarks.cost.workload import Request
from benchmarks.measure import percentile
from models.prices import NUSD_PER_USD, Price
from models.types import Usage

Floats = NDArray[np.float64]
RESAMPLES: Final = 2000
BUCKETS: Final = 12
HITS: Final = frozenset({"exact", "semantic", "coalesced"})
CENT_NUSD: Final = NUSD_PER_USD // 100


@dataclass(frozen=True, slots=True)
class Scored:
    """One reply with what it cost by our own count and whether it was right (None: not graded)."""

    request: Request
    reply: Reply
    nusd: int
    right: bool | None
    wrong_hit: bool

    @property
    def hit(self) -> bool:
        return self.reply.cache in HITS

    @property
    def route(self) -> str:
        return "cache" if self.hit else self.reply.route


@dataclass(frozen=True, slots=True)
class Judge:
    """What replies are judged by. `prices` by tier; `belongs`: does this text answer this question at all?

    A wrong cache hit is an answer from the cache that no model gave to the question asked: it was another question's.
    """

    prices: Mapping[str, Price]
    grade: Callable[[str, str, str], bool]
    belongs: Callable[[str, str], bool]
    at: datetime.datetime

    def score(self, request: Request, reply: Reply) -> Scored:
        hit = reply.cache in HITS
        right = None
        if request.reference is not None and request.checker is not None:
            right = not reply.error and self.grade(reply.text, request.reference, request.checker)
        wrong = hit and not reply.error and not self.belongs(request.question, reply.text)
        return Scored(request, reply, 0 if hit or reply.error else self.nusd(reply), right, wrong)

    def nusd(self, reply: Reply) -> int:
        usage = Usage(
            input_tokens=reply.input_tokens,
            cached_input_tokens=reply.cached_tokens,
            output_tokens=reply.output_tokens,
        )
        return self.prices[reply.route].cost(usage, self.at).total_nusd


class Bootstrap:
    """Resamples of questions: the same draws for every row, so that ratios between rows are paired."""

    def __init__(self, requests: Sequence[Request], seed: int, count: int = RESAMPLES) -> None:
        names = {question: i for i, question in enumerate(dict.fromkeys(r.question for r in requests))}
        self._place = np.array([names[r.question] for r in requests], np.int64)
        rng = np.random.default_rng(seed)
        self._draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count).astype(float)

    def sums(self, values: Floats) -> Floats:
        """One sum for each resample; `values` has one figure for each request."""
        by_question = np.bincount(self._place, weights=values, minlength=self._draws.shape[1])
        return np.asarray(self._draws @ by_question)

    def ratio(self, over: Floats, under: Floats) -> Interval:
        """Of two sums, as it is and with 95 % bounds."""
        return interval(float(over.sum() / under.sum()), self.sums(over) / np.maximum(self.sums(under), 1e-12))


def interval(value: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True, slots=True)
class Driven:
    """One architecture after its run: scored replies in the workload's order.

    `gpus`: owned by it, 0 for none. `ledger`: empty where the service's rows are not those of all replies.
    """

    name: str
    label: str
    scored: Sequence[Scored]
    elapsed_s: float
    gpus: int
    ledger: Sequence[Mapping[str, Any]]


def right_of(scored: Sequence[Scored]) -> Floats:
    return np.array([float(bool(s.right)) for s in scored])


def figures(
    run: Driven, gpu: Gpu, frontier: Sequence[Scored] | None, bootstrap: Bootstrap, replayed: Sequence[str]
) -> Figures:
    """Everything a table says about it. frontier: all-frontier's replies to the same requests, for what was kept."""
    scored = run.scored
    count = len(scored)
    good = [s for s in scored if not s.reply.error]
    nusd = np.array([float(s.nusd) for s in scored])
    parts = _parts(run, gpu)
    fixed_usd = parts.gpu_idle_usd + parts.wasted_usd
    per_1k = bootstrap.ratio(nusd / NUSD_PER_USD * 1000, np.ones(count))
    graded = np.array([float(s.right is not None) for s in scored])
    quality = bootstrap.ratio(right_of(scored), graded) if graded.any() else None
    best = right_of(frontier or ())
    kept = bootstrap.ratio(right_of(scored), best) if best.any() else None
    routes = Counter(s.route if not s.reply.error else "failed" for s in scored)
    latencies = sorted(s.reply.latency_s for s in good)
    firsts = sorted(s.reply.ttft_s for s in good if s.reply.ttft_s is not None)
    return Figures(
        name=run.name,
        label=run.label,
        requests=count,
        failed=count - len(good),
        parts=parts,
        total=Interval(per_1k.value + fixed_usd, per_1k.low + fixed_usd, per_1k.high + fixed_usd),
        shares={name: n / count for name, n in routes.most_common()},
        quality=quality,
        graded=int(graded.sum()),
        quality_kept=kept,
        cache_hits=sum(s.hit for s in scored),
        wrong_cache_hits=sum(s.wrong_hit for s in scored),
        latency_p50_ms=_ms(latencies, 0.5),
        latency_p99_ms=_ms(latencies, 0.99),
        ttft_p50_ms=_ms(firsts, 0.5),
        ttft_p99_ms=_ms(firsts, 0.99),
        output_tokens_per_s=round(sum(s.reply.output_tokens for s in good) / run.elapsed_s, 2),
        input_tokens=sum(s.reply.input_tokens for s in good if not s.hit),
        output_tokens=sum(s.reply.output_tokens for s in good if not s.hit),
        ledger_nusd=sum(int(row["cost_nusd"]) for row in run.ledger) if run.ledger else None,
        counted_nusd=sum(s.nusd for s in scored) + _wasted_nusd(run),
        replayed=tuple(replayed),
        timeline=_timeline(scored),
    )


def _parts(run: Driven, gpu: Gpu) -> Parts:
    """USD per 1,000 requests. Idle: the hours the GPUs were there, less what their tokens, wasted ones too, cost: below
    0 where the rate card is dearer than the machine, so that the total is what was paid."""
    per = 1000 / NUSD_PER_USD / max(1, len(run.scored))
    by_route: Counter[str] = Counter()
    for s in run.scored:
        by_route[s.route] += s.nusd
    busy_usd, wasted_usd = by_route[SMALL] * per, _wasted_nusd(run) * per
    hours_usd = run.elapsed_s / 3600 * gpu.usd_per_hour * run.gpus / max(1, len(run.scored)) * 1000
    hosted = sum(n for name, n in by_route.items() if name not in (SMALL, FRONTIER))
    return Parts(
        frontier_usd=by_route[FRONTIER] * per,
        cheap_usd=hosted * per,
        gpu_busy_usd=busy_usd,
        gpu_idle_usd=hours_usd - busy_usd - wasted_usd if run.gpus else 0.0,
        wasted_usd=wasted_usd,
    )


def _wasted_nusd(run: Driven) -> int:
    """What failed and dropped attempts burnt: no answer states it, so the ledger's word is taken."""
    if run.ledger:
        return sum(int(row["cost_wasted_nusd"]) for row in run.ledger)
    return sum(s.reply.wasted_nusd for s in run.scored)


def _ms(ordered_s: Sequence[float], share: float) -> float | None:
    return round(percentile(ordered_s, share) * 1000, 1) if ordered_s else None


def _timeline(scored: Sequence[Scored]) -> tuple[Bucket, ...]:
    if not scored:
        return ()
    first_s, last_s = scored[0].reply.at_s, scored[-1].reply.at_s
    width_s = max(1e-9, last_s - first_s) / BUCKETS
    slices: list[Counter[str]] = [Counter() for _ in range(BUCKETS)]
    for s in scored:
        slices[min(BUCKETS - 1, int((s.reply.at_s - first_s) / width_s))][s.route or "failed"] += 1
    return tuple(Bucket(round(i * width_s, 2), dict(routes)) for i, routes in enumerate(slices))

"""The driven rows at loads they were not driven at, and where owning a GPU begins to pay: what the simulation is given.

Service times of the GPU are its rate card's; hosted latencies and bills are the driven run's own. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.cost import breakeven, simulate
from benchmarks.cost.accounting import Driven, Scored
from benchmarks.cost.architectures import CHEAP, FRONTIER, GPU_TTFT_S, SMALL, Gpu
from benchmarks.cost.breakeven import HourPrice
from benchmarks.cost.prices import Prices, rate_card
from benchmarks.cost.replayed import Speeds
from benchmarks.cost.results import Against, BreakEven, Check, Figures, LoadPoint
from benchmarks.cost.simulate import Asked, Engine, Site
from benchmarks.cost.workload import Answer
from models.prices import NUSD_PER_USD


@dataclass(frozen=True, slots=True)
class Simulated:
    """What turns driven requests into simulated ones."""

    prices: Prices
    recorded: Mapping[str, Mapping[str, Answer]]  # model -> question
    gpu: Gpu
    speeds: Speeds
    next_tier: str = CHEAP

    def engine(self, scored: Sequence[Scored]) -> Engine:
        """One GPU as the replayed one is: at the rate card's speed with many requests, none faster than one alone."""
        small = [s for s in scored if s.route == SMALL]
        count = max(1, len(small))
        tokens = sum(s.reply.input_tokens for s in small) / count, sum(s.reply.output_tokens for s in small) / count
        alone_s = sum(self._alone_s(s) for s in small) / count
        slots = self.speeds.gpu_running
        return Engine.of_card(rate_card(self.gpu), tokens, slots, 2 * slots, alone_s)

    def asked(self, scored: Sequence[Scored]) -> list[Asked]:
        """A request of the GPU carries what the next tier would bill and take, in case the GPU is full."""
        small = [self._busy_s(s) for s in scored if s.route == SMALL]
        mean_s = sum(small) / len(small) if small else 1.0
        found = []
        for s in scored:
            if s.reply.error:
                continue
            if s.route != SMALL:
                tier = s.route if s.route in (CHEAP, FRONTIER) else CHEAP
                found.append(Asked(tier, s.nusd / NUSD_PER_USD, s.reply.latency_s))
                continue
            usd, latency_s = self._elsewhere(s)
            found.append(Asked(SMALL, usd, latency_s, self._busy_s(s) / mean_s))
        return found

    def _busy_s(self, s: Scored) -> float:
        return (
            s.reply.input_tokens / self.gpu.prefill_tokens_per_s + s.reply.output_tokens / self.gpu.decode_tokens_per_s
        )

    def _alone_s(self, s: Scored) -> float:
        reading_s = s.reply.input_tokens / self.gpu.prefill_tokens_per_s
        return GPU_TTFT_S + reading_s + s.reply.output_tokens / self.speeds.gpu_answer_tokens_per_s

    def _elsewhere(self, s: Scored) -> tuple[float, float]:
        said = self.recorded[self.prices.models[self.next_tier]][s.request.question]
        speed = self.speeds.hosted[self.next_tier]
        usd = self.prices.nusd(self.next_tier, said.input_tokens, said.output_tokens) / NUSD_PER_USD
        return usd, speed.ttft_s + said.output_tokens / speed.tokens_per_s


def points(driven: Sequence[Driven], by: Simulated, seed: int) -> list[LoadPoint]:
    """Rows without a GPU cost the same at every load: their ends are enough to draw them. Of a row in which every
    request failed nothing is known."""
    found: list[LoadPoint] = []
    for row in driven:
        if all(s.reply.error for s in row.scored):
            continue
        engine = by.engine(row.scored) if row.gpus else None
        site = Site(engine, 1 if engine else 0, by.gpu.usd_per_hour, by.next_tier)
        loads_rps = simulate.LOADS_RPS if engine else (simulate.LOADS_RPS[0], simulate.LOADS_RPS[-1])
        found += simulate.load_points(row.name, by.asked(row.scored), site, loads_rps, seed)
    return found


def checked(driven: Driven, by: Simulated, found: Figures) -> tuple[LoadPoint, list[Check]]:
    """A row that was driven at a low load in real time, and whether the simulation of its own arrivals told it. No
    verdict where fewer than two were answered, which are no load."""
    rps = len(driven.scored) / driven.elapsed_s
    real = LoadPoint(found.name, round(rps, 3), found.parts, driven.gpus, False, found.latency_p99_ms)
    answered = [s for s in driven.scored if not s.reply.error]
    arrivals_s = [s.reply.at_s - answered[0].reply.at_s for s in answered]
    if len(answered) < 2 or arrivals_s[-1] <= 0:
        return real, []
    engine = by.engine(answered) if driven.gpus else None
    site = Site(engine, driven.gpus, by.gpu.usd_per_hour, by.next_tier)
    told = simulate.point(driven.name, by.asked(answered), arrivals_s, site)
    return real, simulate.compared(told, real)


@dataclass(frozen=True, slots=True)
class Compared:
    """Which rows break-even is about, by name: the one that is all small, and what it is held against."""

    small: str
    against: Mapping[Against, str]


REPLAYED: Final = Compared("all-small", {"cheapest": "all-cheapest", "frontier": "all-frontier"})


def break_even(
    figures: Sequence[Figures], driven: Sequence[Driven], names: Compared, gpu: Gpu, hours: Sequence[HourPrice]
) -> tuple[list[BreakEven], list[str]]:
    """For each row whose GPU answers something, at each price of the hour; with what that rests on."""
    usd = {f.name: f.total.value / 1000 for f in figures}
    alternatives = {against: usd[name] for against, name in names.against.items() if name in usd}
    owners = [breakeven.Owner.of(f, [SMALL]) for f in figures if not f.computed and f.shares.get(SMALL, 0.0) > 0]
    scored = next((row.scored for row in driven if row.name == names.small), ())
    small = [s.reply for s in scored if s.route == SMALL]
    if not owners or not small or not alternatives:
        return [], []
    capacity = breakeven.Capacity.of_card(
        rate_card(gpu),
        sum(r.input_tokens for r in small) / len(small),
        sum(r.output_tokens for r in small) / len(small),
    )
    return breakeven.table(owners, alternatives, hours, capacity), breakeven.assumptions(hours, capacity)

"""What an architecture costs at loads nobody waits for: an event-driven queue, fed with what a driven run measured.

Each GPU runs up to `slots` requests together; with n of them running, a mean request takes `Engine.seconds(n)`, so that
batching speeds the GPU up and each request down. A request goes to the GPU that holds the fewest, as in a tier's pool;
where all run `slots` and hold `queue` more, it does not wait but overflows to the next tier, as when an engine refuses.
Shares by route are those of the driven run: how a cache or a breaker behaves at another load is not simulated.

Pure and seeded. With one slot and equal work it is M/D/1, with `seconds` constant M/G/c, without a queue Erlang's loss
system, and with seconds ∝ n processor sharing: the tests hold it to those closed forms.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost.results import Check, LoadPoint, Parts
from benchmarks.measure import percentile
from models.prices import RateCard

Floats = NDArray[np.float64]

LOADS_RPS: Final = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
REQUESTS: Final = 20_000  # of one simulated point: its p99 then rests on 200 requests
HOUR_S: Final = 3600.0
FRONTIER: Final = "frontier"
CHEAP: Final = "cheap"


@dataclass(frozen=True, slots=True)
class Engine:
    """One GPU with the small model.

    `pace` is (requests running together, seconds of a mean request then), ascending; straight lines between, level
    outside. `source` says what was measured, where, and what is assumed.
    """

    slots: int
    queue: int
    pace: Sequence[tuple[int, float]]
    source: str

    def seconds(self, running: int) -> float:
        counts, seconds = zip(*self.pace, strict=True)
        return float(np.interp(running, counts, seconds))

    @property
    def busy_s(self) -> float:
        """GPU seconds of a mean request at full load: what a rate card bills it; the rest of the time is idle."""
        return self.seconds(self.slots) / self.slots

    @property
    def capacity_rps(self) -> float:
        return 1.0 / self.busy_s

    @classmethod
    def of_card(
        cls, card: RateCard, tokens: tuple[float, float], slots: int, queue: int, alone_s: float = 0.0
    ) -> Engine:
        """From speeds at full load and a mean request's (input, output) tokens.

        A card does not know how long one request takes by itself: `alone_s` does. The GPU's speed is then shared out
        (seconds ∝ n), but no request is faster than alone. Left at 0 the cost is right and latency at low load is not.
        """
        busy_s = float(tokens[0] / float(card.prefill_tokens_per_s) + tokens[1] / float(card.decode_tokens_per_s))
        return cls(slots, queue, [(n, max(alone_s, n * busy_s)) for n in range(1, slots + 1)], card.source)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a driven run, and what it would be elsewhere.

    `tier` answered it. `work` is what it asked of the GPU, in mean requests (0: nothing). `usd` and `latency_s` are
    the hosted part: the bill and time of the tier that answered; for one the small tier answered, those of the next
    tier, in case it overflows; for a cache hit, 0 and the time of a hit.
    """

    tier: str
    usd: float
    latency_s: float
    work: float = 0.0

    @property
    def stays(self) -> bool:
        """The GPU's own answer is the answer; otherwise its work, if any, was thrown away (a cascade's doubt)."""
        return self.tier == "small"


@dataclass(frozen=True, slots=True)
class Site:
    """What is paid by the hour, and where a full small tier's requests go (`cheap` or `frontier`)."""

    engine: Engine | None
    gpus: int = 1
    usd_per_hour: float = 0.0
    next_tier: str = CHEAP


@dataclass(slots=True)
class Outcome:
    """What a simulated run came to. `waits_s` and `latencies_s` are by request, in order of arrival."""

    waits_s: Floats
    latencies_s: Floats
    overflowed: NDArray[np.bool_]
    duration_s: float
    occupied_s: float  # GPU seconds in which at least one request ran


@dataclass(slots=True)
class _Gpu:
    """Requests that run share the GPU evenly, so one number, the work each has been given so far, serves them all."""

    engine: Engine
    pace_s: list[float]
    given: float = 0.0
    at_s: float = 0.0
    occupied_s: float = 0.0
    running: list[tuple[float, int]] = field(default_factory=list)  # (given when done, request)
    waiting: deque[int] = field(default_factory=deque)

    @property
    def held(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def full(self) -> bool:
        return self.held >= self.engine.slots + self.engine.queue

    def next_end_s(self) -> float:
        if not self.running:
            return float("inf")
        return self.at_s + max(0.0, self.running[0][0] - self.given) * self.pace_s[len(self.running)]

    def advance(self, to_s: float) -> None:
        if self.running:
            self.given += (to_s - self.at_s) / self.pace_s[len(self.running)]
            self.occupied_s += to_s - self.at_s
        self.at_s = to_s

    def start(self, request: int, work: float) -> None:
        heapq.heappush(self.running, (self.given + work, request))

    def finish(self) -> int:
        self.given, request = heapq.heappop(self.running)  # exactly, so that no rounding adds up
        return request


def poisson(rps: float, count: int, seed: int) -> Floats:
    """Arrival times in seconds."""
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / rps, count))


def stretched(arrivals_s: Sequence[float], rps: float) -> Floats:
    """The workload's own arrivals, bursts and all, at another mean rate."""
    times = np.asarray(arrivals_s, dtype=np.float64)
    span_s = times[-1] - times[0]
    if not span_s > 0:
        raise ValueError("arrivals that lie at one moment have no rate to stretch")
    found: Floats = (times - times[0]) * ((len(times) - 1) / span_s / rps)
    return found


def simulate(works: Sequence[float], arrivals_s: Sequence[float] | Floats, site: Site) -> Outcome:
    """Run the queue: request i arrives at arrivals_s[i] (ascending) with this work; 0 does not come to the GPU.

    `latencies_s` are the time from arrival to the GPU's last token, 0 for those that did not come or overflowed.
    """
    if site.engine is None or site.gpus < 1:
        raise ValueError("there is no GPU to simulate")
    if len(works) != len(arrivals_s):
        raise ValueError(f"{len(works)} requests and {len(arrivals_s)} arrivals")
    queue = _Queue(works, arrivals_s, site.engine, site.gpus)
    for request, work in enumerate(works):
        if work:
            queue.arrive(request)
    queue.finish_until(float("inf"))
    return queue.outcome()


class _Queue:
    """All GPUs and what waits for them. Events are handled in the order of time."""

    def __init__(self, works: Sequence[float], arrivals_s: Sequence[float] | Floats, engine: Engine, gpus: int) -> None:
        self._works, self._arrivals_s, self._slots = works, [float(at) for at in arrivals_s], engine.slots
        pace_s = [engine.seconds(n) for n in range(engine.slots + 1)]
        self._gpus = [_Gpu(engine, pace_s) for _ in range(gpus)]
        self._waits_s, self._latencies_s = np.zeros(len(works)), np.zeros(len(works))
        self._overflowed = np.zeros(len(works), dtype=np.bool_)

    def arrive(self, request: int) -> None:
        arrived_s = self._arrivals_s[request]
        self.finish_until(arrived_s)
        gpu = min(self._gpus, key=lambda one: one.held)
        if gpu.full:
            self._overflowed[request] = True
            return
        gpu.advance(arrived_s)
        if len(gpu.running) < self._slots:
            gpu.start(request, self._works[request])
        else:
            gpu.waiting.append(request)

    def finish_until(self, until_s: float) -> None:
        """Let requests end up to then, each making room for one that waits."""
        while True:
            gpu = min(self._gpus, key=_Gpu.next_end_s)
            ended_s = gpu.next_end_s()
            if ended_s > until_s or ended_s == float("inf"):
                return
            gpu.advance(ended_s)
            done = gpu.finish()
            self._latencies_s[done] = ended_s - self._arrivals_s[done]
            if gpu.waiting:
                request = gpu.waiting.popleft()
                self._waits_s[request] = ended_s - self._arrivals_s[request]
                gpu.start(request, self._works[request])

    def outcome(self) -> Outcome:
        last_s = max([0.0, *self._arrivals_s[-1:], *(gpu.at_s for gpu in self._gpus)])
        occupied_s = sum(gpu.occupied_s for gpu in self._gpus)
        return Outcome(self._waits_s, self._latencies_s, self._overflowed, last_s, occupied_s)


def point(name: str, asked: Sequence[Asked], arrivals_s: Sequence[float] | Floats, site: Site) -> LoadPoint:
    """The cost of these requests, arriving then, in this order. The load stated is the arrivals' own."""
    count = len(asked)
    latencies_s = np.array([0.0 if one.stays else one.latency_s for one in asked])
    overflowed = np.zeros(count, dtype=np.bool_)
    duration_s = float(arrivals_s[-1])
    if site.engine is not None and site.gpus:
        found = simulate([one.work for one in asked], arrivals_s, site)
        overflowed, duration_s = found.overflowed, found.duration_s
        refused_s = [one.latency_s if one.stays and full else 0.0 for one, full in zip(asked, overflowed, strict=True)]
        latencies_s = latencies_s + found.latencies_s + np.array(refused_s)
    return LoadPoint(
        name=name,
        offered_rps=float(f"{count / float(arrivals_s[-1]):.4g}"),
        parts=_parts(asked, overflowed, duration_s, site),
        gpus=site.gpus if site.engine else 0,
        latency_p99_ms=round(percentile(sorted(latencies_s.tolist()), 0.99) * 1000, 3),
        overflow_share=float(overflowed.mean()),
    )


def _parts(asked: Sequence[Asked], overflowed: NDArray[np.bool_], duration_s: float, site: Site) -> Parts:
    """The bill for 1,000 of them. Busy is work at full-load speed, idle what was paid less that, as in the ledger."""
    billed = {FRONTIER: 0.0, CHEAP: 0.0}
    useful = wasted = 0.0
    for one, refused in zip(asked, overflowed, strict=True):
        if one.stays and not refused:
            useful += one.work
            continue
        wasted += 0.0 if refused else one.work
        tier = site.next_tier if one.stays else one.tier
        billed[FRONTIER if tier == FRONTIER else CHEAP] += one.usd
    hourly, busy_s = (site.gpus * site.usd_per_hour, site.engine.busy_s) if site.engine else (0.0, 0.0)
    card = site.usd_per_hour * busy_s / HOUR_S
    paid = hourly * duration_s / HOUR_S
    per_1k = 1000.0 / len(asked)
    return Parts(
        frontier_usd=billed[FRONTIER] * per_1k,
        cheap_usd=billed[CHEAP] * per_1k,
        gpu_busy_usd=useful * card * per_1k,
        gpu_idle_usd=(paid - (useful + wasted) * card) * per_1k,
        wasted_usd=wasted * card * per_1k,
    )


def load_points(
    name: str,
    asked: Sequence[Asked],
    site: Site,
    loads_rps: Sequence[float] = LOADS_RPS,
    seed: int = 0,
    arrivals_s: Sequence[float] | None = None,
) -> list[LoadPoint]:
    """The cost at each offered load, over the recorded requests drawn at random as often as a p99 needs.

    Arrivals are Poisson, or the workload's own (one for each of `asked`, which then keep their order), stretched to
    the load.
    """
    found = []
    for rps in loads_rps:
        if arrivals_s is None:
            drawn = np.random.default_rng(seed).integers(0, len(asked), REQUESTS)
            made = point(name, [asked[i] for i in drawn], poisson(rps, REQUESTS, seed + 1), site)
        else:
            made = point(name, asked, stretched(arrivals_s, rps), site)
        found.append(replace(made, offered_rps=rps))
    return found


def compared(simulated: LoadPoint, driven: LoadPoint, within: float = 0.05, p99_within: float = 0.25) -> list[Check]:
    """Whether the simulation told what then happened, at one load: $/1k, and p99 latency, as ratios to the driven one.

    To judge the queue and not the luck of the draw, simulate the driven run's own arrivals (`point`).
    """
    at = f"{driven.name} at {driven.offered_rps:g} req/s, simulated / driven"
    checks = [_check(f"{at}: $/1k", simulated.parts.total_usd, driven.parts.total_usd, within)]
    if simulated.latency_p99_ms is not None and driven.latency_p99_ms is not None:
        checks.append(_check(f"{at}: p99 latency", simulated.latency_p99_ms, driven.latency_p99_ms, p99_within))
    return checks


def _check(name: str, simulated: float, driven: float, within: float) -> Check:
    if not driven:
        return Check(name, simulated == driven, None, 1.0, f"simulated {simulated:.4g}, driven 0")
    ratio = simulated / driven
    note = f"simulated {simulated:.4g}, driven {driven:.4g}; met within {within:.0%}"
    return Check(name, abs(ratio - 1.0) <= within, round(ratio, 4), 1.0, note)

"""The replay run: scripted servers for the tiers, the whole service in front of them, each architecture in turn.

Texts, tokens, prices, routing, caches, ledger and HTTP are real; what the models say is what they once said, and how
fast is stated. Knows how to run, not what to print.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import service
from benchmarks.child import BenchmarkError, Nursery, python, say
from benchmarks.cost.accounting import Driven, Judge, Scored
from benchmarks.cost.architectures import (
    ALL_SMALL,
    CHEAP,
    ENGINE_MODULE,
    FRONTIER,
    SMALL,
    Architecture,
    Gpu,
    Setup,
    gpu_speed,
)
from benchmarks.cost.drive import Driver, Reply, Target, drive
from benchmarks.cost.replay import Speed
from benchmarks.cost.workload import Request, Workload, write
from models.local.engine import MODULE_VARIABLE
from router.artifacts import point_to

READY_S: Final = 60.0
MAX_LOAD: Final = 0.8  # of a GPU's rate card: how many GPUs a row is taken to own
SWAP_S: Final = 1.2  # a running router looks at its artifact's pointer once a second
MAX_TENANTS: Final = 20
WARM_UP: Final = 4


@dataclass(frozen=True, slots=True)
class Speeds:
    """What is assumed of how fast the models are: of hosted ones by tier; of one answer on the GPU."""

    hosted: Mapping[str, Speed]
    gpu_answer_tokens_per_s: float = 60.0
    gpu_running: int = 48

    @classmethod
    def usual(cls) -> Speeds:
        return cls({CHEAP: Speed(0.40, 90.0), FRONTIER: Speed(0.50, 80.0)})


@dataclass(frozen=True, slots=True)
class Deployed:
    """What decides in a service: its tiers and which learned artifact serves which question; without any, the rules."""

    tiers: tuple[str, ...]
    artifacts: Path | None = None
    version_of: Mapping[str, str] = field(default_factory=dict)  # question -> version
    strengths: Mapping[str, float] | None = None


Service = tuple[Deployed, Sequence[Architecture]]


@dataclass(frozen=True, slots=True)
class Driving:
    """Every architecture after its run, and all-small at low loads, in real time."""

    rows: Sequence[Driven]
    low: Sequence[Driven]


@dataclass(slots=True)
class Stage:
    """One run's servers and what they need."""

    nursery: Nursery
    workload: Workload
    models: Mapping[str, str]
    gpu: Gpu
    speeds: Speeds
    judge: Judge

    @contextlib.contextmanager
    def tiers(self) -> Iterator[Setup]:
        """The hosted tiers' servers, ready."""
        folder = self.nursery.folder / "workload"
        write(self.workload, folder)
        no_weights = self.nursery.folder / "no-weights"
        no_weights.mkdir()
        gpu = gpu_speed(self.gpu, self.speeds.gpu_answer_tokens_per_s, self.speeds.gpu_running)
        gpu_flags = {"folder": str(folder), "model": self.models[SMALL], **gpu.flags()}
        with contextlib.ExitStack() as stack:
            urls = {}
            for tier, speed in self.speeds.hosted.items():
                flags = [f"--{name}={value}" for name, value in speed.flags().items()]
                command = python("benchmarks.cost.replay", "--folder", str(folder), "--model", self.models[tier])
                child = stack.enter_context(self.nursery.child(f"replay-{tier}", [*command, *flags]))
                urls[tier] = child.wait_for_line("ready ", READY_S)
            yield Setup(self.models, urls, self.gpu, gpu_flags, no_weights)

    @contextlib.contextmanager
    def serving(self, setup: Setup, deployed: Deployed) -> Iterator[service.Service]:
        say(f"starting the service with: {', '.join(deployed.tiers)}")
        config = setup.config(deployed.tiers, deployed.artifacts, deployed.strengths)
        with service.running(self.nursery, config, {MODULE_VARIABLE: ENGINE_MODULE}) as ours:
            yield ours
            say("stopping")

    def run(self, setup: Setup, plan: Sequence[Service], low: Sequence[Workload]) -> Driving:
        """All architectures, one service after the other; in the first one all-small at the low loads too."""
        found: list[Driven] = []
        slow: list[Driven] = []
        for number, (deployed, rows) in enumerate(plan):
            with self.serving(setup, deployed) as ours:
                found += [self.drive_row(ours, row, deployed) for row in rows]
                if number == 0:
                    slow = [self.drive_low(ours, workload, deployed) for workload in low]
        return Driving(found, slow)

    def drive_low(self, ours: service.Service, workload: Workload, deployed: Deployed) -> Driven:
        """All to the owned GPU at a load that is seldom worth waiting for."""
        name = f"{ALL_SMALL.name}-{workload.name}"
        return replace(self, workload=workload).drive_row(ours, replace(ALL_SMALL, name=name, label=name), deployed)

    def drive_row(self, ours: service.Service, row: Architecture, deployed: Deployed) -> Driven:
        keys = keys_of(ours, row, self.workload)
        target = Target(ours.v1, keys, row.model)
        warm = replace(target, keys=dict.fromkeys(keys, ours.key), extra={"farthing": {"cache": "off"}})
        self.warm_up(warm)  # as another tenant, which no row counts
        say(f"{row.label}: {len(self.workload.requests):,} requests in {self.workload.duration_s:.0f} s")
        replies, elapsed_s = drive_phases(self.workload.requests, target, _swapper(deployed))
        asked = Counter(request.tenant for request in self.workload.requests if not replies[request.id].error)
        ledger = [one for tenant, n in asked.items() for one in ours.ledger_rows(tenant_of(row, tenant), n)]
        scored = scored_by(self.judge, self.workload.requests, routed_as(replies, ledger))
        owned = row.model == SMALL or (row.model == "auto" and SMALL in deployed.tiers)
        return Driven(row.name, row.label, scored, elapsed_s, self._gpus(scored, elapsed_s) if owned else 0, ledger)

    def _gpus(self, scored: Sequence[Scored], elapsed_s: float) -> int:
        """The fewest GPUs that a row's share of small answers loads to no more than `MAX_LOAD`."""
        busy_usd = sum(s.nusd for s in scored if s.route == SMALL) / 1e9
        busy_hours = busy_usd / self.gpu.usd_per_hour if self.gpu.usd_per_hour else 0.0
        return max(1, math.ceil(busy_hours * 3600 / elapsed_s / MAX_LOAD))

    def warm_up(self, target: Target) -> None:
        """Requests that nobody counts and the workload has not, so that connections and code are warm.

        Raises BenchmarkError when there is no answer.
        """
        tenant = self.workload.requests[0].tenant
        greetings = [[{"role": "user", "content": f"Say hello to {i}."}] for i in range(WARM_UP)]
        few = [Request(f"warm-up/{i}", 0.0, ask, "", tenant=tenant) for i, ask in enumerate(greetings)]
        replies: list[Reply] = []

        def keep(reply: Reply) -> bool:
            replies.append(reply)
            return True

        asyncio.run(drive(few, target, keep, lambda _: None))
        if failed := [reply.error for reply in replies if reply.error]:
            raise BenchmarkError(f"what is to be driven does not answer: {failed[0]}")


def tenant_of(row: Architecture, tenant: str) -> str:
    """The service's name of a workload's tenant in one row: rows share nothing."""
    return f"{row.name}.{tenant}"


def keys_of(ours: service.Service, row: Architecture, workload: Workload) -> dict[str, str]:
    """A key for each tenant of the workload. Raises BenchmarkError beyond `MAX_TENANTS`: each takes a second or two."""
    tenants = dict.fromkeys(request.tenant for request in workload.requests)
    if len(tenants) > MAX_TENANTS:
        raise BenchmarkError(f"the workload has {len(tenants)} tenants; merge them to at most {MAX_TENANTS}")
    return {tenant: ours.add_key(tenant_of(row, tenant), "--cache", row.cache) for tenant in tenants}


def _swapper(deployed: Deployed) -> Callable[[Request], None]:
    """Before the first request of a half: its router is made current, as an operator would."""
    artifacts = deployed.artifacts
    if artifacts is None:
        return lambda _: None

    def swap(request: Request) -> None:
        point_to(artifacts, deployed.version_of[request.question])
        time.sleep(SWAP_S)

    return swap


def scored_by(judge: Judge, requests: Sequence[Request], replies: Mapping[str, Reply]) -> list[Scored]:
    """In the order of the requests."""
    return [judge.score(request, replies[request.id]) for request in requests]


def routed_as(replies: Mapping[str, Reply], ledger: Sequence[Mapping[str, Any]]) -> dict[str, Reply]:
    """With what the ledger alone knows: what was wasted, and the route where an answer's headers left before it."""
    rows = {row["request_id"]: row for row in ledger}
    return {id: _routed_as(reply, rows.get(reply.request_id)) for id, reply in replies.items()}


def _routed_as(reply: Reply, row: Mapping[str, Any] | None) -> Reply:
    if row is not None:
        reply = replace(reply, wasted_nusd=int(row["cost_wasted_nusd"]))
    if reply.route or reply.error:
        return reply
    if row is None or not row["route"]:
        return replace(reply, error=f"neither headers nor ledger say who answered {reply.request_id}")
    return replace(reply, route=row["route"], model=row["model"], cache=row["cache"], reason=row["reason"])


def drive_phases(
    requests: Sequence[Request], target: Target, before: Callable[[Request], None]
) -> tuple[dict[str, Reply], float]:
    """`before` each phase: replies by request, and the seconds it took."""
    replies: dict[str, Reply] = {}

    def keep(reply: Reply) -> bool:
        replies[reply.id] = reply
        return True

    elapsed_s = asyncio.run(Driver(target, keep, say, before).run(requests))
    return replies, elapsed_s


def gpus_for(rps: float, busy_s: float) -> int:
    """So many GPUs carry all requests of the workload at `MAX_LOAD`; busy_s: of a mean request at the rate card."""
    return max(1, math.ceil(rps * busy_s / MAX_LOAD))


def belongs_to(workload: Workload) -> Callable[[str, str], bool]:
    """Whether some model once gave this text to this question."""
    said: dict[str, set[str]] = {}
    for answer in workload.answers:
        said.setdefault(answer.question, set()).add(answer.text)
    return lambda question, text: text in said.get(question, set())

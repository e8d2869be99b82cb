"""The composition root: from the configuration to the objects that serve. Everything is made here and passed in."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from pydantic import BaseModel

from models.errors import ConfigError
from models.upstream.openai import make_session
from router.cascade import Cascade, Heads
from router.hot import Hot, HotRollout
from router.policy import RuleDecider
from router.rollout import Rollout
from serving.accounts import Accounts
from serving.admission import Admission
from serving.backends import build_tiers, tier_facts
from serving.capacity import Capacity
from serving.cascade import Cascading
from serving.config import Config, EngineBackend, MembersBackend
from serving.deciding import RemoteDecider
from serving.engine_plan import local_facts, member_facts
from serving.flights import Flights
from serving.gateway import Gateway, GatewaySettings
from serving.job import Opening, Outcome
from serving.ledger.allowance import Allowance, LedgerUnreachable
from serving.ledger.grants import Budgets, Lease, LeaseRequest
from serving.ledger.journal import Journal
from serving.ledger.keys import KeyTable
from serving.memory import Memory
from serving.pipeline import Pipeline, keep_nothing
from serving.runtime import Runtime, read_secret
from serving.semantic import RouterCalls, Semantics
from serving.shared import Away, Here
from serving.side import SideRoutes
from serving.status import Status
from serving.stored import StoredAnswers
from serving.telemetry import GatewayMetrics
from serving.texts.log import TextLog
from serving.tiers import Tiers
from serving.wire.request import Limits

MIB = 1 << 20
NUSD_PER_USD = 1_000_000_000
KEYS_EVERY_S = 1.0
LEARNING_DRAIN_S = 2.0

log = logging.getLogger(__name__)
LeaseCall = Callable[[LeaseRequest], Awaitable[Lease]]


def build_decider(config: Config) -> RuleDecider:
    """The decider of the router deployment, and of a gateway that needs only its version."""
    cascade = config.routing.cascade
    by_rules = cascade.mode != "off" and config.routing.decider == "rules"
    return RuleDecider(tier_facts(config), config.routing.thresholds, cascade.band if by_rules else None)


def policy_version(config: Config) -> Callable[[], str]:
    """The version of what decides: the rules' own, learned router's and cascade's settings, the artifacts loaded, and
    how far the learned router has been told to act since. Looked up at most once a second."""
    rules, cascade = build_decider(config).version, config.routing.cascade
    if config.routing.decider == "learned":
        rules += f"+learned-{_stamp(config.routing.learned)}"
    if cascade.mode == "act":
        rules += f"+cascade-{_stamp(cascade)}"
    acts = cascade.artifacts if cascade.mode == "act" else None
    roots = [root for root in (config.routing.artifacts, acts) if root is not None]
    stated = Rollout(config.routing.learned.mode, config.routing.learned.rollout)
    turned = HotRollout(config.routing.artifacts if config.routing.decider == "learned" else None, stated)
    pointed = [Hot(root, _named) for root in roots]  # as those who decide follow them: a folder that is gone is kept to

    def version() -> str:
        parts = [rules, _turned(turned.get(), stated), *(pointer.get() for pointer in pointed)]
        return "+".join(filter(None, parts))

    return version


def _named(folder: Path | None) -> str:
    return "" if folder is None else folder.name


def _turned(rollout: Rollout, stated: Rollout) -> str:
    return "" if rollout == stated else str(rollout)


def _stamp(settings: BaseModel) -> str:
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:8]


@dataclass(slots=True)
class GatewayProcess:
    """Everything one gateway replica holds, and how it ends."""

    app: Gateway
    flights: Flights[Opening, Outcome]
    journal: Journal
    tiers: Tiers
    session: aiohttp.ClientSession
    shared: Here | Away
    drain_s: float
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    semantics: Semantics | None = None
    texts: TextLog | None = None

    def check(self) -> None:
        """Raises when a background task has died: the replica is then replaced."""
        for task in self.tasks:
            if task.done():
                raise RuntimeError(f"the task {task.get_name()} ended")

    async def close(self) -> None:
        """Let answers under way finish, then let go of everything, in the order of dependence."""
        await self.flights.drain(self.drain_s)
        if self.semantics is not None:
            await self.semantics.drain(LEARNING_DRAIN_S)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.texts is not None:
            await self.texts.flush()
        for tier in self.tiers.ordered:
            if tier.pool is not None:
                await tier.pool.aclose()
        await self.session.close()
        self.journal.stop()
        await self.shared.close()


async def build_gateway(
    config: Config, runtime: Runtime, replica: str, router: RouterCalls, lease: LeaseCall, shared: Here | Away
) -> GatewayProcess:
    """One gateway replica. `router`, `lease` (the ledger) and what is shared reach other processes; all may fail."""
    metrics = GatewayMetrics()
    session = make_session()
    built = build_tiers(config, runtime, session, metrics)
    tiers = built.tiers
    table = KeyTable(shared.load)
    await table.refresh()
    journal = Journal(runtime.journal, replica)
    allowance = Allowance(journal.owner, _leases(lease), _budgets(config))
    accounts = Accounts(journal, allowance, metrics, tiers)
    flights: Flights[Opening, Outcome] = Flights()
    decide = RemoteDecider(
        router.decide,
        tier_facts(config),
        config.default_tier,
        config.routing.deadline_ms / 1000,
        metrics.router_fell_back,
    )
    version = policy_version(config)
    semantics = _semantics(config, router)
    cascade = await asyncio.to_thread(build_cascade, config, metrics)
    text_log = TextLog(config.texts, shared.save, metrics) if config.texts.enabled else None
    keep = text_log.keep if text_log is not None else keep_nothing
    pipeline = Pipeline(tiers, decide, flights, Memory(tiers, shared.cache, semantics), accounts, keep, cascade)
    status = Status(tiers, version, runtime.metrics if runtime.metrics_in_service else None, time.time())
    capacity = Capacity(config.gateway.max_in_flight, runtime.draining_file)
    door = Admission(table, config.auth_required, allowance, capacity, read_secret(runtime.operator_token_file))
    stored = (
        StoredAnswers(shared.cache, router if semantics is not None else None, shared.store, door)
        if isinstance(shared, Here)
        else shared.passes_on(session)
    )
    encoder = config.embedding.model if config.embeds else ""
    side = SideRoutes(door, accounts, router, stored, config.gateway.deadline_s, encoder)
    app = Gateway(_settings(config), pipeline, door, status, version, side)
    tasks = [
        asyncio.create_task(table.keep_fresh(KEYS_EVERY_S), name="keys"),
        asyncio.create_task(journal.keep_synced(), name="journal"),
        asyncio.create_task(allowance.keep(), name="allowance"),
        *(asyncio.create_task(members.keep(), name="members") for members in built.members),
    ]
    if text_log is not None:
        tasks.append(asyncio.create_task(text_log.keep_writing(), name="texts"))
    if isinstance(shared, Away):
        tasks.append(asyncio.create_task(shared.courier.keep(), name="courier"))
    drain_s = config.gateway.drain_s
    return GatewayProcess(app, flights, journal, tiers, session, shared, drain_s, tasks, semantics, text_log)


def build_cascade(config: Config, metrics: GatewayMetrics) -> Cascading | None:
    """Raises ConfigError for an artifact that cannot be loaded, or was not trained for so many tokens."""
    wanted = config.routing.cascade
    if wanted.mode == "off":
        return None

    def load(folder: Path | None) -> Cascade:
        if folder is None:
            raise ConfigError(f"routing.cascade.artifacts: nothing is current in {wanted.artifacts}; train a cascade")
        return Heads.load(folder).using(wanted.tokens, wanted.accept_at)

    return Cascading(wanted.mode, wanted.full_answer, Hot(wanted.artifacts, load).get, metrics.cascade_decided)


def _semantics(config: Config, router: RouterCalls) -> Semantics | None:
    wanted = config.cache.semantic
    if wanted.mode == "disabled":
        return None
    shared = {tenant: name for name, tenants in wanted.shared.items() for tenant in tenants}
    return Semantics(router, answering(config), shared, wanted.compare, wanted.judge)


def _settings(config: Config) -> GatewaySettings:
    gateway = config.gateway
    return GatewaySettings(
        limits=Limits(max_body_bytes=gateway.max_body_mib * MIB, max_messages=gateway.max_messages),
        deadline_s=gateway.deadline_s,
        sampled_cache=config.cache.exact.sampled,
        coalesce=config.cache.coalesce,
        namespace=answering(config),
    )


def answering(config: Config) -> str:
    """A hash of everything in the configuration that decides what an answer is: a cache filled under another one is not
    read. Prices, keys, replicas and limits are left out: changing them must not cost the cache."""
    local = local_facts(config)
    told: list[list[object]] = []
    for tier in config.tiers:
        for backend in tier.backends:
            if isinstance(backend, EngineBackend):
                told.append([tier.name, local and local.profile_sha256, str(backend.weights), backend.args])
            elif isinstance(backend, MembersBackend):
                told.append([tier.name, member_facts(tier, backend).profile_sha256])
            else:
                told.append([tier.name, backend.wire, backend.url, backend.model, backend.headers])
    return hashlib.sha256(json.dumps([told, config.aliases], sort_keys=True).encode()).hexdigest()[:16]


def _budgets(config: Config) -> Budgets:
    usd = config.budget.frontier_usd_per_day
    return Budgets(deployment_nusd_per_day=None if usd is None else int(usd * NUSD_PER_USD))


def _leases(call: LeaseCall) -> LeaseCall:
    async def lease(request: LeaseRequest) -> Lease:
        try:
            return await call(request)
        except Exception as exc:
            raise LedgerUnreachable(f"the ledger process did not answer: {type(exc).__name__}") from exc

    return lease

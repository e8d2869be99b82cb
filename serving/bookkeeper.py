"""The node's one bookkeeper: journals into the ledger, leases to gateways, uptime of the engine, metrics of the node.

Runs inside the Ledger deployment; knows no Ray. There is one per state folder: the writer's lock sees to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from aiohttp import web

from serving import members
from serving.admin_port import open_admin_port
from serving.config import Config, MembersBackend, Tier
from serving.desk import Desk
from serving.elsewhere import Elsewhere, listing_files
from serving.engine_plan import local_facts, local_tier, member_facts
from serving.ledger import texts
from serving.ledger.grants import Budgets, Grants, Lease, LeaseRequest
from serving.ledger.inbox import AWAY, Inbox, Piece, Taken
from serving.ledger.store import Store, epoch_ms, midnight_ms
from serving.ledger.writer import IngestStats, Writer
from serving.runtime import Runtime
from serving.shared import open_cache
from serving.telemetry import NodeMetrics, forget_dead, read_gpus

INGEST_EVERY_S = 0.2
NODE_EVERY_S = 5.0
RETAIN_EVERY_S = 3600.0
PRUNE_TEXTS_EVERY_S = 60.0
STALE_S = 30.0  # without a pass of the writer for this long, the deployment counts as sick and is replaced
NUSD_PER_USD = 1_000_000_000

log = logging.getLogger(__name__)
T = TypeVar("T")


class Bookkeeper:
    """`start`, then `lease` as asked, then `close`."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self._config, self._runtime = config, runtime
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._metrics = NodeMetrics()
        self._tasks: list[asyncio.Task[None]] = []
        self._admin: web.AppRunner | None = None
        self._passed_s = time.monotonic()
        self._started_ms = epoch_ms()
        self._boxes: dict[str, int] = {}  # since when
        self._elsewhere = Elsewhere(listing_files(config, runtime))

    async def start(self) -> None:
        self._writer, self._store, self._inbox, self._grants = await self._in_thread(self._open)
        every = self._config.gateway.nodes == "every"
        cache = await open_cache(self._config, self._runtime) if every else None
        self.desk = Desk(self._config, self._runtime, self._store, cache, self._take)
        self._tasks = [asyncio.create_task(self._ingest()), asyncio.create_task(self._tend_node())]
        if not self._runtime.metrics_in_service and self._runtime.admin_port is not None:
            self._admin = await open_admin_port(self._runtime.metrics, self._runtime.admin_port)

    def _open(self) -> tuple[Writer, Store, Inbox, Grants]:
        store = Store.open(self._config.ledger_url)
        writer = Writer(store, self._runtime.journal)
        inbox = Inbox(self._runtime.journal)
        if self._config.gateway.nodes != "every":  # nobody will say more of what an earlier instance left
            inbox.close()
        first = writer.ingest_once()
        usd = self._config.budget.frontier_usd_per_day
        budgets = Budgets(deployment_nusd_per_day=None if usd is None else int(usd * NUSD_PER_USD))
        grants = Grants(budgets, store.spend_since(midnight_ms(epoch_ms())), writer.owners())
        grants.ingested(IngestStats(started_ms=first.started_ms, ended=first.ended))
        return writer, store, inbox, grants

    async def lease(self, request: LeaseRequest) -> Lease:
        lease = self._grants.lease(request)
        if request.replica.startswith(AWAY):  # what its node has written by its own clock, and has come here
            lease = replace(lease, ingested_ms=self._inbox.read_ms(request.replica))
        return lease

    async def _take(self, pieces: Sequence[Piece], cuts: Mapping[str, int]) -> Taken:
        return await self._in_thread(self._inbox.take, pieces, cuts)

    def check(self) -> None:
        """Raises when the ledger has stopped taking rows; Ray Serve then starts another writer."""
        if time.monotonic() - self._passed_s > STALE_S:
            raise RuntimeError(f"no journal was read for {STALE_S} s")

    async def close(self) -> None:
        """Take what the journals still hold, then let go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._admin is not None:
            await self._admin.cleanup()
        await self.desk.close()
        await self._in_thread(self._finish)
        self._thread.shutdown()

    def _finish(self) -> None:
        try:
            self._inbox.close()
            self._writer.ingest_once()
            self._note_uptime()
        except Exception:  # the process's edge: a database that is gone must not keep it from ending
            log.exception("the last rows stay in the journals: the next start takes them")
        finally:
            self._writer.close()
            self._store.close()

    async def _ingest(self) -> None:
        while True:
            try:
                self._account(await self._in_thread(self._read))
                self._passed_s = time.monotonic()
            except Exception:  # the edge of a background task: a database that is locked or gone is tried again
                log.exception("the journals could not be taken into the ledger; trying again")
            await asyncio.sleep(INGEST_EVERY_S)

    def _read(self) -> IngestStats:
        self._inbox.release_silent()
        stats = self._writer.ingest_once()
        self._inbox.passed()
        return stats

    def _account(self, stats: IngestStats) -> None:
        self._grants.ingested(stats)
        self._metrics.ingested(stats.rows, stats.lost, stats.corrupt, stats.lag_bytes)

    async def _tend_node(self) -> None:
        retained_s = pruned_s = float("-inf")
        while True:
            try:
                await self._in_thread(self._note_uptime)
                await asyncio.to_thread(forget_dead, self._runtime.metrics)
                for reading in await asyncio.to_thread(read_gpus):
                    self._metrics.gpu(reading)
                await self._elsewhere.look()
                days = self._config.ledger.retention_days
                if days is not None and time.monotonic() - retained_s > RETAIN_EVERY_S:
                    await self._in_thread(self._writer.retain, days)
                    retained_s = time.monotonic()
                if time.monotonic() - pruned_s > PRUNE_TEXTS_EVERY_S:
                    self._metrics.texts(await self._in_thread(self._prune_texts))
                    pruned_s = time.monotonic()
            except Exception:  # the edge of a background task: a database that is locked or gone is tried again
                log.exception("the node could not be tended; trying again")
            await asyncio.sleep(NODE_EVERY_S)

    def _prune_texts(self) -> int:
        """Also where none are kept any more: turning it off must not keep the old ones. Returns the bytes left."""
        wanted = self._config.texts
        texts.prune(self._store, wanted.keep_days, wanted.max_mib << 20)
        return texts.size_bytes(self._store)

    def _note_uptime(self) -> None:
        """The GPU is paid for as long as the service runs, used or not."""
        now_ms = epoch_ms()
        found, facts = local_tier(self._config), local_facts(self._config)
        if found is not None and facts is not None:
            per_hour = facts.nusd_per_hour * found[1].replicas
            self._store.extend_uptime(found[0].name, self._started_ms, now_ms, per_hour)
        for tier in self._config.tiers:
            for backend in tier.backends:
                if isinstance(backend, MembersBackend):
                    self._note_boxes(tier, backend, now_ms)

    def _note_boxes(self, tier: Tier, backend: MembersBackend, now_ms: int) -> None:
        """Each box from when it was first seen here. What the provider bills before and after is in `cluster cost`."""
        per_hour = member_facts(tier, backend).nusd_per_hour
        present = {f"{tier.name}/{member.url}" for member in members.read(backend.file)}
        for name in present:
            since_ms = self._boxes.setdefault(name, now_ms)
            self._store.extend_uptime(name, since_ms, now_ms, per_hour)
        for name in [known for known in self._boxes if known.startswith(f"{tier.name}/") and known not in present]:
            del self._boxes[name]

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

"""A gateway over fake backends: the real pipeline, journal, ledger, cache and HTTP server, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from models.fake import FakeBackend
from models.pool import Pool
from models.prices import PriceOverride
from models.retry import RetryPolicy
from models.types import Capabilities
from router.cache.faiss_index import FaissIndex
from router.cache.recall import Recall, RecallSettings
from router.cache.semantic import SemanticCache
from router.cache.tune import shipped
from router.cache.verify import WrongHitMonitor
from router.embedding.batcher import Batcher
from router.embedding.encoder import TextEncoder
from router.embedding.minilm import load_default
from router.policy import RuleDecider, TierFacts
from serving.accounts import Accounts
from serving.admission import Admission
from serving.cache.exact import ExactCache
from serving.capacity import Capacity
from serving.cascade import Cascading
from serving.deciding import RemoteDecider
from serving.flights import Flights
from serving.gateway import Gateway, GatewaySettings
from serving.ledger import texts
from serving.ledger.allowance import Allowance
from serving.ledger.grants import Budgets, Grants, Lease, LeaseRequest
from serving.ledger.journal import Journal
from serving.ledger.keys import KeyTable, loader
from serving.ledger.schema import requests
from serving.ledger.store import Store
from serving.ledger.writer import Writer
from serving.memory import Memory
from serving.pipeline import Pipeline
from serving.routing import RouterProcess
from serving.semantic import Semantics
from serving.side import SideRoutes
from serving.status import Status
from serving.stored import StoredAnswers
from serving.telemetry import GatewayMetrics, RouterMetrics
from serving.texts.log import TextLog
from serving.texts.settings import Texts
from serving.tiers import ServingTier, Tiers
from serving.wire.request import Limits

HARD = "Prove step by step that sqrt(2) is irrational. You must give at least two proofs."

Recaller = Callable[[RouterProcess, Path], Awaitable[None]]


@dataclass
class Setup:
    """What a test may change before the gateway starts."""

    folder: Path
    small: Any = field(default_factory=lambda: FakeBackend("small/0", "tiny"))
    more: Sequence[FakeBackend] = ()  # of the small tier
    frontier: Any = field(default_factory=lambda: FakeBackend("frontier/0", "huge"))
    budgets: Budgets = field(default_factory=Budgets)
    required: bool = False
    max_in_flight: int = 64
    deadline_s: float = 30.0
    router_fails: bool = False
    recall: Callable[[RouterProcess, Path], Awaitable[None]] | None = None  # gives the router a semantic cache
    compare: Any = "none"
    judge: str | None = None
    cascade: Cascading | None = None  # with the band of the rules' score that it is for
    band: tuple[float, float] | None = None
    texts: Texts = field(default_factory=Texts)


@dataclass
class Running:
    """A gateway that answers on a port, and the ledger its rows arrive in."""

    url: str
    http: aiohttp.ClientSession
    store: Store
    writer: Writer
    cache: ExactCache
    flights: Flights[Any, Any]
    table: KeyTable
    accounts: Accounts
    door: CancelOnDisconnect
    router: RouterProcess
    semantics: Semantics | None
    texts: TextLog

    async def ask(self, text: str = "hi", headers: dict[str, str] | None = None, **fields: Any) -> tuple[Any, Any]:
        """(status and headers, parsed body) of one unary chat request."""
        body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            return response, await response.json()

    async def stream(self, text: str = "hi", headers: dict[str, str] | None = None, **fields: Any) -> tuple[Any, bytes]:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": text}], **fields}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            return response, await response.read()

    async def rows(self, count: int | None = None) -> list[dict[str, Any]]:
        """The ledger's rows in order of arrival; waits for `count` of them."""
        until_s = time.monotonic() + 5
        while True:
            await asyncio.to_thread(self.writer.ingest_once)
            with self.store.read() as connection:
                found = [dict(r) for r in connection.execute(requests.select().order_by(requests.c.at_ms)).mappings()]
            if count is None or len(found) >= count or time.monotonic() > until_s:
                assert count is None or len(found) == count, f"{len(found)} rows, expected {count}"
                return found
            await asyncio.sleep(0.02)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


@pytest.fixture
def seen(setup: Setup) -> Any:
    """A setup whose small model is tried for what the rules find easy; `seen` is what it decided."""
    from tests.serving.cascades import Seen, arrange  # it imports this file

    counted = Seen()
    arrange(setup, counted)
    return counted


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    return load_default()


@pytest.fixture
def recall(encoder: TextEncoder) -> Callable[..., Recaller]:
    """Gives a router process a semantic cache. `draw` 0 explores always, 1 never."""

    def make(mode: Any = "serve", draw: float = 1.0, evidence: int = 3_000) -> Recaller:
        async def give(router: RouterProcess, folder: Path) -> None:
            index = FaissIndex(encoder.identity.sha256, encoder.dim)
            cache = await SemanticCache.open(folder / "semantic.db", index, ["small", "frontier"])
            monitor = WrongHitMonitor(0.02, evidence_hits=evidence)
            router.encoder, router.text_encoder, router.cache = Batcher(encoder), encoder, cache
            rules = shipped(encoder.identity.sha256).decider
            router.recall = Recall(router.encoder, cache, rules, monitor, RecallSettings(mode), draw=lambda: draw)

        return give

    return make


@contextlib.asynccontextmanager
async def running(setup: Setup) -> AsyncIterator[Running]:
    """Everything but Ray: the same objects that `serving/app.py` puts together."""
    store = await asyncio.to_thread(Store.open, f"sqlite:///{setup.folder / 'ledger.db'}")
    writer = Writer(store, setup.folder / "journal")
    grants = Grants(setup.budgets)
    journal = Journal(setup.folder / "journal", "test")

    async def lease(request: LeaseRequest) -> Lease:
        grants.ingested(await asyncio.to_thread(writer.ingest_once))
        return grants.lease(request)

    tiers = _tiers(setup, metrics := GatewayMetrics())
    cache = await ExactCache.open(setup.folder / "cache.db")
    flights: Flights[Any, Any] = Flights()
    allowance = Allowance(journal.owner, lease, setup.budgets)
    table = KeyTable(loader(store))
    await table.refresh()
    facts = _facts(tiers)
    rules = RuleDecider(facts, band=setup.band)
    router = await _router(setup, rules)
    semantics = Semantics(router, "", {}, setup.compare, setup.judge) if setup.recall is not None else None

    async def ask(given: Any, deadline_s: float) -> Any:
        if setup.router_fails:
            raise ConnectionError("no router")
        return await router.decide(given, deadline_s)

    decide = RemoteDecider(ask, facts, "small", 5.0, metrics.router_fell_back)
    accounts = Accounts(journal, allowance, metrics, tiers)
    admission = Admission(table, setup.required, allowance, Capacity(setup.max_in_flight, setup.folder / "draining"))
    text_log = TextLog(setup.texts, partial(texts.put, store), metrics)
    stored = StoredAnswers(cache, router if semantics is not None else None, store, admission)
    app = Gateway(
        _settings(setup),
        Pipeline(tiers, decide, flights, Memory(tiers, cache, semantics), accounts, text_log.keep, setup.cascade),
        admission,
        Status(tiers, lambda: rules.version, None, time.time()),
        lambda: rules.version,
        SideRoutes(admission, accounts, router, stored, setup.deadline_s, "minilm" if semantics is not None else ""),
    )
    async with _serving(door := CancelOnDisconnect(app)) as url, aiohttp.ClientSession() as http:
        yield Running(url, http, store, writer, cache, flights, table, accounts, door, router, semantics, text_log)
    await flights.drain(1.0)
    if semantics is not None:
        await semantics.drain(5.0)
    await router.close()
    await cache.close()
    journal.stop()
    writer.close()
    store.close()


def _facts(tiers: Tiers) -> list[TierFacts]:
    return [
        TierFacts(t.name, t.capabilities.context_tokens, t.capabilities.images, t.capabilities.tools, t.local)
        for t in tiers.ordered
    ]


async def _router(setup: Setup, rules: RuleDecider) -> RouterProcess:
    router = RouterProcess(rules, RouterMetrics())
    if setup.recall is not None:
        await setup.recall(router, setup.folder)
    return router


def _settings(setup: Setup) -> GatewaySettings:
    return GatewaySettings(
        limits=Limits(max_body_bytes=100_000),
        deadline_s=setup.deadline_s,
        sampled_cache=False,
        coalesce=True,
        namespace="",
    )


def _tiers(setup: Setup, metrics: GatewayMetrics) -> Tiers:
    def price(input_usd: float, output_usd: float) -> PriceOverride:
        return PriceOverride.model_validate(
            {
                "input_usd_per_mtok": input_usd,
                "output_usd_per_mtok": output_usd,
                "as_of": "2026-11-01",
                "source": "test",
            }
        )

    def pool(backends: Sequence[FakeBackend]) -> Pool:
        return Pool("test", backends, RetryPolicy(attempts=2, base_s=0.01), None, metrics)

    narrow = Capabilities(context_tokens=2048, images=False, tools=False, completions=True)
    prices = {backend.name: price(1, 2) for backend in (setup.small, *setup.more)}
    small = ServingTier("small", 0, pool([setup.small, *setup.more]), prices, ("tiny",), narrow, True, owned=True)
    hosted = None if setup.frontier is None else pool([setup.frontier])
    absent = "" if hosted else "no_key"
    frontier = ServingTier(
        "frontier", 1, hosted, {"frontier/0": price(100, 500)}, ("huge",), Capabilities(), False, absent
    )
    return Tiers([small, frontier], {"best": "frontier"})


class PromptServer(uvicorn.Server):
    """Ends when `told`. uvicorn looks ten times a second and then waits a tenth more: over all tests, minutes."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.002)
        await self.lifespan.shutdown()


@contextlib.asynccontextmanager
async def _serving(app: CancelOnDisconnect) -> AsyncIterator[str]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = PromptServer(uvicorn.Config(app, log_level="error", lifespan="on", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.002)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.told.set()
        await task


class CancelOnDisconnect:
    """What Ray Serve does: the handler of a client that has left is cancelled."""

    def __init__(self, app: Gateway) -> None:
        self._app = app
        self.received = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        messages: asyncio.Queue[Any] = asyncio.Queue()
        handler = asyncio.create_task(self._counted(scope, messages.get, send))
        listener = asyncio.create_task(self._listen(receive, messages, handler))
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await handler
        finally:
            listener.cancel()

    async def _counted(self, scope: Any, receive: Any, send: Any) -> None:
        """A request cancelled before this has run was never seen by the gateway."""
        self.received += 1
        await self._app(scope, receive, send)

    async def _listen(self, receive: Any, messages: asyncio.Queue[Any], handler: asyncio.Task[None]) -> None:
        while True:
            message = await receive()
            await messages.put(message)
            if message["type"] == "http.disconnect":
                handler.cancel()
                return

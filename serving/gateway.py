"""The HTTP face: routes, admission, and answers in the caller's shape. Handlers are thin; the pipeline works.

Knows the OpenAI wire format through `serving/wire` and the tiers through names. No Ray: `serving/deployments.py` puts
it behind Ray Serve, tests behind a plain server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_in

import orjson
from starlette.types import Receive, Scope, Send

from models.errors import FarthingError, ModelNotFound, ProtocolViolation
from models.types import Deadline, Endpoint
from serving.accounts import Accounts
from serving.admission import Admission, Principal
from serving.asgi import ClientGoneError, Exchange
from serving.cache.exact import Entry
from serving.cache.key import cache_key, prompt_fingerprint, uncacheable
from serving.job import Answer, Job, Opening
from serving.ledger.row import Row
from serving.pipeline import Pipeline
from serving.side import SideRoutes
from serving.status import Status
from serving.tiers import Tiers
from serving.wire.assemble import DONE, first_chunk, replay, usage_event, with_cost
from serving.wire.errors import as_farthing, http_error, sse_error
from serving.wire.request import Limits, cache_control, parse

log = logging.getLogger(__name__)
HEADERS_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Plain values from the configuration. `namespace` sets caches of different configurations apart."""

    limits: Limits
    deadline_s: float
    sampled_cache: bool
    coalesce: bool
    namespace: str


Handler = Callable[[Exchange], Awaitable[None]]


class Gateway:
    """An ASGI application."""

    def __init__(
        self,
        settings: GatewaySettings,
        pipeline: Pipeline,
        admission: Admission,
        status: Status,
        policy_version: Callable[[], str],
        side: SideRoutes | None = None,
    ) -> None:
        self._settings, self._pipeline, self._admission, self._status = settings, pipeline, admission, status
        self._policy_version = policy_version
        self._tiers: Tiers = pipeline.tiers
        self._accounts: Accounts = pipeline.accounts
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): lambda x: self._complete(x, "chat/completions"),
            ("POST", "/v1/completions"): lambda x: self._complete(x, "completions"),
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/ready"): self._ready,
            ("GET", "/metrics"): self._metrics,
            **(side.table() if side is not None else {}),
        }
        self._paths = {path for _, path in self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        exchange = Exchange.of(scope, receive, send)
        try:
            await self._route(exchange)(exchange)
        except ClientGoneError:
            return
        except Exception as exc:  # the process edge: the caller gets an error object, never a trace
            if not isinstance(exc, FarthingError):
                log.exception("request %s failed", exchange.request_id)
            if not exchange.started:
                await exchange.reply(*http_error(exc))

    def _route(self, exchange: Exchange) -> Handler:
        handler = self._routes.get((exchange.method, exchange.path))
        if handler is not None:
            return handler
        if exchange.path in self._paths:
            raise _WrongMethod(
                f"{exchange.method} is not supported on {exchange.path}; use {_methods(self._routes, exchange.path)}"
            )
        raise ModelNotFound(f"there is nothing at {exchange.path}; the API is at /v1/chat/completions")

    async def _complete(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Admit, recall, answer. From the moment the key is known every way out closes the request's row."""
        started_s = time.monotonic()
        principal = self._authenticated(exchange)
        row = Row(request_id=exchange.request_id, at_ms=int(time.time() * 1000), endpoint=endpoint)
        row.tenant, row.key_id = principal.tenant, principal.key_id
        self._accounts.metrics.started()
        try:
            with self._admission.capacity.entered():
                job, entry = await self._recalled(exchange, endpoint, principal, row, started_s)
                headers = self._admission.headers(principal)
                if entry is not None:
                    await self._from_cache(exchange, job, entry, headers)
                else:
                    await self._answered(exchange, job, headers)
        finally:
            self._admission.left(principal, row.input_tokens + row.output_tokens or None)
            self._accounts.metrics.ended()

    def _authenticated(self, exchange: Exchange) -> Principal:
        try:
            return self._admission.authenticate(exchange.header("authorization"))
        except FarthingError as exc:
            self._accounts.metrics.unauthenticated(exc.code)
            raise

    async def _recalled(
        self, exchange: Exchange, endpoint: Endpoint, principal: Principal, row: Row, started_s: float
    ) -> tuple[Job, Entry | None]:
        """The request, admitted, and what the cache has for it. Whoever does not get so far has a row all the same."""
        try:
            job = await self._admitted(exchange, endpoint, principal, row, started_s)
            return job, await self._pipeline.recall(job)
        except BaseException as exc:
            row.latency_ms = (time.monotonic() - started_s) * 1000
            if isinstance(exc, ClientGoneError | asyncio.CancelledError):
                row.status, row.http_status = "cancelled", 499
            else:
                known = as_farthing(exc)
                row.status, row.http_status, row.error_code = "refused", known.http_status, known.code
            self._accounts.recorded(row)
            raise

    async def _admitted(
        self, exchange: Exchange, endpoint: Endpoint, principal: Principal, row: Row, started_s: float
    ) -> Job:
        limits = self._settings.limits
        self._admission.capacity.check()
        asked = parse(endpoint, await exchange.body(limits.max_body_bytes, self._settings.deadline_s), limits)
        options = asked.options.merged(principal.defaults).limited(cache_control(exchange.header("cache-control")))
        asked = replace_in(asked, options=options)
        row.stream, row.requested_model = asked.stream, asked.model
        row.conversation, row.prompt_name, row.tags = options.conversation, options.prompt, list(options.tags)
        row.prompt_sha256, row.policy_version = prompt_fingerprint(asked), self._policy_version()
        target = self._tiers.resolve(asked.model)
        await self._admission.admit(principal, asked)
        wait_s = options.deadline_ms / 1000 if options.deadline_ms else self._settings.deadline_s
        deadline = Deadline(started_s + wait_s)
        job = Job(asked, row, deadline, target, started_s, principal.key, cache_use=options.cache or "semantic")
        cacheable = not uncacheable(asked, self._settings.sampled_cache)
        if cacheable:
            job.cache_key = cache_key(asked, row.tenant, row.policy_version, self._settings.namespace)
        if self._pipeline.memory.semantics is not None:
            job.lookup = self._pipeline.memory.semantics.lookup(asked, row.tenant, job.cache_use, cacheable)
        return job

    async def _answered(self, exchange: Exchange, job: Job, headers: Mapping[str, str]) -> None:
        async with self._pipeline.answer(job, self._settings.coalesce) as answer:
            if not answer.leader:
                job.row.cache = "coalesced"
            try:
                await self._respond(exchange, job, answer, headers)
            except BaseException as exc:
                self._follower_ended(job, answer, exc)
                raise
            self._follower_ended(job, answer, None)

    async def _from_cache(self, exchange: Exchange, job: Job, entry: Entry, limits: Mapping[str, str]) -> None:
        row = job.row
        row.status, row.route, row.cache, row.reason, row.model = "cached", "cache", "exact", "exact", entry.model
        row.http_status, row.cache_entry, row.saved_nusd = 200, entry.key.hex(), entry.cost_nusd
        self._accounts.cached(row, entry.usage)
        row.latency_ms = row.ttft_ms = job.elapsed_ms()
        self._accounts.recorded(row)
        self._pipeline.keep(job, None)
        headers = {**limits, **_headers("cache", entry.model, "exact", "exact"), **_hit_headers(entry)}
        body = with_cost(orjson.loads(entry.body), 0.0, entry.usage)
        if not job.asked.stream:
            await exchange.reply_json(200, body, headers)
            return
        await exchange.reply_stream(headers, _each(b"".join(replay(body, job.asked.include_usage, None))))

    async def _respond(self, exchange: Exchange, job: Job, answer: Answer, limits: Mapping[str, str]) -> None:
        if job.asked.stream:
            opening = await self._first(answer)
            headers = {**limits, **_opening_headers(opening, job.row.cache)}
            await exchange.reply_stream(headers, self._events(job, answer))
            return
        job.outcome = outcome = await answer.result()
        body = outcome.whole()
        if body is None:
            raise ProtocolViolation("the backend's answer could not be put together; ask again")
        cost_usd = outcome.cost_nusd / 1e9 if answer.leader else 0.0
        headers = {**limits, **_opening_headers(outcome.opening, job.row.cache)}
        await exchange.reply_json(200, with_cost(body, cost_usd, outcome.usage), headers)

    async def _first(self, answer: Answer) -> Opening | None:
        """Wait for the first content, which decides the headers; after ten seconds send them without.

        Not by `wait_for`: it answers a client's leaving with what came in the same moment.
        """
        try:
            async with asyncio.timeout(HEADERS_WAIT_S):
                return await answer.opened()
        except TimeoutError:
            return None

    async def _events(self, job: Job, answer: Answer) -> AsyncIterator[bytes]:
        """The stream as this caller asked for it, whatever shape the answer came in."""
        streamed = b""
        try:
            async for data in answer.chunks():
                streamed = streamed or data
                if job.row.ttft_ms is None:
                    job.row.ttft_ms = job.elapsed_ms()
                yield data
            outcome = await answer.result()
        except Exception as exc:  # noqa: BLE001 - the process edge: a stream that has begun can only end with an error event
            job.failure = as_farthing(exc)
            yield sse_error(exc)
            return
        job.outcome = outcome
        cost_usd = outcome.cost_nusd / 1e9 if answer.leader else 0.0
        if outcome.body is not None and not streamed:
            yield b"".join(replay(with_cost(outcome.body, cost_usd, outcome.usage), job.asked.include_usage, None))
            return
        tail = usage_event(first_chunk(streamed), outcome.usage, cost_usd) if job.asked.include_usage else b""
        yield tail + DONE

    def _follower_ended(self, job: Job, answer: Answer, error: BaseException | None) -> None:
        """Close the row of a request that shared another's answer. The leader's is closed by its flight."""
        if answer.leader:
            return
        row = job.row
        row.latency_ms = job.elapsed_ms()
        outcome = job.outcome
        if error is None and outcome is not None:
            row.status, row.http_status = "coalesced", 200
            row.route, row.model, row.reason = outcome.opening.route, outcome.opening.model, outcome.opening.reason
            hit = outcome.opening.hit  # what a complaint must reach: the leader's answer is this caller's, too
            row.cache_entry = hit.entry_id if hit is not None else (job.cache_key or b"").hex()
            self._accounts.cached(row, outcome.usage)
        elif isinstance(error, asyncio.CancelledError | ClientGoneError):
            row.status = "cancelled"
        else:
            known = as_farthing(error or job.failure or ProtocolViolation("the answer ended without an end"))
            row.status, row.http_status, row.error_code = "failed", known.http_status, known.code
        self._accounts.closed(row)
        self._pipeline.keep(job, None)

    async def _models(self, exchange: Exchange) -> None:
        self._authenticated(exchange)
        await exchange.reply_json(200, self._status.models())

    async def _health(self, exchange: Exchange) -> None:
        await exchange.reply_json(200, {"status": "alive"})

    async def _ready(self, exchange: Exchange) -> None:
        report = await self._status.ready()
        if self._admission.capacity.draining():
            report = {**report, "ready": False, "detail": "stopping"}
        await exchange.reply_json(200 if report["ready"] else 503, report)

    async def _metrics(self, exchange: Exchange) -> None:
        text = self._status.metrics()
        if text is None:
            raise ModelNotFound("metrics are on the admin port of this service")
        await exchange.reply(200, {"content-type": "text/plain; version=0.0.4; charset=utf-8"}, text)


class _WrongMethod(ModelNotFound):
    http_status = 405
    code = "method_not_allowed"


def _methods(routes: Mapping[tuple[str, str], Handler], path: str) -> str:
    return " or ".join(method for method, known in routes if known == path)


def _headers(route: str, model: str, cache: str, reason: str) -> dict[str, str]:
    return {
        "x-farthing-route": route,
        "x-farthing-model": model,
        "x-farthing-cache": cache,
        "x-farthing-reason": reason,
    }


def _hit_headers(entry: Entry) -> dict[str, str]:
    age_s = max(0, int(time.time() - entry.created_at_s))
    return {"x-farthing-cache-age-s": str(age_s), "x-farthing-cache-entry": entry.key.hex()}


def _opening_headers(opening: Opening | None, cache: str) -> dict[str, str]:
    if opening is None:
        return {"x-farthing-cache": cache, "x-farthing-reason": "pending"}
    headers = _headers(opening.route, opening.model, cache, opening.reason)
    if (hit := opening.hit) is not None and cache == "semantic":
        headers["x-farthing-similarity"] = f"{hit.similarity:.4f}"
        headers["x-farthing-cache-age-s"] = str(max(0, int(hit.age_s)))
        headers["x-farthing-cache-entry"] = hit.entry_id
    return headers


async def _each(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return

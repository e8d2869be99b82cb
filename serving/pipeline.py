"""A request's life, top to bottom: recall, decide, answer, account. Admission stands before it in `gateway.py`.

Owns the order of the steps and the rule that every admitted request closes exactly one row. Knows no HTTP framework,
no Ray, no provider: it is given tiers, a decider, a cache, a journal and an allowance.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import orjson

from models.errors import (
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    FarthingError,
    NotCached,
    Unavailable,
    Unsupported,
)
from models.pool import Reply
from models.types import Call, Deadline, Json, Usage
from router.decision import Decision, Facts, Fresh, Lookup, Recalled
from serving.accounts import Accounts, Spending
from serving.cache.exact import Entry, ExactCache
from serving.cache.key import prompt_fingerprint, storable
from serving.flights import Flight, Flights, Subscription
from serving.ledger.keys import ApiKey
from serving.ledger.row import Row, Status
from serving.request_id import new_id
from serving.semantic import Semantics, ended_well, text_of
from serving.tiers import ServingTier, Target, Tiers
from serving.wire.assemble import assemble
from serving.wire.options import CacheMode
from serving.wire.request import Asked, Limits, facts, parse

ESTIMATED_CHARS_PER_TOKEN = 4
JUDGE_DEADLINE_S = 60.0
_MAKESHIFT = ("degraded_", "router_")  # reasons of answers that the policy did not want so, or was not asked about


@dataclass(slots=True)
class Job:
    """One admitted request on its way: what was asked, what it may use, and its row."""

    asked: Asked
    row: Row
    deadline: Deadline
    target: Target
    started_s: float
    key: ApiKey
    cache_use: CacheMode = "semantic"
    cache_key: bytes | None = None
    lookup: Lookup | None = None  # where an answer may be found by meaning
    epoch: int = 0
    decision: Decision | None = None
    outcome: Outcome | None = None  # as this request's own caller got it
    failure: FarthingError | None = None

    @property
    def reads_cache(self) -> bool:
        return self.cache_use not in ("bypass", "off")

    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.started_s) * 1000


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known when the first content is there; it goes into the headers."""

    route: str
    model: str
    reason: str
    streamed: bool
    hit: Recalled | None = None  # the stored answer that is given instead


@dataclass(slots=True)
class Outcome:
    """A finished answer: a body or the stream it came in, with its usage and what it cost."""

    opening: Opening
    usage: Usage
    cost_nusd: int
    body: Json | None = None
    events: bytes = b""

    def whole(self) -> Json | None:
        """The answer as one body, put together from the stream if it came as one."""
        if self.body is None:
            self.body = assemble(self.events)
        return self.body


Decide = Callable[[Facts], Awaitable[Decision]]
Answer = Subscription[Opening, Outcome]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps between an admitted request and its closed row. One per gateway replica."""

    tiers: Tiers
    decide: Decide
    flights: Flights[Opening, Outcome]
    cache: ExactCache | None
    accounts: Accounts
    semantics: Semantics | None = None

    async def recall(self, job: Job) -> Entry | None:
        """An exact answer to exactly this question, if there is one and the caller takes it."""
        if self.cache is None or job.cache_key is None:
            job.row.cache = "bypass"
            if job.lookup is None:
                _allow_miss(job)
            return None
        job.epoch = self.cache.epoch()
        if not job.reads_cache:
            job.row.cache = "bypass"
            return None
        entry = await self.cache.get(job.cache_key)
        if entry is None and job.lookup is None:
            _allow_miss(job)
        return entry

    def answer(self, job: Job, share: bool) -> Answer:
        """Join the flight of an identical request, or start one. The journal entry is open from here on."""
        self.accounts.opened(job.row)
        key = job.cache_key if share and job.reads_cache and job.cache_use != "only" else None
        if key is not None:  # who joins gives as much time, and takes an answer found by meaning alike
            key += f"{job.asked.options.deadline_ms} {job.lookup is not None}".encode()
        return self.flights.join(key, lambda flight: self._fly(flight, job))

    async def _fly(self, flight: Flight[Opening, Outcome], job: Job) -> Outcome:
        """One upstream answer. Settles the leader's row whatever happens, also when everybody has left."""
        row = job.row
        row.status, row.http_status, row.error_code = (
            "failed",
            500,
            "internal_error",
        )  # unless something below knows better
        try:
            outcome = await self._answered(flight, job)
        except asyncio.CancelledError:
            row.status, row.http_status, row.error_code = "cancelled", 499, ""
            raise
        except FarthingError as exc:
            row.status = "timed_out" if exc.code == "deadline_exceeded" else "failed"
            if isinstance(exc, NotCached):
                row.status = "refused"
            row.http_status, row.error_code = exc.http_status, exc.code
            raise
        else:
            done: Status = "cached" if outcome.opening.hit else "answered"
            row.status = "cancelled" if flight.leader_gone else done
            row.http_status, row.error_code = 200, ""
            self._remember(job, outcome)
            return outcome
        finally:
            row.latency_ms = job.elapsed_ms()
            self.accounts.closed(row)

    async def _answered(self, flight: Flight[Opening, Outcome], job: Job) -> Outcome:
        """A verified answer from the cache, or the wanted tiers in order until one gives a first token."""
        job.decision = decision = await self._decided(job)
        if decision.serve is not None:
            return self._serve(flight, job, decision.serve)
        _allow_miss(job)
        wanted, order = self._order(job, decision)
        failure: FarthingError | None = None
        for tier in order:
            try:
                return await self._from_tier(flight, job, tier, wanted, failure)
            except FarthingError as exc:
                if not (exc.moves_on or isinstance(exc, BudgetExceeded)) or job.target.tier is not None:
                    raise
                if failure is None or tier.pool is not None:  # that a tier has no key is no news to the caller
                    failure = exc
        raise failure or Unavailable("no tier is configured that could answer; check `tiers` in the configuration")

    async def _decided(self, job: Job) -> Decision:
        """A named tier is asked about only where a stored answer may serve."""
        named = job.target.tier or ""
        if named and job.lookup is None:
            decision = Decision(tiers=(named,), reason="named")
        else:
            about = facts(job.asked, job.row.request_id, job.row.tenant)
            decision = await self.decide(replace(about, named=named, lookup=job.lookup))
        job.row.reason, job.row.score, job.row.artifact = decision.reason, decision.score, decision.artifact
        job.row.shadow = decision.shadow
        return decision

    def _serve(self, flight: Flight[Opening, Outcome], job: Job, hit: Recalled) -> Outcome:
        """The stored answer, as if it had just been given, at no cost."""
        row = job.row
        row.route, row.cache, row.reason, row.model = "cache", "semantic", "semantic", hit.model
        row.cache_entry, row.similarity, row.saved_nusd = hit.entry_id, hit.similarity, hit.cost_nusd
        row.ttft_ms = job.elapsed_ms()
        self.accounts.cached(row, hit.usage)
        opening = Opening("cache", hit.model, "semantic", job.asked.stream, hit)
        flight.open(opening)
        return Outcome(opening, hit.usage, 0, body=orjson.loads(hit.body))

    def _order(self, job: Job, decision: Decision) -> tuple[ServingTier, list[ServingTier]]:
        """The tier that should answer, and those to ask in order."""
        if job.target.tier is not None:
            tier = self.tiers[job.target.tier]
            if job.asked.options.local_only and not tier.local:
                message = f"farthing.local_only is set and tier '{tier.name}' is hosted; name a local one, or 'auto'"
                raise BadRequest(message, param="farthing.local_only")
            if job.asked.endpoint == "completions" and not tier.capabilities.completions:
                raise Unsupported(
                    f"tier '{tier.name}' has no text completions; use /v1/chat/completions", param="model"
                )
            return tier, [tier]
        chat = job.asked.endpoint == "chat/completions"
        order = [t for t in map(self.tiers.__getitem__, decision.tiers) if chat or t.capabilities.completions]
        if not order:
            raise Unsupported("no tier has text completions; use /v1/chat/completions", param="prompt")
        return order[0], order

    async def _from_tier(
        self,
        flight: Flight[Opening, Outcome],
        job: Job,
        tier: ServingTier,
        wanted: ServingTier,
        failure: FarthingError | None,
    ) -> Outcome:
        if tier.pool is None:
            raise Unavailable(f"tier '{tier.name}' is configured but has no key; set the one its backends name")
        job.row.attempts += 1
        job.deadline.check()
        reservation = await self.accounts.reserve(job.key, tier, job.asked)
        with self.accounts.spending(job.row, tier, reservation) as spending:
            try:
                reply = await tier.pool.ask(_call(job), model=job.target.model)
            except (asyncio.CancelledError, DeadlineExceeded):
                job.row.route, job.row.model = tier.name, job.target.model or tier.models[0]
                spending.charge(_estimate(job, 0))  # it had been sent: the prompt at least is paid for
                raise
            opening = self._opening(job, tier, wanted, failure, reply)
            job.row.ttft_ms = job.elapsed_ms()
            flight.open(opening)
            if reply.completion is not None:
                usage = reply.completion.usage or _estimate(job, len(orjson.dumps(reply.completion.body)))
                return Outcome(opening, usage, spending.charge(usage), body=reply.completion.body)
            return await self._stream(flight, job, reply, opening, spending)

    def _opening(
        self, job: Job, tier: ServingTier, wanted: ServingTier, failure: FarthingError | None, reply: Reply
    ) -> Opening:
        row = job.row
        if tier is not wanted:
            kind = "degraded" if tier.strength < wanted.strength else "fallback"
            row.reason = f"{kind}_{_cause(wanted, failure)}"
        row.route, row.model, row.backend = tier.name, reply.backend.model, reply.backend.name
        return Opening(tier.name, reply.backend.model, row.reason, job.asked.stream)

    async def _stream(
        self, flight: Flight[Opening, Outcome], job: Job, reply: Reply, opening: Opening, spending: Spending
    ) -> Outcome:
        """Pass chunks on as they come; charge for what was made, however the stream ends."""
        assert reply.chunks is not None
        parts: list[bytes] = []
        usage: Usage | None = None
        try:
            async with aclosing(reply.chunks) as chunks:
                async for chunk in chunks:
                    usage = chunk.usage or usage
                    if chunk.data:
                        parts.append(chunk.data)
                        flight.push(chunk.data)
        finally:
            usage = usage or _estimate_stream(job, b"".join(parts))
            cost = spending.charge(usage)
        return Outcome(opening, usage, cost, events=b"".join(parts))

    def _remember(self, job: Job, outcome: Outcome) -> None:
        """Store a whole answer of the wanted tier, before the flight ends: no twin may start in between.

        An answer found by meaning is not stored anew: whoever deletes it must find all there is of it.
        """
        if job.cache_key is None or job.cache_use == "off" or outcome.opening.hit is not None:
            return
        if outcome.opening.reason.startswith(_MAKESHIFT) or outcome.usage.estimated:
            return
        body = outcome.whole()
        if body is None or not storable(body):
            return
        self._learn(job, outcome, body)
        job.row.cache_entry = job.cache_key.hex()
        if self.cache is None:
            return
        self.cache.put(
            Entry(
                key=job.cache_key,
                tenant=job.row.tenant,
                tier=outcome.opening.route,
                model=outcome.opening.model,
                endpoint=job.asked.endpoint,
                body=orjson.dumps(body),
                usage=outcome.usage,
                created_at_s=time.time(),
                cost_nusd=outcome.cost_nusd,
            ),
            job.epoch,
        )

    def _learn(self, job: Job, outcome: Outcome, body: Json) -> None:
        """Offer the answer to the semantic cache, and have it compared with the one that was near but not proven."""
        decision = job.decision
        if self.semantics is None or job.lookup is None or decision is None or not decision.remember:
            return
        if ended_well(body):
            made = _fresh(job, outcome, job.lookup, body)
            judge, may_leave = self.semantics.judge, not job.asked.options.local_only
            compare = decision.compare if judge is None or may_leave or self.tiers[judge].local else None
            self.semantics.learn(made, compare, body, job.asked.text, partial(self._ask_judge, job))

    async def _ask_judge(self, job: Job, prompt: str) -> str:
        """One more request, of the same tenant and key, with a row of its own. Raises what a request raises."""
        assert self.semantics is not None and self.semantics.judge is not None
        tier = self.semantics.judge
        body = {"model": tier, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8, "temperature": 0}
        asked = parse("chat/completions", orjson.dumps(body), Limits())
        row = Row(
            request_id=new_id(),
            at_ms=int(time.time() * 1000),
            tenant=job.row.tenant,
            key_id=job.row.key_id,
            requested_model=tier,
            cache="bypass",
            prompt_sha256=prompt_fingerprint(asked),
            policy_version=job.row.policy_version,
            tags=["judge"],
        )
        deadline = Deadline.after(JUDGE_DEADLINE_S)
        asking = Job(asked, row, deadline, Target(tier), time.monotonic(), job.key, cache_use="off")
        async with self.answer(asking, share=False) as answer:
            whole = (await answer.result()).whole()
        return text_of(whole) if whole else ""


def _fresh(job: Job, outcome: Outcome, lookup: Lookup, body: Json) -> Fresh:
    return Fresh(
        request_id=job.row.request_id,
        tenant=job.row.tenant,
        lookup=lookup,
        tier=outcome.opening.route,
        model=outcome.opening.model,
        body=orjson.dumps(body),
        usage=outcome.usage,
        cost_nusd=outcome.cost_nusd,
    )


def _allow_miss(job: Job) -> None:
    """Raises NotCached for a caller who wanted an answer from the cache or none."""
    if job.cache_use == "only":
        raise NotCached("no stored answer fits this request, and farthing.cache 'only' forbids asking a model")


def _call(job: Job) -> Call:
    return Call(
        endpoint=job.asked.endpoint,
        body=job.asked.body,
        request_id=job.row.request_id,
        deadline=job.deadline,
        stream=job.asked.stream,
        headers={"x-request-id": job.row.request_id},
    )


def _cause(wanted: ServingTier, failure: FarthingError | None) -> str:
    """A short stable code for why the wanted tier did not answer."""
    if wanted.why_absent:
        return wanted.why_absent
    if isinstance(failure, BudgetExceeded):
        return "budget"
    return failure.code if failure is not None else "unknown"


def _estimate(job: Job, answer_bytes: int) -> Usage:
    """Tokens counted from characters, for an answer whose backend sent no usage. Marked as such in the row."""
    return Usage(job.asked.prompt_tokens, output_tokens=answer_bytes // ESTIMATED_CHARS_PER_TOKEN, estimated=True)


def _estimate_stream(job: Job, events: bytes) -> Usage:
    """One chunk of a stream is one token for most backends: better than counting the JSON around it."""
    return Usage(job.asked.prompt_tokens, output_tokens=events.count(b"data:"), estimated=True)

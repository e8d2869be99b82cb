"""A request's life, top to bottom: recall, decide, answer, account. Admission stands before it in `gateway.py`.

Owns the order of the steps and the rule that every admitted request closes exactly one row. Knows no HTTP framework,
no Ray, no provider: it is given tiers, a decider, a cache, a journal and an allowance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import orjson

from models.backend import Backend
from models.errors import (
    BadRequest,
    BudgetExceeded,
    DeadlineExceeded,
    FarthingError,
    NotCached,
    RequestError,
    Unavailable,
    Unsupported,
    WouldBeLate,
)
from models.pool import Pool, Reply
from models.types import Call, Chunk, Usage
from router.decision import Decision, Facts, Recalled
from serving.accounts import Accounts, Spending
from serving.cache.exact import Entry
from serving.cascade import Cascading, Gate
from serving.flights import Flight, Flights
from serving.job import Answer, Job, Opening, Outcome
from serving.ledger.row import Status
from serving.memory import Memory, aside
from serving.resume import counted, may_resume, unbroken
from serving.semantic import text_of
from serving.tiers import ServingTier, Tiers
from serving.wire.request import facts

ESTIMATED_CHARS_PER_TOKEN = 4


Decide = Callable[[Facts], Awaitable[Decision]]
Keep = Callable[[Job, Outcome | None], None]
"""Told of every request that ended, with the answer if one was made for it."""


def keep_nothing(_job: Job, _outcome: Outcome | None) -> None:
    """Texts are not kept."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps between an admitted request and its closed row. One per gateway replica."""

    tiers: Tiers
    decide: Decide
    flights: Flights[Opening, Outcome]
    memory: Memory
    accounts: Accounts
    keep: Keep = keep_nothing
    cascade: Cascading | None = None

    async def recall(self, job: Job) -> Entry | None:
        """An exact answer to exactly this question, if there is one and the caller takes it."""
        if self.memory.cache is None or job.cache_key is None:
            job.row.cache = "bypass"
            if job.lookup is None:
                job.allow_miss()
            return None
        if not job.reads_cache:
            job.epoch = await self.memory.cache.began(job.cache_key)
            job.row.cache = "bypass"
            return None
        entry, job.epoch = await self.memory.cache.look_up(job.cache_key)
        if entry is None and job.lookup is None:
            job.allow_miss()
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
        outcome: Outcome | None = None
        row.status, row.http_status = "failed", 500  # unless something below knows better
        row.error_code = "internal_error"
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
            self.memory.remember(job, outcome, partial(self._aside, job))
            return outcome
        finally:
            row.latency_ms = job.elapsed_ms()
            self.accounts.closed(row)
            self.keep(job, outcome)

    async def _answered(self, flight: Flight[Opening, Outcome], job: Job) -> Outcome:
        """A verified answer from the cache, or the wanted tiers in order until one gives a first token."""
        job.decision = decision = await self._decided(job)
        if decision.serve is not None:
            return self._serve(flight, job, decision.serve)
        job.allow_miss()
        wanted, order = self._order(job, decision)
        gate = self.cascade.gate(job, decision, order) if self.cascade is not None else None
        by_choice = gate.order(order) if gate is not None else order
        order = _late_last(by_choice, job)
        failure: FarthingError | None = None
        dropped: Gate | None = None
        if (passed_over := by_choice[0]) is not order[0]:
            failure = WouldBeLate(f"tier '{passed_over.name}' would not answer within the deadline at its load")
            gate = None
        for at, tier in enumerate(order):
            trial, gate = gate, None  # of the first alone
            try:
                outcome = await self._from_tier(flight, job, tier, Way(wanted, failure, trial))
                if outcome is not None:
                    return outcome
                assert trial is not None
                wanted, dropped = trial.next, trial
                order.append(tier)  # dropped; yet better than no answer, when nobody stronger has one
            except FarthingError as exc:
                if trial is not None and trial.wanted and isinstance(exc, BadRequest):
                    order.insert(at + 1, tier)  # it may object to what only a trial asks for
                    continue
                no_news = isinstance(exc, RequestError) and _uncalled_for(decision, tier, trial, dropped)
                if not (exc.moves_on or isinstance(exc, BudgetExceeded) or no_news):
                    raise
                if job.target.tier is not None:
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
            about = replace(about, named=named, lookup=job.lookup, askable=self._askable(job))
            decision = await self.decide(about)
        job.row.reason, job.row.score, job.row.artifact = decision.reason, decision.score, decision.artifact
        job.row.shadow = decision.shadow
        return decision

    def _askable(self, job: Job) -> tuple[str, ...]:
        """The tiers that could answer this request now, as far as this replica knows."""
        if job.cache_use == "only":
            return ()
        chat = job.asked.endpoint == "chat/completions"
        return tuple(
            tier.name
            for tier in self.tiers.ordered
            if _may_be_in_time(tier, job)
            and (chat or tier.capabilities.completions)
            and self.accounts.affords(job.key, tier, job.asked)
        )

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
        way: Way,
    ) -> Outcome | None:
        """None: the tier's answer was dropped unseen, and another is to be asked."""
        if tier.pool is None:
            raise Unavailable(f"tier '{tier.name}' is configured but has no key; set the one its backends name")
        job.row.attempts += 1
        job.deadline.check()
        reservation = await self.accounts.reserve(job.key, tier, job.asked)
        with self.accounts.spending(job.row, tier, reservation) as spending:
            job.deadline.check()  # again: who is late by now has sent nothing, and pays nothing
            call, gate = _call(job), way.gate
            resumes = gate is None and tier.owned and may_resume(call)
            call = gate.call(call) if gate is not None else counted(call) if resumes else call
            try:
                reply = await tier.pool.ask(call, model=job.target.model)
            except (asyncio.CancelledError, DeadlineExceeded):
                job.row.route, job.row.model = tier.name, job.target.model or tier.models[0]
                spending.charge(_estimate(job, 0))  # it had been sent: the prompt at least is paid for
                raise
            if gate is not None and not await self._let_through(job, gate, reply, spending):
                return None
            opening = self._opening(job, tier, way, reply)
            job.row.ttft_ms = job.elapsed_ms()
            flight.open(opening)
            if reply.completion is not None:
                usage = reply.completion.usage or _estimate(job, len(orjson.dumps(reply.completion.body)))
                return Outcome(opening, usage, spending.charge(usage), body=reply.completion.body)
            if resumes:
                again = partial(_ask_another, tier.pool)
                reply.chunks = unbroken(replace(reply), call, again, partial(self._took_over, job))
            outcome = await self._stream(flight, job, reply, opening, spending)
            if gate is not None and gate.kept is False:  # in shadow: what is dropped comes not so far
                job.row.shadow = gate.next.name
            return outcome

    def _took_over(self, job: Job, reply: Reply) -> None:
        job.row.attempts += 1
        job.row.backend = reply.backend.name
        self.accounts.metrics.resumed(job.row.route)

    async def _let_through(self, job: Job, gate: Gate, reply: Reply, spending: Spending) -> bool:
        """Hold the answer until its tokens vouch for it. Whatever does not get through has been paid for."""
        assert reply.chunks is not None
        through = False
        try:
            async with job.deadline.limit():
                through = await gate.hold(reply.chunks)
        except (asyncio.CancelledError, DeadlineExceeded):
            job.row.route, job.row.model, job.row.backend = gate.tier.name, reply.backend.model, reply.backend.name
            spending.charge(_burnt(job, gate))
            raise
        except FarthingError:
            spending.waste(_burnt(job, gate), reply.backend)
            raise
        finally:
            if not through:
                await reply.chunks.aclose()
        if gate.verdict is not None and gate.acts:
            job.row.reason = "cascade_kept" if through else "cascade_dropped"
        if not through:
            spending.waste(_burnt(job, gate), reply.backend)
        reply.chunks = gate.passing(reply.chunks)
        return through

    def _opening(self, job: Job, tier: ServingTier, way: Way, reply: Reply) -> Opening:
        row, wanted = job.row, way.wanted
        if tier is not wanted and way.gate is None:
            kind = "degraded" if tier.strength < wanted.strength else "fallback"
            row.reason = f"{kind}_{_cause(wanted, way.failure)}"
        row.route, row.model, row.backend = tier.name, reply.backend.model, reply.backend.name
        return Opening(tier.name, reply.backend.model, row.reason, job.asked.stream)

    async def _stream(
        self, flight: Flight[Opening, Outcome], job: Job, reply: Reply, opening: Opening, spending: Spending
    ) -> Outcome:
        """Pass chunks on as they come; charge for what was made, however the stream ends."""
        assert reply.chunks is not None
        parts: list[bytes] = []
        last: Chunk | None = None  # that told what was used
        try:
            async with aclosing(reply.chunks) as chunks:
                async for chunk in chunks:
                    last = chunk if chunk.told else last
                    if chunk.data:
                        parts.append(chunk.data)
                        flight.push(chunk.data)
        finally:
            usage = (last.used() if last is not None else None) or _estimate_stream(job, b"".join(parts))
            cost = spending.charge(usage)
        return Outcome(opening, usage, cost, events=b"".join(parts))

    async def _aside(self, job: Job, tier: str, prompt: str) -> str:
        """A question of our own beside a caller's, under a row of its own. Raises what a request raises."""
        async with self.answer(aside(job, tier, prompt), share=False) as answer:
            whole = (await answer.result()).whole()
        return text_of(whole) if whole else ""


@dataclass(frozen=True, slots=True)
class Way:
    """How one tier came to be asked: which one should answer, what failed before, and the gate it must pass."""

    wanted: ServingTier
    failure: FarthingError | None
    gate: Gate | None


async def _ask_another(pool: Pool, call: Call, broken: Backend) -> Reply:
    """Of the same model: the caller has been told which one answers."""
    return await pool.ask(call, broken.model, avoid=broken)


def _late_last(order: list[ServingTier], job: Job) -> list[ServingTier]:
    """Who would answer after the deadline at the present load comes after all others, if one behind may be in time."""
    late = [
        tier
        for at, tier in enumerate(order)
        if _is_late(tier, job) and any(_may_be_in_time(other, job) for other in order[at + 1 :])
    ]
    return [*(tier for tier in order if tier not in late), *late]


def _is_late(tier: ServingTier, job: Job) -> bool:
    expected_s = tier.pool.expected_s() if tier.pool is not None else None
    return expected_s is not None and expected_s > job.deadline.remaining_s()


def _may_be_in_time(tier: ServingTier, job: Job) -> bool:
    """A tier nobody knows about may be; one that cannot be asked at all may not."""
    return tier.pool is not None and tier.pool.may_be_asked() and not _is_late(tier, job)


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


def _uncalled_for(decision: Decision, tier: ServingTier, trial: Gate | None, dropped: Gate | None) -> bool:
    """What a tier objects to that the router had not wanted, asked by lot, on trial or after a drop, is no news to the
    caller. Objections come before the first word: a stream that breaks off later is the caller's to know."""
    drawn = decision.reason == "explore" and tier.name == decision.tiers[0]
    return drawn or (trial is not None and not trial.wanted) or (dropped is not None and dropped.wanted)


def _burnt(job: Job, gate: Gate) -> Usage:
    """What an answer on trial has cost so far. Where the server has not said, its tokens were counted as they came and
    its prompt is an estimate."""
    return gate.usage or Usage(job.asked.prompt_tokens, output_tokens=len(gate.tokens), estimated=True)


def _estimate(job: Job, answer_bytes: int) -> Usage:
    """Tokens counted from characters, for an answer whose backend sent no usage. Marked as such in the row."""
    return Usage(job.asked.prompt_tokens, output_tokens=answer_bytes // ESTIMATED_CHARS_PER_TOKEN, estimated=True)


def _estimate_stream(job: Job, events: bytes) -> Usage:
    """One chunk of a stream is one token for most backends: better than counting the JSON around it."""
    return Usage(job.asked.prompt_tokens, output_tokens=events.count(b"data:"), estimated=True)

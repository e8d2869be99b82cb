"""A tier's backends as one: which to ask, when to ask again, when to leave one alone. The only retry loop there is.

Before the first content a failure is retried here, on the same backend or another; after it, it is the caller's. Moving
on to another tier is the pipeline's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from models.backend import Backend, SilentObserver, UpstreamObserver
from models.breaker import Breaker, BreakerPolicy
from models.errors import DeadlineExceeded, FarthingError, NotUp, Overloaded
from models.pace import Pace
from models.retry import RetryPolicy, next_wait_s
from models.types import Call, Chunk, Completion


@dataclass(slots=True)
class Reply:
    """One of `completion` and `chunks` is set. `chunks` begins with all that came before the first content."""

    backend: Backend
    attempts: int
    completion: Completion | None = None
    chunks: AsyncGenerator[Chunk, None] | None = None


@dataclass(frozen=True, slots=True)
class MemberHealth:
    name: str
    ready: bool
    detail: str
    breaker: str


@dataclass(frozen=True, slots=True)
class _Timed:
    """One call, and where it is told how long it took."""

    pace: Pace
    began_s: float
    load: int

    def whole(self) -> None:
        self.pace.answered(time.monotonic() - self.began_s, self.load)

    def given_up(self) -> None:
        self.pace.given_up(time.monotonic() - self.began_s, self.load)


@dataclass(slots=True, eq=False)
class _Member:
    backend: Backend
    breaker: Breaker
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    pace: Pace = field(default_factory=Pace)

    def began(self) -> _Timed:
        self.in_flight += 1
        self.idle.clear()
        return _Timed(self.pace, time.monotonic(), self.in_flight)

    def ended(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()


class Pool:
    """Members may join and leave while it works."""

    def __init__(
        self,
        name: str,
        backends: Sequence[Backend],
        retry: RetryPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        observer: UpstreamObserver | None = None,
    ) -> None:
        self.name = name
        self._retry = retry or RetryPolicy()
        self._policy = breaker or BreakerPolicy()
        self._observer: UpstreamObserver = observer or SilentObserver()
        self._rng = random.Random()
        self._members = [self._member(b) for b in backends]
        self._leaving: set[asyncio.Task[None]] = set()

    def _member(self, backend: Backend) -> _Member:
        name = backend.name
        member = _Member(backend, Breaker(self._policy, lambda state: self._observer.breaker_changed(name, state)))
        member.idle.set()
        return member

    @property
    def backends(self) -> list[Backend]:
        return [m.backend for m in self._members]

    async def ask(self, call: Call, model: str | None = None, avoid: Backend | None = None) -> Reply:
        """One answer, or the first content of one. `model` narrows to the backends that carry it; `avoid` is asked
        only where no other is left.

        Raises what the last attempt raised, DeadlineExceeded, or NotUp when no backend may be asked now.
        """
        attempt = 0
        tried: _Member | None = None
        while True:
            call.deadline.check()
            attempt += 1
            member = self._choose(model, tried, avoid)
            try:
                return await self._attempt(member, call, attempt)
            except FarthingError as exc:
                tried = member
                self._observer.upstream_error(member.backend.name, exc)
                if self._may_ask_another(exc, attempt) and self._has_other(member, model):
                    self._observer.retried(member.backend.name, attempt, 0.0)
                    continue
                wait_s = next_wait_s(self._retry, attempt, exc, call.deadline.remaining_s(), self._rng)
                if wait_s is None:
                    raise
                self._observer.retried(member.backend.name, attempt, wait_s)
                await asyncio.sleep(wait_s)

    def may_be_asked(self) -> bool:
        """Whether any backend is there and not left alone."""
        return any(m.breaker.allows() for m in self._members)

    def expected_s(self) -> float | None:
        """Seconds until a request sent now would be answered, by the least busy backend. None: nobody knows yet."""
        able = [m for m in self._members if m.breaker.allows()]
        if not able:
            return None
        next_one = min(able, key=lambda m: m.in_flight)
        return next_one.pace.expected_s(next_one.in_flight)

    def _may_ask_another(self, error: FarthingError, attempt: int) -> bool:
        """At once, however long this one wants to be left alone. A dead key costs no attempt: its member is out now."""
        return error.cools_down or (error.retryable and attempt < self._retry.attempts)

    def _able(self, model: str | None) -> list[_Member]:
        return [m for m in self._members if model is None or m.backend.model == model]

    def _has_other(self, member: _Member, model: str | None) -> bool:
        return any(m is not member and m.breaker.allows() for m in self._able(model))

    def _choose(self, model: str | None, tried: _Member | None, avoid: Backend | None) -> _Member:
        able = [m for m in self._able(model) if m.breaker.allows()]
        if not able:
            waits = [m.breaker.wait_s() for m in self._able(model)]
            busy = any(m.breaker.state != "open" for m in self._able(model))
            kind = Overloaded if busy else NotUp
            raise kind(f"{self.name}: no backend can be asked now", retry_after_s=min(waits, default=1.0))
        return min(able, key=lambda m: (m is tried, m.backend is avoid, m.in_flight))

    async def _attempt(self, member: _Member, call: Call, attempt: int) -> Reply:
        member.breaker.began()
        timed = member.began()
        handed_over = False
        try:
            if not call.stream:
                async with asyncio.timeout(call.deadline.remaining_s()):
                    completion = await member.backend.complete(call)
                member.breaker.succeeded()
                timed.whole()
                return Reply(member.backend, attempt, completion=completion)
            chunks = member.backend.stream(call)
            first = await self._until_content(chunks, call)
            member.breaker.succeeded()
            handed_over = True
            return Reply(member.backend, attempt, chunks=self._rest(member, chunks, first, call, timed))
        except TimeoutError as exc:
            member.breaker.abandoned()
            timed.given_up()
            raise DeadlineExceeded("the deadline passed before an answer came; raise farthing.deadline_ms") from exc
        except DeadlineExceeded:
            member.breaker.abandoned()
            timed.given_up()
            raise
        except FarthingError as exc:
            member.breaker.failed(exc)
            raise
        except BaseException:  # cancelled, or a fault of ours
            member.breaker.abandoned()
            raise
        finally:
            if not handed_over:
                member.ended()

    async def _until_content(self, chunks: AsyncGenerator[Chunk, None], call: Call) -> list[Chunk]:
        """Read up to the first content, so that a failure before it can still be retried."""
        first: list[Chunk] = []
        try:
            async with asyncio.timeout(call.deadline.remaining_s()):
                async for chunk in chunks:
                    first.append(chunk)
                    if chunk.content:
                        break
        except BaseException:
            await chunks.aclose()
            raise
        return first

    async def _rest(
        self,
        member: _Member,
        chunks: AsyncGenerator[Chunk, None],
        first: list[Chunk],
        call: Call,
        timed: _Timed,
    ) -> AsyncGenerator[Chunk, None]:
        try:
            async with aclosing(chunks):
                for chunk in first:
                    yield chunk
                async for chunk in chunks:
                    call.deadline.check()
                    yield chunk
            timed.whole()
        except FarthingError as exc:
            self._observer.upstream_error(member.backend.name, exc)
            if isinstance(exc, DeadlineExceeded):
                timed.given_up()
            else:
                member.breaker.failed(exc)
            raise
        finally:
            member.ended()

    async def health(self) -> list[MemberHealth]:
        members = list(self._members)  # they may change meanwhile
        found = await asyncio.gather(*(m.backend.health() for m in members))
        return [
            MemberHealth(m.backend.name, h.ready and m.breaker.state != "open", h.detail, m.breaker.state)
            for m, h in zip(members, found, strict=True)
        ]

    def replace(self, backends: Sequence[Backend]) -> None:
        """Set the members. One that stays keeps its breaker; one that goes finishes what it has begun."""
        known = {m.backend: m for m in self._members}
        self._members = [known[b] if b in known else self._member(b) for b in backends]
        for member in set(known.values()) - set(self._members):
            task = asyncio.get_running_loop().create_task(self._see_off(member))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _see_off(self, member: _Member) -> None:
        await member.idle.wait()
        await member.backend.aclose()

    async def aclose(self) -> None:
        for task in list(self._leaving):
            task.cancel()
        for member in self._members:
            await member.backend.aclose()

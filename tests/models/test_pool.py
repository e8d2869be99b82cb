"""A tier's backends as one: whom it asks, how often, and how members come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from models.backend import Health, SilentObserver
from models.breaker import BreakerPolicy
from models.errors import (
    BadRequest,
    CreditExhausted,
    DeadlineExceeded,
    FarthingError,
    KeyRejected,
    Overloaded,
    StreamCut,
    Unavailable,
    UpstreamTimeout,
)
from models.fake import FakeBackend, Step
from models.pool import Pool
from models.retry import RetryPolicy
from models.types import Call, Chunk, Completion, Deadline

QUICK = RetryPolicy(attempts=3, base_s=0.01)


def fake(name: str, *script: Step) -> FakeBackend:
    return FakeBackend(name, "m", script=script or (Step(name),))


def call(stream: bool = False, deadline_s: float = 5.0) -> Call:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    return Call("chat/completions", body, "req_1", Deadline.after(deadline_s), stream=stream)


class Notes(SilentObserver):
    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []
        self.errors: list[str] = []
        self.waits: list[float] = []

    def breaker_changed(self, backend: str, state: str) -> None:
        self.states.append((backend, state))

    def upstream_error(self, backend: str, error: FarthingError) -> None:
        self.errors.append(error.code)

    def retried(self, backend: str, attempt: int, wait_s: float) -> None:
        self.waits.append(wait_s)


async def test_a_failure_is_asked_again_and_told() -> None:
    notes = Notes()
    backend = fake("a", Step(error=Unavailable("down")), Step(error=Unavailable("down")), Step("third"))
    reply = await Pool("t", [backend], QUICK, observer=notes).ask(call())
    assert reply.completion is not None and reply.attempts == 3
    assert notes.errors == ["upstream_unavailable"] * 2 and len(notes.waits) == 2


async def test_no_more_attempts_than_the_policy_says() -> None:
    backend = fake("a", Step(error=Unavailable("down")))
    with pytest.raises(Unavailable):
        await Pool("t", [backend], QUICK).ask(call())
    assert len(backend.calls) == 3


@pytest.mark.parametrize("error", [KeyRejected("key"), CreditExhausted("credit")])
async def test_a_dead_key_is_not_asked_twice_and_another_member_is(error: FarthingError) -> None:
    dead, alive = fake("a", Step(error=error)), fake("b", Step("from b"))
    pool = Pool("t", [dead, alive], QUICK)
    for _ in range(3):
        assert (await pool.ask(call())).backend is alive
    assert len(dead.calls) == 1
    alone = Pool("t", [fake("a", Step(error=error))], QUICK)
    with pytest.raises(type(error)):
        await alone.ask(call())
    with pytest.raises(Unavailable) as caught:
        await alone.ask(call())
    assert caught.value.retry_after_s == pytest.approx(300, abs=5)


async def test_a_full_member_that_asks_for_a_long_wait_is_passed_over_for_another() -> None:
    full, free = fake("a", Step(error=Overloaded("full", retry_after_s=60.0))), fake("b", Step("from b"))
    pool = Pool("t", [full, free], QUICK)
    assert (await asyncio.wait_for(pool.ask(call()), 1)).backend is free
    assert (await pool.ask(call())).backend is free
    assert len(full.calls) == 1


@pytest.mark.parametrize("error", [BadRequest("bad"), UpstreamTimeout("slow")])
async def test_what_another_member_would_say_too_is_not_asked_again(error: FarthingError) -> None:
    first, second = fake("a", Step(error=error)), fake("b")
    with pytest.raises(type(error)):
        await Pool("t", [first, second], QUICK).ask(call())
    assert second.calls == []


async def test_the_less_busy_member_is_asked() -> None:
    slow, quick = fake("a", Step(delay_s=0.5)), fake("b")
    pool = Pool("t", [slow, quick], QUICK)
    first = asyncio.create_task(pool.ask(call()))
    await asyncio.sleep(0.05)
    for _ in range(3):
        assert (await pool.ask(call())).backend is quick
    assert (await first).backend is slow


async def test_a_model_narrows_to_the_members_that_carry_it() -> None:
    one, other = FakeBackend("a", "one"), FakeBackend("b", "other")
    assert (await Pool("t", [one, other]).ask(call(), model="other")).backend is other
    with pytest.raises(Unavailable):
        await Pool("t", [one]).ask(call(), model="other")


async def test_who_is_to_be_avoided_is_so_after_another_has_failed_as_well() -> None:
    broken, down, busy = fake("broken"), fake("down", Step(error=Unavailable("down"))), fake("busy", Step(delay_s=0.2))
    pool = Pool("t", [broken, busy, down], QUICK)
    first = asyncio.create_task(pool.ask(call(), avoid=broken))  # the first of two idle ones: it is busy from here on
    await asyncio.sleep(0.05)
    assert (await pool.ask(call(), avoid=broken)).backend is busy
    await first
    assert (len(down.calls), broken.calls) == (1, [])


async def test_who_is_to_be_avoided_is_asked_where_no_other_answers() -> None:
    broken, down = fake("broken"), fake("down", Step(error=Unavailable("down")))
    assert (await Pool("t", [broken, down], QUICK).ask(call(), avoid=broken)).backend is broken
    assert (await Pool("t", [broken], QUICK).ask(call(), avoid=broken)).backend is broken


async def test_a_half_open_member_gets_one_probe_while_others_wait_elsewhere() -> None:
    notes = Notes()
    down = fake("a", Step(error=Unavailable("down")), Step("back", delay_s=0.2))
    pool = Pool("t", [down], RetryPolicy(attempts=1), BreakerPolicy(failures=1, open_s=0.05), notes)
    with pytest.raises(Unavailable):
        await pool.ask(call())
    await asyncio.sleep(0.06)
    probe = asyncio.create_task(pool.ask(call()))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await pool.ask(call())
    assert (await probe).completion is not None
    assert (await pool.ask(call())).completion is not None
    assert notes.states == [("a", "open"), ("a", "half_open"), ("a", "closed")]


class Broken(FakeBackend):
    """A backend with a fault of ours."""

    async def complete(self, call: Call) -> Completion:
        self.calls.append(call)
        raise KeyError("a fault of ours")


async def test_a_fault_of_ours_in_a_probe_does_not_lock_the_member_out_for_ever() -> None:
    backend = Broken("a", "m")
    pool = Pool("t", [backend], RetryPolicy(attempts=1), BreakerPolicy(failures=1, open_s=0.01))
    pool._members[0].breaker.failed(Unavailable("down"))
    await asyncio.sleep(0.02)
    for _ in range(2):
        with pytest.raises(KeyError):
            await pool.ask(call())
    assert len(backend.calls) == 2


async def test_the_deadline_ends_an_attempt_and_says_nothing_of_the_backend() -> None:
    backend = fake("a", Step(delay_s=5))
    pool = Pool("t", [backend], QUICK, BreakerPolicy(failures=1))
    for stream in (False, True):
        with pytest.raises(DeadlineExceeded):
            await pool.ask(call(stream, deadline_s=0.05))
    with pytest.raises(DeadlineExceeded):
        await pool.ask(call(deadline_s=0.0))
    assert len(backend.calls) == backend.ended == 2
    assert [member.breaker for member in await pool.health()] == ["closed"]


async def test_before_the_first_content_a_stream_is_retried_and_after_it_is_not() -> None:
    early = fake("a", Step(cut_after=0, error=Unavailable("down")), Step("fine words"))
    reply = await Pool("t", [early], QUICK).ask(call(stream=True))
    assert reply.chunks is not None and reply.attempts == 2
    assert [chunk.content async for chunk in reply.chunks][:2] == [False, True]
    late = fake("a", Step("one two three", cut_after=2))
    reply = await Pool("t", [late], QUICK).ask(call(stream=True))
    assert reply.chunks is not None
    with pytest.raises(StreamCut):
        async for _ in reply.chunks:
            pass
    assert len(late.calls) == 1


async def test_a_member_that_goes_finishes_its_streams_first_and_one_that_comes_is_asked() -> None:
    old, new = fake("old", Step("one two three", word_s=0.05)), fake("new")
    pool = Pool("t", [old], QUICK)
    reply = await pool.ask(call(stream=True))
    pool.replace([new])
    assert (await pool.ask(call())).backend is new
    assert old.ready
    assert reply.chunks is not None
    assert len([chunk async for chunk in reply.chunks]) > 3
    await asyncio.sleep(0.01)
    assert not old.ready, "closed once idle"
    assert pool.backends == [new] and new.ready


async def test_a_member_that_stays_keeps_its_breaker() -> None:
    down, other = fake("a", Step(error=KeyRejected("key"))), fake("b")
    pool = Pool("t", [down], QUICK)
    with pytest.raises(KeyRejected):
        await pool.ask(call())
    pool.replace([down, other])
    assert [(m.name, m.breaker, m.ready) for m in await pool.health()] == [("a", "open", False), ("b", "closed", True)]


@pytest.mark.parametrize("after", [[], ["b"], ["b", "c"]], ids=len)
async def test_members_that_change_while_they_are_asked_how_they_are_mix_nothing_up(after: list[str]) -> None:
    class Slow(FakeBackend):
        async def health(self) -> Health:
            await asyncio.sleep(0.05)
            return Health(self.ready, self.name)

    pool = Pool("t", [Slow("a", "m")])
    asking = asyncio.create_task(pool.health())
    await asyncio.sleep(0.01)
    pool.replace([Slow(name, "m") for name in after])
    assert [(m.name, m.detail) for m in await asking] == [("a", "a")]


async def test_leaving_a_stream_closes_the_backends_generator() -> None:
    class Watched(FakeBackend):
        closed = False

        async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
            try:
                async for chunk in FakeBackend.stream(self, call):
                    yield chunk
            finally:
                Watched.closed = True

    reply = await Pool("t", [Watched("a", "m")], QUICK).ask(call(stream=True))
    assert reply.chunks is not None
    await anext(reply.chunks)
    await reply.chunks.aclose()
    assert Watched.closed

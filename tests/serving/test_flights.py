"""Coalescing: one upstream call for many clients, and nobody's leaving, slowness or failure is another's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from models.errors import Overloaded, StreamCut, Unavailable
from serving.flights import Flight, Flights, Subscription

View = Flight[str, str]
Runner = Callable[[View], Awaitable[str]]
KEY = b"k"


@pytest.fixture(autouse=True)
async def no_complaints() -> AsyncIterator[list[dict[str, Any]]]:
    """No task of a test may end with an exception that nobody took."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield complaints
    assert not complaints


class Upstream:
    """A runner whose steps the test takes; counts how often it was started, and how it ended."""

    def __init__(self) -> None:
        self.started = self.cancelled = 0
        self.go = asyncio.Event()
        self.flight: View | None = None

    async def __call__(self, flight: View) -> str:
        self.started += 1
        self.flight = flight
        try:
            flight.open("meta")
            flight.push(b"a")
            flight.push(b"b")
            await self.go.wait()
            flight.push(b"c")
            return "done"
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)  # settling takes a while
            raise


async def everything(subscription: Subscription[str, str]) -> bytes:
    return b"".join([data async for data in subscription.chunks()])


async def visit(flights: Flights[str, str], run: Runner, key: bytes | None = KEY) -> tuple[bool, str, bytes, str]:
    async with flights.join(key, run) as mine:
        return mine.leader, await mine.opened(), await everything(mine), await mine.result()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_two_hundred_twins_run_once_and_all_get_everything() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    visitors = [asyncio.create_task(visit(flights, upstream)) for _ in range(200)]
    await settle()
    assert (upstream.started, len(flights)) == (1, 1)
    upstream.go.set()
    seen = await asyncio.gather(*visitors)
    assert [leader for leader, *_ in seen].count(True) == 1
    assert {answer[1:] for answer in seen} == {("meta", b"abc", "done")}
    assert (upstream.started, len(flights)) == (1, 0)


async def test_other_keys_and_no_key_are_never_shared() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    upstream.go.set()
    seen = await asyncio.gather(*(visit(flights, upstream, key) for key in (None, None, b"x", b"y")))
    assert upstream.started == 4
    assert all(leader for leader, *_ in seen)


async def test_a_late_joiner_sees_every_byte_and_the_meta() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    async with flights.join(KEY, upstream) as first:
        assert await anext(first.chunks()) == b"ab"
        async with flights.join(KEY, upstream) as late:
            assert (await late.opened(), late.leader) == ("meta", False)
            chunks = late.chunks()
            assert await anext(chunks) == b"ab"
            upstream.go.set()
            assert await anext(chunks) == b"c"


async def test_a_leaving_leader_disturbs_nobody() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    leader = asyncio.create_task(visit(flights, upstream))
    await settle()
    follower = asyncio.create_task(visit(flights, upstream))
    await settle()
    leader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leader
    assert upstream.flight is not None
    assert upstream.flight.leader_gone
    upstream.go.set()
    assert await follower == (False, "meta", b"abc", "done")
    assert upstream.cancelled == 0


async def test_when_all_have_left_the_call_is_cancelled_and_has_settled() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    visitors = [asyncio.create_task(visit(flights, upstream)) for _ in range(3)]
    await settle()
    for visitor in visitors:
        visitor.cancel()
    await asyncio.gather(*visitors, return_exceptions=True)
    await settle()
    assert (upstream.started, upstream.cancelled, len(flights)) == (1, 1, 0)


async def test_a_twin_of_an_abandoned_call_begins_anew() -> None:
    flights, upstream, twin = Flights[str, str](), Upstream(), Upstream()
    twin.go.set()
    async with flights.join(KEY, upstream) as left:
        await left.opened()
        leaving = asyncio.create_task(left.__aexit__())
        await asyncio.sleep(0)  # the call is being cancelled and has not ended
        assert len(flights) == 1
        assert await visit(flights, twin) == (True, "meta", b"abc", "done")
        await leaving
    assert (upstream.cancelled, twin.cancelled, twin.started) == (1, 0, 1)


async def test_a_call_left_before_its_first_step_leaves_nothing_behind() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    async with flights.join(KEY, upstream):
        pass
    await settle()
    assert (upstream.started, len(flights)) == (0, 0)


async def test_a_call_cancelled_from_outside_before_its_first_step_says_so() -> None:
    """As the end of an event loop does."""
    flights, upstream = Flights[str, str](), Upstream()
    before = asyncio.all_tasks()
    async with flights.join(KEY, upstream) as mine:
        (call,) = asyncio.all_tasks() - before
        call.cancel()
        with pytest.raises(Unavailable):
            await mine.result()
    assert (upstream.started, len(flights)) == (0, 0)


async def test_a_failure_before_the_opening_reaches_all_by_every_way() -> None:
    async def run(flight: View) -> str:
        await asyncio.sleep(0)
        raise Overloaded("full", retry_after_s=2)

    flights = Flights[str, str]()
    async with flights.join(KEY, run) as one, flights.join(KEY, run) as two:
        for subscription in (one, two):
            for ask in (subscription.opened, subscription.result, lambda s=subscription: everything(s)):
                with pytest.raises(Overloaded, match="full"):
                    await ask()
    await settle()
    assert len(flights) == 0


async def test_a_failure_after_the_opening_comes_where_the_stream_broke() -> None:
    async def run(flight: View) -> str:
        flight.open("meta")
        flight.push(b"half")
        await asyncio.sleep(0)
        raise StreamCut("broke")

    flights = Flights[str, str]()
    async with flights.join(KEY, run) as mine:
        assert await mine.opened() == "meta"
        chunks = mine.chunks()
        assert await anext(chunks) == b"half"
        with pytest.raises(StreamCut, match="broke"):
            await anext(chunks)
        with pytest.raises(StreamCut, match="broke"):
            await mine.result()


async def test_a_shared_failure_keeps_the_runners_trace_for_each() -> None:
    async def run(flight: View) -> str:
        raise Overloaded("full")

    depths = []
    flights = Flights[str, str]()
    async with flights.join(KEY, run) as mine:
        for _ in range(3):
            with pytest.raises(Overloaded) as caught:
                await mine.result()
            depths.append(len(caught.traceback))
    assert depths[0] == depths[1] == depths[2]


async def test_a_failed_settlement_that_nobody_is_there_to_hear_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def run(flight: View) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("the books do not close")
        return ""

    flights = Flights[str, str]()
    async with flights.join(KEY, run):
        await settle()
    assert "the books do not close" in caplog.text


async def test_the_next_request_after_a_result_never_finds_an_empty_cache() -> None:
    """A runner that stores before it returns leaves no moment in which a twin calls again and finds nothing stored."""
    stored: list[str] = []
    misses_after_store = 0

    async def run(flight: View) -> str:
        nonlocal misses_after_store
        misses_after_store += bool(stored)
        await asyncio.sleep(0)
        stored.append("answer")
        return "answer"

    async def client() -> str:
        if stored:
            return stored[0]
        async with flights.join(KEY, run) as mine:
            return await mine.result()

    flights = Flights[str, str]()
    clients = []
    for _ in range(20):
        clients.append(asyncio.create_task(client()))
        await asyncio.sleep(0)
    assert set(await asyncio.gather(*clients)) == {"answer"}
    assert (len(stored), misses_after_store) == (1, 0)


async def test_a_finished_flight_is_not_joined_though_a_reader_is_still_at_it() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    upstream.go.set()
    async with flights.join(KEY, upstream) as slow:
        await slow.result()
        assert (await visit(flights, upstream))[0] is True
        assert await everything(slow) == b"abc"
    assert upstream.started == 2


async def test_a_slow_reader_does_not_slow_the_others() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    upstream.go.set()
    async with flights.join(KEY, upstream) as slow:
        chunks = slow.chunks()
        await anext(chunks)
        async with flights.join(KEY, upstream) as quick:
            assert await asyncio.wait_for(everything(quick), 1) == b"abc"


async def test_memory_is_bounded_and_who_lags_behind_it_is_cut_off() -> None:
    go = asyncio.Event()

    async def run(flight: View) -> str:
        for _ in range(50):
            flight.push(b"x" * 10)
            await asyncio.sleep(0)
        await go.wait()
        return "done"

    flights = Flights[str, str](max_buffer_bytes=100)
    async with flights.join(KEY, run) as quick, flights.join(KEY, run) as slow:
        reading = asyncio.create_task(everything(quick))
        for _ in range(200):
            await asyncio.sleep(0)
        assert slow._flight._held_bytes <= 100
        with pytest.raises(StreamCut, match="read faster"):
            await everything(slow)
        async with flights.join(KEY, run) as later:  # its start is gone: a flight of its own
            assert later.leader
        go.set()
        assert await reading == b"x" * 500
        assert await slow.result() == "done"


async def test_a_runner_that_never_opens_is_told_apart_from_one_that_waits() -> None:
    async def run(flight: View) -> str:
        return "whole"

    flights = Flights[str, str]()
    async with flights.join(None, run) as mine:
        assert await mine.result() == "whole"
        with pytest.raises(RuntimeError, match="without opening"):
            await mine.opened()


async def test_draining_waits_then_cancels_and_says_how_many() -> None:
    flights, quick, stuck = Flights[str, str](), Upstream(), Upstream()
    quick.go.set()
    one = asyncio.create_task(visit(flights, quick, b"1"))
    two = asyncio.create_task(visit(flights, stuck, b"2"))
    await settle()
    assert await flights.drain(0.05) == 1
    assert await one == (True, "meta", b"abc", "done")
    with pytest.raises(Unavailable, match="send it again"):
        await two
    assert (len(flights), await flights.drain(0.05)) == (0, 0)


async def test_a_waiter_that_gave_up_leaves_the_flight_in_order() -> None:
    flights, upstream = Flights[str, str](), Upstream()
    async with flights.join(KEY, upstream) as mine:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mine.result(), 0.01)
        upstream.go.set()
        assert await mine.result() == "done"

"""Identical requests in flight share one upstream call: a `Flight` is that call, a `Subscription` one client's part.

The call runs in a task that `Flights` owns, so that no client's leaving ends it for the others; when the last one has
left it is cancelled. Knows neither HTTP nor caches: a runner that stores its answer before it returns leaves no gap in
which a twin would call again, because a flight can be joined until its runner has returned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar

from models.errors import StreamCut, Unavailable

log = logging.getLogger(__name__)

M = TypeVar("M")  # what is known when the first content comes: tier, model, headers
R = TypeVar("R")  # what is known at the end: usage, price, the whole answer

Runner: TypeAlias = "Callable[[Flight[M, R]], Awaitable[R]]"

MAX_BUFFER_BYTES = 4 * 1024 * 1024
_STOPPED = "the gateway stopped this request before it was answered; send it again"
_CANCEL_GRACE_S = 5.0  # for a runner to settle its accounts once it was cancelled


class Flight(Generic[M, R]):
    """The runner's view. Everything pushed is kept for those who join later, up to `max_buffer_bytes`.

    Beyond that bound nobody can join any more, what all have read is dropped, and whoever has still not read the oldest
    part loses the stream: memory is bounded, and one slow client costs the others nothing.
    """

    def __init__(self, max_buffer_bytes: int) -> None:
        self.leader_gone = False
        self._max_buffer_bytes = max_buffer_bytes
        self._meta: tuple[M] | None = None
        self._outcome: tuple[R] | None = None
        self._failure: Exception | None = None
        self._trace: TracebackType | None = None
        self._chunks: list[bytes] = []
        self._dropped = 0  # chunks no longer in the list: positions count from the very first
        self._held_bytes = 0
        self._joinable = True
        self._subscribers: set[Subscription[M, R]] = set()
        self._waiters: list[asyncio.Future[None]] = []

    def open(self, meta: M) -> None:
        """Once, before the first `push`: from here on the answer has begun."""
        self._meta = (meta,)
        self._wake()

    def push(self, data: bytes) -> None:
        self._chunks.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > self._max_buffer_bytes:
            self._shed()
        self._wake()

    @property
    def _ended(self) -> bool:
        return self._outcome is not None or self._failure is not None

    def _end(self, outcome: tuple[R] | None, failure: Exception | None) -> None:
        self._outcome, self._failure, self._joinable = outcome, failure, False
        self._trace = failure.__traceback__ if failure is not None else None
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _read(self, position: int) -> bytes:
        """Everything from `position` on, as one piece."""
        at = position - self._dropped
        return self._chunks[at] if at == len(self._chunks) - 1 else b"".join(self._chunks[at:])

    @property
    def _written(self) -> int:
        return self._dropped + len(self._chunks)

    def _shed(self) -> None:
        self._joinable = False
        self._drop_read()
        while self._held_bytes > self._max_buffer_bytes:
            for reader in self._readers():
                if reader._position == self._dropped:
                    reader._too_slow = True
            self._drop_read()

    def _readers(self) -> list[Subscription[M, R]]:
        return [reader for reader in self._subscribers if not reader._too_slow]

    def _drop_read(self) -> None:
        oldest = min((reader._position for reader in self._readers()), default=self._written)
        gone = self._chunks[: oldest - self._dropped]
        del self._chunks[: len(gone)]
        self._dropped += len(gone)
        self._held_bytes -= sum(map(len, gone))


class Subscription(Generic[M, R]):
    """One client's part in a flight: an async context manager, which joins on entry and leaves on exit."""

    def __init__(self, flights: Flights[M, R], key: bytes | None, run: Runner[M, R]) -> None:
        self.leader = False  # once entered: whether this client's request is the one that is run
        self._flights, self._key, self._run = flights, key, run
        self._position = 0
        self._too_slow = False

    async def __aenter__(self) -> Self:
        self._flight, self.leader = self._flights._board(self._key, self._run)
        self._flight._subscribers.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flight._subscribers.discard(self)
        if self.leader:
            self._flight.leader_gone = True
        if not self._flight._subscribers:
            await self._flights._abandon(self._flight)

    async def opened(self) -> M:
        """What the runner opened the flight with. Raises its failure when it failed before."""
        flight = self._flight
        while flight._meta is None:
            self._raise_failure()
            if flight._ended:
                raise RuntimeError("the runner returned without opening its flight")
            await flight._change()
        return flight._meta[0]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Everything pushed, from the first byte on, at times several pushes as one; then the failure, if any."""
        flight = self._flight
        while True:
            if self._too_slow:
                raise StreamCut("the answer came faster than it was read, and its start is no longer held; read faster")
            if self._position < flight._written:
                data = flight._read(self._position)
                self._position = flight._written
                yield data
            elif flight._ended:
                self._raise_failure()
                return
            else:
                await flight._change()

    async def result(self) -> R:
        """What the runner returned, or its failure raised."""
        while self._flight._outcome is None:
            self._raise_failure()
            await self._flight._change()
        return self._flight._outcome[0]

    def _raise_failure(self) -> None:
        failure = self._flight._failure
        if failure is not None:
            # One exception is raised in many tasks: each from the runner's trace, not from its neighbour's.
            raise failure.with_traceback(self._flight._trace)


class Flights(Generic[M, R]):
    """All flights of one event loop."""

    def __init__(self, max_buffer_bytes: int = MAX_BUFFER_BYTES) -> None:
        self._max_buffer_bytes = max_buffer_bytes
        self._by_key: dict[bytes, Flight[M, R]] = {}
        self._tasks: dict[Flight[M, R], asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def join(self, key: bytes | None, run: Runner[M, R]) -> Subscription[M, R]:
        """The flight of this key, begun with `run` if there is none to join. None is a key that is never shared."""
        return Subscription(self, key, run)

    async def drain(self, timeout_s: float) -> int:
        """Wait for the flights under way, then cancel the rest; returns how many those were."""
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(list(self._tasks.values()), timeout=timeout_s)
        await self._cancel(late)
        return len(late)

    def _board(self, key: bytes | None, run: Runner[M, R]) -> tuple[Flight[M, R], bool]:
        known = None if key is None else self._by_key.get(key)
        if known is not None and known._joinable:
            return known, False
        flight: Flight[M, R] = Flight(self._max_buffer_bytes)
        if key is not None:
            self._by_key[key] = flight
        self._tasks[flight] = task = asyncio.get_running_loop().create_task(self._fly(flight, run))
        task.add_done_callback(lambda _: self._landed(flight, key))
        return flight, True

    async def _fly(self, flight: Flight[M, R], run: Runner[M, R]) -> None:
        try:
            flight._end((await run(flight),), None)
        except asyncio.CancelledError:
            flight._end(None, Unavailable(_STOPPED))
        except Exception as error:  # the edge of a task: the failure is each subscriber's to handle
            if not flight._subscribers:
                log.error("a flight failed after its last client had left", exc_info=error)
            flight._end(None, error)

    def _landed(self, flight: Flight[M, R], key: bytes | None) -> None:
        if not flight._ended:  # cancelled before its first step
            flight._end(None, Unavailable(_STOPPED))
        del self._tasks[flight]
        if key is not None and self._by_key.get(key) is flight:
            del self._by_key[key]

    async def _abandon(self, flight: Flight[M, R]) -> None:
        """Nobody is left: take it off the board at once, so that a twin begins anew, and end its call."""
        flight._joinable = False
        if not flight._ended:
            await self._cancel({self._tasks[flight]})

    async def _cancel(self, tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_GRACE_S)

"""The semantic cache: near entries for a vector, for a verifier to judge, and their life from put to deletion.

One thread owns what is in memory (`shelf.py`) and searches; another writes the file (`entry_store.py`), in batches, so
that no search waits for a disk. A deletion returns when it is durable. Knows neither how vectors are made nor what
makes a candidate right.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import StartError
from router.cache.entries import Candidate, Entry, EntryId, Scope, Standing
from router.cache.entry_store import Batch, Bodies, EntryStore, Which
from router.cache.index import VectorIndex
from router.cache.recent import Recent
from router.cache.shelf import Bounds, Shelf

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_ON_THEIR_WAY: Final = 4_096  # answers that a deletion by id may come before
_WRITE_DELAY_S: Final = 0.05  # what comes within it is one transaction


class SemanticCache:
    """Made by `await SemanticCache.open(...)`, ended by `await cache.close()`; all else belongs to that event loop."""

    def __init__(self, shelf: Shelf, index: VectorIndex, store: EntryStore, bodies: Bodies, threads: _Threads) -> None:
        self._shelf, self._index, self._store, self._bodies, self._threads = shelf, index, store, bodies, threads
        self._epoch = 0
        self._dead: Recent[EntryId, None] = Recent(MOST_ON_THEIR_WAY)
        self._order = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writes_failed = 0

    @classmethod
    async def open(
        cls,
        path: Path,
        index: VectorIndex,
        tiers: Sequence[str],
        bounds: Bounds | None = None,
        now: Callable[[], float] = time.time,
    ) -> Self:
        """index: empty, of the encoder in use. tiers: ascending in strength.

        Raises EncoderMismatch when the file holds another encoder's vectors, StartError when it cannot be opened.
        """
        shelf = Shelf(index, {tier: rank for rank, tier in enumerate(tiers)}, bounds or Bounds(), now)
        threads = _Threads()
        try:
            store = await threads.write(EntryStore, path, index.encoder_sha256, index.dim)
            rows = await threads.write(lambda: list(store.load(now())))
            await threads.own(shelf.load, rows)
            cache = cls(shelf, index, store, await threads.own(Bodies, path), threads)
            cache._epoch = await threads.write(store.epoch)
        except (sqlite3.Error, OSError) as error:
            threads.end()
            raise StartError(
                f"cannot open the semantic cache {path}: {error}; name a file of its own, in a folder that can be "
                "written"
            ) from error
        except StartError:
            threads.end()
            raise
        await cache.flush()
        return cache

    def epoch(self) -> int:
        """To be read before the answer is asked for and given back with it to `put`."""
        return self._epoch

    async def lookup(self, vector: NDArray[np.float32], scope: Scope, wanted_tier: str, k: int = 8) -> list[Candidate]:
        """Nearest first. Raises KeyError for a tier that is not configured."""
        return await self._threads.own(self._shelf.lookup, vector, scope, wanted_tier, k)

    async def get(self, entry_id: EntryId, scope: Scope | None = None) -> Entry | None:
        """A live entry, whole. scope: whose request it is to answer, checked once more; None for an administrator."""
        return await self._threads.own(self._get, entry_id, scope)

    async def standing(self, entry_id: EntryId) -> Standing | None:
        return await self._threads.own(self._shelf.standing, entry_id)

    async def put(self, entry: Entry, vector: NDArray[np.float32], epoch: int) -> bool:
        """Found from now on, soon in the file. False: something was deleted since `epoch`, or `Shelf.put` says so."""
        if epoch != self._epoch or entry.id in self._dead:
            return False
        stored = await self._threads.own(self._shelf.put, entry, vector)
        self._flush_later()
        return stored

    async def note_hit(self, entry_id: EntryId, saved_nusd: int) -> None:
        await self._threads.own(self._shelf.note_hit, entry_id, saved_nusd)
        self._flush_later()

    async def observe(self, entry_id: EntryId, similarity: float, right: bool) -> Standing | None:
        standing = await self._threads.own(self._shelf.observe, entry_id, similarity, right)
        self._flush_later()
        return standing

    async def quarantine(self, entry_id: EntryId) -> bool:
        """Not served any more, also after a crash once this has returned."""
        found = await self._threads.own(self._shelf.quarantine, entry_id)
        await self.flush()
        return found

    async def delete_entries(self, *ids: EntryId) -> int:
        """Also those that have yet to arrive. Other answers on their way are none the worse for it: whoever complains
        all the time keeps nobody's answers from being remembered."""
        for entry_id in ids:
            self._dead[entry_id] = None
        return await self._to_its_end(self._drop_and_delete(Which(ids=ids))) if ids else 0

    async def delete_tenant(self, tenant: str) -> int:
        """What this tenant wrote, also into shared namespaces."""
        return await self._delete(Which(tenant=tenant))

    async def delete_namespace(self, namespace: str) -> int:
        """A declared one: what has none belongs to its tenant, and nothing happens for an empty name."""
        if not namespace:
            return 0
        return await self._delete(Which(namespace=namespace))

    async def delete_all(self) -> int:
        return await self._delete(Which(everything=True))

    async def stats(self) -> dict[str, int]:
        """Counts since the start, and sizes; `writes_failed` counts batches."""
        return {**await self._threads.own(self._shelf.stats), "writes_failed": self._writes_failed}

    async def flush(self) -> None:
        """Returns when everything so far is in the file, or has been dropped because it could not be written."""
        await self._to_its_end(self._flush())

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._tasks)
        await self.flush()
        await self._threads.own(self._bodies.close)
        await self._threads.own(self._index.close)
        await self._threads.write(self._store.close)
        self._threads.end()

    async def _delete(self, which: Which) -> int:
        self._epoch += 1  # at once: an answer on its way must not arrive after the deletion
        return await self._to_its_end(self._drop_and_delete(which))

    async def _drop_and_delete(self, which: Which) -> int:
        def drop_and_take() -> tuple[int, Batch]:
            return self._shelf.drop(which), self._shelf.take()

        async with self._order:
            gone, batch = await self._threads.own(drop_and_take)
            deleted = self._threads.write(self._store.delete, which, batch)
        try:
            await deleted
        except (sqlite3.Error, OSError):
            await self._failed(batch)
            raise
        await self._threads.own(self._shelf.written, batch)
        return gone

    async def _flush(self) -> None:
        async with self._order:  # batches reach the writer in the order in which they were taken
            batch = await self._threads.own(self._shelf.take)
            written = self._threads.write(self._store.write, batch) if batch else None
        if written is None:
            return
        try:
            await written
        except (sqlite3.Error, OSError) as error:
            log.warning("%d entries could not be written to the semantic cache: %s", len(batch.puts), error)
            await self._failed(batch)
        else:
            await self._threads.own(self._shelf.written, batch)

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """In a task of its own: a caller that is cancelled leaves nothing half-done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _failed(self, batch: Batch) -> None:
        self._writes_failed += 1
        await self._threads.own(self._shelf.failed, batch)

    def _get(self, entry_id: EntryId, scope: Scope | None) -> Entry | None:
        found = self._shelf.entry(entry_id, scope)
        if found is None:
            return None
        entry, body = found
        body = self._bodies.get(entry_id) if body is None else body
        return None if body is None else replace(entry, body=body)

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_DELAY_S, self._flush_now)

    def _flush_now(self) -> None:
        self._timer = None
        task = asyncio.get_running_loop().create_task(self._flush())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Threads:
    """The owner of memory and index, and the writer of the file: each does one thing after the other."""

    def __init__(self) -> None:
        self._owner = ThreadPoolExecutor(1, "semantic-cache")
        self._writer = ThreadPoolExecutor(1, "semantic-cache-file")

    def own(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._owner, work, *args)

    def write(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._writer, work, *args)

    def end(self) -> None:
        self._owner.shutdown(wait=False)
        self._writer.shutdown(wait=False)

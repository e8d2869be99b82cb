"""The exact cache of one gateway replica: what was asked before, word for word, is answered from here.

Two levels: a dict in this process (microseconds, no thread) over the node's shared file (`store.Store`), which one
thread of ours reads and writes. A fault of the file is a miss and a log line, never a failed request; only a deletion
that could not be made raises. Knows neither requests nor prices: it is given keys and entries.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from models.errors import StartError
from serving.cache.store import Entry, Store

__all__ = ["CacheLimits", "Entry", "ExactCache"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_WRITE_DELAY_S = 0.05  # answers that come within it are one transaction
_READ_PATIENCE_S = 0.25  # the thread may be held up by a slow disk or another replica's write: then it is a miss
_MAX_USED = 1000  # keys whose use is not yet in the file; then it is written without waiting for an answer to store
_MAX_WAITING_BYTES = 32 * 1024 * 1024  # answers not yet in the file; beyond it they are kept in memory only


@dataclass(frozen=True, slots=True)
class CacheLimits:
    max_bytes: int = 1024 * 1024 * 1024  # of the shared file's content; the file itself is a little larger
    memory_bytes: int = 64 * 1024 * 1024  # of each replica's own level
    max_entry_bytes: int = 1024 * 1024
    ttl_s: float = 24 * 3600.0  # from the answer's creation, whatever its use


class ExactCache:
    """Made by `await ExactCache.open(...)`, ended by `await cache.close()`; all else belongs to that event loop."""

    def __init__(self, store: Store, thread: ThreadPoolExecutor, limits: CacheLimits, now: Callable[[], float]) -> None:
        self._store, self._thread, self._limits, self._now = store, thread, limits, now
        # With the epoch each was known to be wanted in.
        self._recent: OrderedDict[bytes, tuple[Entry, int]] = OrderedDict()
        self._recent_bytes = 0
        self._seen_epoch = store.epoch()
        self._waiting: list[tuple[Entry, int]] = []
        self._waiting_bytes = 0
        self._used: set[bytes] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._counts: Counter[str] = Counter()

    @classmethod
    async def open(cls, path: Path, limits: CacheLimits | None = None, now: Callable[[], float] = time.time) -> Self:
        limits = limits or CacheLimits()
        thread = ThreadPoolExecutor(1, "exact-cache")
        loop = asyncio.get_running_loop()
        try:
            store = await loop.run_in_executor(thread, Store, path, limits.max_bytes, limits.ttl_s, now)
        except (sqlite3.Error, OSError) as error:
            thread.shutdown(wait=False)
            raise StartError(
                f"cannot open the exact cache {path}: {error}; name a file of its own, in a folder that can be written"
            ) from error
        return cls(store, thread, limits, now)

    def epoch(self, key: bytes) -> int:
        """To be read before the answer is asked for and given back with it to `put`."""
        return self._store.epoch_of(key)

    async def began(self, key: bytes) -> int:
        """`epoch`, for a request that looks nothing up."""
        return self.epoch(key)

    async def look_up(self, key: bytes) -> tuple[Entry | None, int]:
        """What there is, and the epoch before it was looked for."""
        epoch = self.epoch(key)
        return await self.get(key), epoch

    async def get(self, key: bytes) -> Entry | None:
        """Suspends only when this process does not hold the answer itself."""
        epoch = self._notice_deletions(key)
        if (entry := self._recall(key)) is not None:
            self._counts["memory_hits"] += 1
            return entry
        entry = await self._read(key)
        # What was read while it may have been deleted may be what was deleted.
        if entry is None or self._notice_deletions(key) != epoch:
            self._counts["misses"] += 1
            return None
        self._counts["file_hits"] += 1
        entry, _ = self._recent.get(key, (entry, epoch))  # put meanwhile: newer than what was read
        self._keep(entry, epoch)
        self._note_use(key)
        return entry

    def put(self, entry: Entry, epoch: int) -> None:
        """Held from now on in this process, soon in the file; not at all if it may have been deleted since `epoch`."""
        if entry.size > self._limits.max_entry_bytes:
            self._counts["too_large"] += 1
            return
        if self._notice_deletions(entry.key) != epoch:
            self._counts["refused"] += 1
            return
        self._keep(entry, epoch)
        if self._waiting_bytes + entry.size > _MAX_WAITING_BYTES:
            self._counts["not_written"] += 1
            return
        self._waiting.append((entry, epoch))
        self._waiting_bytes += entry.size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_DELAY_S, self._write_soon)

    async def delete_entry(self, key: bytes) -> int:
        """An answer to the same question that is on its way is not kept; others are."""
        return await self._delete(self._store.delete_entry, key)

    async def delete_tenant(self, tenant: str) -> int:
        return await self._delete(self._store.delete_tenant, tenant)

    async def delete_all(self) -> int:
        return await self._delete(self._store.delete_all)

    async def _delete(self, work: Callable[..., int], *args: object) -> int:
        """What waits for the file goes there first: it is deleted, too, and is to be counted."""
        self._write_soon()
        return await self._in_thread(work, *args)

    async def stats(self) -> dict[str, int]:
        """Counts of this replica since it started, and the sizes of both levels. `writes_failed` counts batches."""
        await self.flush()
        entries, size = await self._in_thread(self._store.size)
        sizes = {
            "entries": entries,
            "bytes": size,
            "memory_entries": len(self._recent),
            "memory_bytes": self._recent_bytes,
        }
        return {**self._counts, **sizes}

    async def flush(self) -> None:
        """Return when everything put so far is in the file, or has been counted as not written."""
        await asyncio.shield(self._write_soon())

    async def close(self) -> None:
        await self.flush()
        await self._in_thread(self._store.close)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _read(self, key: bytes) -> Entry | None:
        if not self._store.perhaps(key):
            return None
        try:
            async with asyncio.timeout(_READ_PATIENCE_S):
                return await self._in_thread(self._store.get, key)
        except TimeoutError:
            self._counts["reads_too_slow"] += 1
            return None
        except (sqlite3.Error, OSError) as error:
            self._counts["reads_failed"] += 1
            log.warning("the exact cache could not be read, taken as a miss: %s", error)
            return None

    def _notice_deletions(self, key: bytes) -> int:
        """The key's epoch now; where it has moved, what memory holds of it cannot be trusted to be still wanted."""
        epoch = self._store.epoch()
        if epoch != self._seen_epoch:
            self._seen_epoch = epoch
            self._recent.clear()
            self._recent_bytes = 0
        now = self._store.epoch_of(key)
        if self._recent.get(key, (None, now))[1] != now:
            self._forget(key)
        return now

    def _recall(self, key: bytes) -> Entry | None:
        if key not in self._recent:
            return None
        entry, _ = self._recent[key]
        if entry.created_at_s <= self._now() - self._limits.ttl_s:
            self._forget(key)
            return None
        self._recent.move_to_end(key)
        self._note_use(key)
        return entry

    def _keep(self, entry: Entry, epoch: int) -> None:
        self._forget(entry.key)
        self._recent[entry.key] = (entry, epoch)
        self._recent_bytes += entry.size
        while self._recent_bytes > self._limits.memory_bytes:
            self._forget(next(iter(self._recent)))

    def _forget(self, key: bytes) -> None:
        if (held := self._recent.pop(key, None)) is not None:
            self._recent_bytes -= held[0].size

    def _note_use(self, key: bytes) -> None:
        self._used.add(key)
        if len(self._used) >= _MAX_USED:
            self._write_soon()

    def _write_soon(self) -> asyncio.Future[Counter[str]]:
        """Hand what is waiting to the thread, behind what it was handed before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        puts, used = self._waiting, self._used
        self._waiting, self._used = [], set()
        written = asyncio.get_running_loop().run_in_executor(self._thread, self._write, puts, used)

        def account(done: asyncio.Future[Counter[str]]) -> None:
            self._waiting_bytes -= sum(entry.size for entry, _ in puts)
            self._counts.update(done.result())

        written.add_done_callback(account)
        return written

    def _write(self, puts: list[tuple[Entry, int]], used: set[bytes]) -> Counter[str]:
        if not puts and not used:
            return Counter()
        try:
            refused = self._store.write(puts, used)
        except (sqlite3.Error, OSError) as error:
            log.warning("%d answers could not be written to the exact cache: %s", len(puts), error)
            return Counter(writes_failed=1)
        return Counter(stored=len(puts) - refused, refused=refused)

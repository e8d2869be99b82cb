"""Works at random on a semantic cache until it is killed. Run by test_crash.py: crash_worker.py FILE SEED

Says on stdout, unbuffered: `D id` for each entry whose deletion has returned, `N count` now and then for operations
done, `V what` for a promise broken while it ran.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np

from models.types import Usage
from router.cache.entries import Entry, EntryId, Scope, new_id
from router.cache.faiss_index import FaissIndex
from router.cache.semantic import SemanticCache
from router.cache.shelf import Bounds

DIM = 16
TIERS = ("small", "frontier")
SCOPES = [Scope(tenant, part) for tenant in ("a", "b", "c") for part in (b"1", b"2")]
BOUNDS = Bounds(max_entries=2000, max_bytes=3_000_000)
TASKS = 32
CELLS_FROM_ROWS = 200  # so that cells are made and emptied all the time


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


class Worker:
    def __init__(self, cache: SemanticCache, seed: int) -> None:
        self._cache = cache
        self._random = random.Random(seed)
        self._vectors = np.random.default_rng(seed).standard_normal((4096, DIM)).astype(np.float32)
        self._vectors /= np.linalg.norm(self._vectors, axis=1, keepdims=True)
        self._known: dict[EntryId, str] = {}
        self._recent: deque[EntryId] = deque(maxlen=500)
        self._deleted_s: dict[EntryId, float] = {}
        self._done = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._forever() for _ in range(TASKS)))

    async def _forever(self) -> None:
        actions = [self._lookup, self._put, self._hit, self._delete_one, self._delete_tenant]
        while True:
            (action,) = self._random.choices(actions, [50, 40, 9, 1, 0.02])
            await action()
            self._done += 1
            if self._done % 500 == 0:
                say(f"N {self._done}")

    async def _lookup(self) -> None:
        scope, began_s = self._random.choice(SCOPES), time.time()
        for near in await self._cache.lookup(self._vectors[self._random.randrange(4096)], scope, "small"):
            if self._deleted_s.get(near.entry.id, began_s) < began_s:
                say("V a deleted entry was found")
            if near.entry.scope != scope:
                say("V an entry of another scope was found")
            if near.entry.expires_at_s <= began_s:
                say("V an expired entry was found")

    async def _put(self) -> None:
        number, scope = self._random.randrange(4096), self._random.choice(SCOPES)
        ttl_s = self._random.choice([0.3, 2.0, 1000.0])
        cost, body = self._random.randrange(100_000), self._random.randbytes(self._random.randrange(2000))
        text, tier = f"text {number}", self._random.choice(TIERS)
        entry = Entry(new_id(), scope, "auto", tier, "m", text, body, Usage(1, 0, 0, 1), cost, time.time(), ttl_s)
        if await self._cache.put(entry, self._vectors[number], self._cache.epoch()):
            self._known[entry.id] = scope.tenant
            self._recent.append(entry.id)

    async def _hit(self) -> None:
        if self._recent:
            entry_id = self._random.choice(self._recent)
            await self._cache.note_hit(entry_id, 5)
            await self._cache.observe(entry_id, 0.9, self._random.random() < 0.9)

    async def _delete_one(self) -> None:
        if self._recent:
            entry_id = self._random.choice(self._recent)
            await self._cache.delete_entries(entry_id)
            self._acknowledge([entry_id])

    async def _delete_tenant(self) -> None:
        tenant = self._random.choice("abc")
        doomed = [i for i, owner in self._known.items() if owner == tenant]
        await self._cache.delete_tenant(tenant)
        self._acknowledge(doomed)

    def _acknowledge(self, ids: list[EntryId]) -> None:
        for entry_id in ids:
            self._deleted_s[entry_id] = time.time()
            self._known.pop(entry_id, None)
            say(f"D {entry_id}")


async def main(path: Path, seed: int) -> None:
    index = FaissIndex("encoder", DIM, CELLS_FROM_ROWS)
    await Worker(await SemanticCache.open(path, index, TIERS, BOUNDS), seed).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

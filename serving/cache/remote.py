"""The exact cache as a gateway on another node has it: every look-up asks the head, nothing is held here.

So a deletion that has returned holds here too, without anybody being told of it. What fails or takes too long is a
miss.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from serving.cache.exact import Entry

UNKNOWN = -1
PATIENCE_S = 0.25  # as ExactCache has for its file

log = logging.getLogger(__name__)


class AnswerCache(Protocol):
    """What a gateway needs of a cache; ExactCache and RemoteCache are one."""

    async def look_up(self, key: bytes) -> tuple[Entry | None, int]: ...

    async def began(self, key: bytes) -> int: ...

    def put(self, entry: Entry, epoch: int) -> None: ...

    async def close(self) -> None: ...


class Shelf(Protocol):
    """serving.desk.Head, as far as the cache is concerned."""

    async def recall(self, key: bytes) -> tuple[Entry | None, int]: ...

    async def keep(self, entry: Entry, epoch: int) -> None: ...


class RemoteCache:
    """Belongs to one event loop."""

    def __init__(self, shelf: Shelf, max_entry_bytes: int) -> None:
        self._shelf, self._max_entry_bytes = shelf, max_entry_bytes
        self._puts: set[asyncio.Task[None]] = set()
        self._away = False

    async def began(self, key: bytes) -> int:
        return (await self.look_up(key))[1]

    async def look_up(self, key: bytes) -> tuple[Entry | None, int]:
        """As the head's. Where that did not answer, what the model answers will be refused."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await self._shelf.recall(key)
        except Exception as exc:  # noqa: BLE001 - the edge to another machine: a fault of the cache fails no request
            if not self._away:
                log.warning("the exact cache at the head does not answer (%s): all are misses", type(exc).__name__)
            self._away = True
            return None, UNKNOWN
        self._away = False
        return found

    def put(self, entry: Entry, epoch: int) -> None:
        if entry.size > self._max_entry_bytes or epoch == UNKNOWN:
            return
        task = asyncio.create_task(self._sent(entry, epoch))
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._puts)

    async def _sent(self, entry: Entry, epoch: int) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._shelf.keep(entry, epoch)
        except Exception as exc:  # noqa: BLE001 - as above: the answer is not stored, that is all
            log.info("an answer was not stored at the head: %s", type(exc).__name__)

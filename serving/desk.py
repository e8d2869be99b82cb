"""What gateways on other nodes have at the head: their journals taken in, papers, keys, the exact cache, kept texts.

Runs inside the ledger's process, beside the bookkeeper, whose thread takes in the journals. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from models.errors import Unavailable
from serving import papers as papers_
from serving.cache.exact import Entry, ExactCache
from serving.config import Config
from serving.ledger import texts
from serving.ledger.grants import Lease, LeaseRequest
from serving.ledger.inbox import Piece, Taken
from serving.ledger.keys import KeySnapshot, loader
from serving.ledger.store import Store, epoch_ms
from serving.ledger.texts import Kept
from serving.papers import Papers
from serving.runtime import Runtime

GATHER_EVERY_S = 0.5
CLOCK_OFF_S = 60
NOTHING_TAKEN = Taken({}, frozenset())

log = logging.getLogger(__name__)
TakeIn = Callable[[Sequence[Piece], Mapping[str, int]], Awaitable[Taken]]


@dataclass(frozen=True, slots=True)
class Parcel:
    """From a node, some times a second. `papers` is the digest of those it has; `cuts` is as `Inbox.take` says."""

    node: str
    papers: str = ""
    pieces: tuple[Piece, ...] = ()
    cuts: Mapping[str, int] = field(default_factory=dict)
    undone: float = 0.0  # while draining: requests under way, and bytes of journals not yet sent


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer. `papers` is None where the node has them."""

    taken: Taken
    draining: bool
    papers: Papers | None


class Head(Protocol):
    """The head as a gateway on another node reaches it. Every call may fail in any way: it crosses the network."""

    async def lease(self, request: LeaseRequest) -> Lease: ...

    async def ship(self, parcel: Parcel) -> Receipt: ...

    async def keys(self, version: int) -> KeySnapshot | None: ...

    async def recall(self, key: bytes) -> tuple[Entry | None, int]: ...

    async def keep(self, entry: Entry, epoch: int) -> None: ...

    async def keep_texts(self, kept: Sequence[Kept]) -> int: ...


class Desk:
    """One, in the ledger's process. `lease` is the bookkeeper's."""

    def __init__(self, config: Config, runtime: Runtime, store: Store, cache: ExactCache | None, take: TakeIn) -> None:
        self._config, self._runtime, self._store, self._cache, self._take = config, runtime, store, cache, take
        self._load = loader(store)
        self._papers: dict[str, bytes] = {}
        self._digest, self._gathered_s, self._trouble = "", float("-inf"), ""
        self._undone: dict[str, float] = {}
        self._reporting = asyncio.Lock()
        self._clock_off: set[str] = set()

    async def ship(self, parcel: Parcel) -> Receipt:
        """Raises Unavailable for a node that has no papers yet while there are none."""
        taken = await self._take(parcel.pieces, parcel.cuts) if parcel.pieces else NOTHING_TAKEN
        self._compare_clocks(parcel)
        if time.monotonic() - self._gathered_s > GATHER_EVERY_S:
            await asyncio.to_thread(self._gather)
        if not self._papers and not parcel.papers:
            raise Unavailable(f"papers cannot be gathered: {self._trouble}")
        draining = self._runtime.draining_file.exists()
        if draining:
            async with self._reporting:
                await asyncio.to_thread(self._report, parcel)
        return Receipt(taken, draining, self._papers if self._papers and parcel.papers != self._digest else None)

    async def keys(self, version: int) -> KeySnapshot | None:
        return await self._load(version)

    async def recall(self, key: bytes) -> tuple[Entry | None, int]:
        return (None, 0) if self._cache is None else await self._cache.look_up(key)

    async def keep(self, entry: Entry, epoch: int) -> None:
        if self._cache is not None:
            self._cache.put(entry, epoch)

    async def keep_texts(self, kept: Sequence[Kept]) -> int:
        return await asyncio.to_thread(texts.put, self._store, kept)

    async def close(self) -> None:
        if self._cache is not None:
            await self._cache.close()

    def _gather(self) -> None:
        """While a file is just being replaced those gathered before stay."""
        self._gathered_s = time.monotonic()
        try:
            found = papers_.gather(self._config, self._runtime)
        except (OSError, ValueError) as exc:
            if str(exc) != self._trouble:
                log.warning("papers for other nodes stay as they were: %s", exc)
            self._trouble = str(exc)
            return
        self._papers, self._digest, self._trouble = found, papers_.digest(found), ""

    def _compare_clocks(self, parcel: Parcel) -> None:
        """The newest cut was made when the parcel was. Said once, and again when it was right in between."""
        if not parcel.cuts:
            return
        off_s = (max(parcel.cuts.values()) - epoch_ms()) / 1000
        if abs(off_s) < CLOCK_OFF_S:
            self._clock_off.discard(parcel.node)
        elif parcel.node not in self._clock_off:
            self._clock_off.add(parcel.node)
            log.warning("node %s: its clock is %+.0f s off, and dates rows by it: budgets suffer", parcel.node, off_s)

    def _report(self, parcel: Parcel) -> None:
        """For who waits for the end: what each node has still to do."""
        self._undone[parcel.node] = parcel.undone
        draft = self._runtime.nodes_file.with_suffix(".draft")
        draft.write_text(json.dumps(self._undone), encoding="utf-8")
        draft.replace(self._runtime.nodes_file)

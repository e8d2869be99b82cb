"""Between a node's gateways and the head: brings the journals there, and what the head has for the node back.

One process of a node carries at a time, whoever holds the lock; when it dies another takes over, and sends what it
finds: a journal whose owner is gone is sent to its end and then deleted, once the head has said that it is safe there.
Files that the head has not taken stay on this node's disk, whatever happens to anybody. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from pathlib import Path

from aiohttp import web

from models.errors import StartError
from serving import papers
from serving.admin_port import open_admin_port
from serving.desk import Head, Parcel, Receipt
from serving.ledger.inbox import NAME, Piece
from serving.ledger.journal import SUFFIX, looked_at, owner_of
from serving.ledger.store import epoch_ms
from serving.runtime import Runtime
from serving.telemetry import forget_dead, in_flight

SHIP_EVERY_S = 0.2
AGAIN_S = 1.0  # after a failure, and to the next look at another process's lock
PATIENCE_S = 5.0
START_PATIENCE_S = 30.0
FAREWELL_S = 2.0
TEND_EVERY_S = 5.0
MAX_PARCEL_BYTES = 1 << 20
LOOK_BACK_BYTES = 1 << 16
LOCK = "courier.lock"

log = logging.getLogger(__name__)


class Courier:
    """`start`, then `keep` as a task, then `close` when this process's own journal has been released."""

    def __init__(self, runtime: Runtime, head: Head) -> None:
        self._runtime, self._head = runtime, head
        self._digest = ""
        self._there: dict[str, int] = {}
        self._unsent_bytes = 0
        self._lock: int | None = None
        self._admin: web.AppRunner | None = None
        self._draining = False
        self._cut_off = False

    async def start(self) -> None:
        """The node's folder is ready when this returns. Raises StartError when the head does not answer."""
        until_s = time.monotonic() + START_PATIENCE_S
        while not self._digest:
            try:
                await self._exchange(Parcel(self._runtime.node))
            except Exception as exc:  # the edge to another machine
                if time.monotonic() > until_s:
                    raise StartError(f"the head gives this node nothing to serve with: {type(exc).__name__}") from exc
                await asyncio.sleep(AGAIN_S)

    async def keep(self) -> None:
        tended_s = float("-inf")
        while True:
            pause_s = AGAIN_S
            if self._lock is None:
                await self._try_to_carry()
            if self._lock is not None and await self._carry():
                pause_s = SHIP_EVERY_S
            if time.monotonic() - tended_s > TEND_EVERY_S:
                await asyncio.to_thread(forget_dead, self._runtime.metrics)
                tended_s = time.monotonic()
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Send the rest, if the head is still there; else it stays for the next start."""
        if self._lock is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                while await self._carry() and self._unsent_bytes:
                    pass
        if self._admin is not None:
            await self._admin.cleanup()
        if self._draining:
            papers.forget(self._runtime)
        os.close(self._lock)

    async def _try_to_carry(self) -> None:
        fd = os.open(self._runtime.state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return
        self._lock = fd
        if self._runtime.admin_port is not None:
            try:
                self._admin = await open_admin_port(self._runtime.metrics, self._runtime.admin_port)
            except StartError as exc:  # the node serves all the same
                log.error("no metrics of this node: %s", exc.message)

    async def _carry(self) -> bool:
        """One exchange. False, and said once, while the head cannot be reached."""
        try:
            parcel = await asyncio.to_thread(self._collect)
            await self._exchange(parcel)
        except Exception as exc:  # noqa: BLE001 - the edge to another machine, and to disks here and there
            if not self._cut_off:
                log.warning("the head takes no journals just now (%s); they wait here", type(exc).__name__)
            self._cut_off = True
            return False
        self._cut_off = False
        return True

    async def _exchange(self, parcel: Parcel) -> None:
        async with asyncio.timeout(PATIENCE_S):
            receipt = await self._head.ship(parcel)
        await asyncio.to_thread(self._apply, parcel, receipt)

    def _collect(self) -> Parcel:
        cut_ms, room = epoch_ms(), MAX_PARCEL_BYTES
        pieces: list[Piece] = []
        cuts: dict[str, int] = {}
        behind: set[str] = set()
        self._unsent_bytes = 0
        for path in sorted(self._runtime.journal.glob(f"*{SUFFIX}")):
            if not NAME.fullmatch(path.name):  # somebody's copy: the head would refuse the whole parcel for it
                continue
            piece, left = _piece(path, self._there.get(path.name, 0), room)
            pieces.append(piece)
            room -= len(piece.data)
            self._unsent_bytes += left
            cuts[owner_of(path)] = cut_ms
            if left:
                behind.add(owner_of(path))
        undone = 1.0
        if self._draining:  # it is all metrics of the node added up: not five times a second for nobody
            undone = in_flight(self._runtime.metrics) + self._unsent_bytes + sum(len(p.data) for p in pieces)
        cuts = {owner: at_ms for owner, at_ms in cuts.items() if owner not in behind}
        return Parcel(self._runtime.node, self._digest, tuple(pieces), cuts, undone)

    def _apply(self, parcel: Parcel, receipt: Receipt) -> None:
        """Papers last: on a full disk they cannot be placed until journals have gone."""
        self._there.update(receipt.taken.sizes)
        for piece in parcel.pieces:
            if piece.name in receipt.taken.done:
                _delete(self._runtime.journal / piece.name, piece.end)
                self._there.pop(piece.name, None)
        if receipt.draining and not self._draining:
            self._runtime.draining_file.touch()
        self._draining = receipt.draining
        if receipt.papers is not None:
            papers.place(receipt.papers, self._runtime)
            self._digest = papers.digest(receipt.papers)


def _piece(path: Path, there: int, room: int) -> tuple[Piece, int]:
    """What the head has not, and how many bytes more there are. Of a living owner whole lines only: half a line may be
    cut off again."""
    with looked_at(path) as (fd, orphaned):
        size = os.fstat(fd).st_size
        offset = min(there, size)
        end = size if orphaned else _end_of_lines(fd, offset, size)
        data = os.pread(fd, min(room, end - offset), offset) if room > 0 else b""
        left = end - offset - len(data)
        return Piece(path.name, offset, data, over=orphaned and not left), left


def _end_of_lines(fd: int, start: int, size: int) -> int:
    """Behind the last whole line; `start` when none has ended since."""
    while size > start:
        begin = max(start, size - LOOK_BACK_BYTES)
        if whole := os.pread(fd, size - begin, begin).rfind(b"\n") + 1:
            return begin + whole
        size = begin
    return start


def _delete(path: Path, size: int) -> None:
    """Unless it is not what was sent: a file seen between its creation and its owner's lock looks like a dead one's."""
    with looked_at(path) as (fd, orphaned):
        if orphaned and os.fstat(fd).st_size == size:
            path.unlink()

"""Journals of gateways on other nodes, taken in piece by piece at the head, where the one writer reads them.

A copy is a prefix of the journal on its node, byte for byte, in the writer's directory and under the same name. Like a
journal it is held under `flock` for as long as more may come; released, it has no owner, and the writer takes it for
what it is: all there is to say about its requests. Pieces that come twice, late or after a restart change nothing: the
answer says how much is here, and the sender goes on from there.

Knows neither how pieces travel nor what is in them. Blocks: give it the writer's thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadRequest
from serving.ledger.grants import HOLD_S
from serving.ledger.journal import SUFFIX, owner_of

AWAY = "node-"  # how the owner of a journal on another node is named
NAME = re.compile(rf"{AWAY}[A-Za-z0-9_.-]+{re.escape(SUFFIX)}")
_REMEMBERED = 1_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one journal has from `offset` on. `over`: its owner is dead, and nothing follows."""

    name: str
    offset: int
    data: bytes = b""
    over: bool = False

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Taken:
    """How many bytes of each journal are here, and which are here for good: their files may go."""

    sizes: Mapping[str, int]
    done: frozenset[str]


@dataclass(slots=True, eq=False)
class _Copy:
    fd: int
    size: int
    heard_s: float

    def append(self, data: bytes) -> None:
        """All of it or nothing, so that the copy stays a prefix."""
        if not data:
            return
        try:
            if os.write(self.fd, data) < len(data):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(self.fd, self.size)
            raise
        self.size += len(data)


class Inbox:
    """Make it after the directory's writer and before that one's first pass: copies left by an earlier process are held
    again, until their nodes have said what became of them or nothing was heard from those for `HOLD_S`."""

    def __init__(self, directory: Path, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock_s = directory, clock_s
        self._copies: dict[str, _Copy] = {}
        self._done: dict[str, int] = {}  # journals that have ended, and how long they were
        self._cuts: dict[str, int] = {}
        self._read_ms: dict[str, int] = {}
        for path in directory.glob(f"{AWAY}*{SUFFIX}"):
            self._copies[path.name] = self._opened(path.name)

    def take(self, pieces: Sequence[Piece], cuts: Mapping[str, int]) -> Taken:
        """`cuts`: owner to the time, by its node's clock, before which all its lines are in these pieces or were in
        earlier ones. Raises OSError when the disk refuses, BadRequest for a name that is none."""
        now_s = self._clock_s()
        for name in self._copies.keys() & {piece.name for piece in pieces}:
            self._copies[name].heard_s = now_s  # of all, whichever of them the disk refuses
        done = frozenset(piece.name for piece in pieces if self._put(piece))
        sizes = {piece.name: copy.size for piece in pieces if (copy := self._copies.get(piece.name)) is not None}
        short = {owner_of(Path(p.name)) for p in pieces if sizes.get(p.name, p.end) < p.end}  # it came too early
        self._cuts.update({o: cut_ms for o, cut_ms in cuts.items() if o.startswith(AWAY) and o not in short})
        return Taken(sizes, done)

    def passed(self) -> None:
        """The writer has read all that was taken so far."""
        self._read_ms.update(self._cuts)
        living = {owner_of(Path(name)) for name in self._copies}
        for known in (self._cuts, self._read_ms):
            for owner in known.keys() - living:
                del known[owner]

    def read_ms(self, owner: str) -> int:
        """Lines that this owner wrote before, by its node's clock, are in the ledger."""
        return self._read_ms.get(owner, 0)

    def release_silent(self) -> None:
        """Give up waiting for nodes that are gone. What they left open counts as lost unless they come back."""
        for name in [n for n, copy in self._copies.items() if self._clock_s() - copy.heard_s > HOLD_S]:
            log.warning("journal %s: its node was silent for %d s; what it left open counts as lost", name, HOLD_S)
            os.close(self._copies.pop(name).fd)

    def close(self) -> None:
        """Release all. What a node has still to say it says to the next inbox, from the start: rows are known by id."""
        for copy in self._copies.values():
            os.close(copy.fd)
        self._copies.clear()

    def _put(self, piece: Piece) -> bool:
        """Returns whether the journal has ended and is safe here."""
        if not NAME.fullmatch(piece.name):
            raise BadRequest(f"'{piece.name}' is not the name of a node's journal")
        if piece.name not in self._copies:
            # The answer was lost on the way. One that goes on was seen between its creation and its owner's lock.
            if piece.over and piece.end <= self._done.get(piece.name, -1):
                return True
            self._copies[piece.name] = self._opened(piece.name)
        copy = self._copies[piece.name]
        if piece.offset <= copy.size:
            copy.append(piece.data[copy.size - piece.offset :])
        if not piece.over or copy.size < piece.end:
            return False
        os.fsync(copy.fd)  # the original goes after this
        os.close(self._copies.pop(piece.name).fd)
        self._done[piece.name] = copy.size
        if len(self._done) > _REMEMBERED:
            del self._done[next(iter(self._done))]
        return True

    def _opened(self, name: str) -> _Copy:
        fd = os.open(self._directory / name, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _Copy(fd, os.fstat(fd).st_size, self._clock_s())

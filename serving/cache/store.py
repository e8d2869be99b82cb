"""The shared level of the exact cache: one SQLite file (WAL) for all processes of a node. Synchronous, for one thread.

Guarantees: a deletion that has returned holds in every process; an answer whose request began before a deletion is not
stored after it; a kill at any moment leaves a valid file; a file that cannot be read is set aside and a new one begun.
Used directly by the command line, and through `exact.ExactCache` by a gateway replica. Knows no event loop.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import orjson

from models.sqlite_file import SqliteFile, is_damage, transaction
from models.types import Usage
from serving.cache.epoch import Epoch
from serving.cache.seen import Seen

# "FThc", in the file's header: another program's database is left alone.
_APPLICATION_ID: Final = 0x46546863
_FORMAT: Final = 1  # raise it with any change of the schema or of `Usage`
_ROW_BYTES: Final = 256  # what a row takes besides its body: key, names, two index entries

_SCHEMA = """
CREATE TABLE entry (
  key BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, tier TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL,
  body BLOB NOT NULL, usage BLOB NOT NULL, created_at_s REAL NOT NULL, cost_nusd INTEGER NOT NULL,
  size INTEGER NOT NULL, last_used_s REAL NOT NULL
);
CREATE INDEX entry_by_use ON entry (last_used_s, size);
CREATE INDEX entry_by_age ON entry (created_at_s);
CREATE INDEX entry_by_tenant ON entry (tenant);
CREATE TABLE meta (epoch INTEGER NOT NULL, bytes INTEGER NOT NULL, entries INTEGER NOT NULL);
INSERT INTO meta VALUES (0, 0, 0);
CREATE TRIGGER entry_in AFTER INSERT ON entry BEGIN
  UPDATE meta SET bytes = bytes + NEW.size, entries = entries + 1; END;
CREATE TRIGGER entry_out AFTER DELETE ON entry BEGIN
  UPDATE meta SET bytes = bytes - OLD.size, entries = entries - 1; END;
"""
_SELECT = "SELECT key, tenant, tier, model, endpoint, body, usage, created_at_s, cost_nusd FROM entry"
_PRAGMAS: Final = (
    "synchronous = NORMAL",
    "recursive_triggers = ON",  # so that what REPLACE removes is counted as removed
)
_INSERT = "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer: the completion's JSON, who gave it, and what it cost the first time."""

    key: bytes
    tenant: str
    tier: str
    model: str
    endpoint: str
    body: bytes
    usage: Usage
    created_at_s: float  # UTC epoch; the age counts from here and no hit makes it younger
    cost_nusd: int

    @property
    def size(self) -> int:
        return len(self.body) + _ROW_BYTES


def _row(entry: Entry, now_s: float) -> tuple[Any, ...]:
    usage = orjson.dumps(asdict(entry.usage))
    names = (entry.key, entry.tenant, entry.tier, entry.model, entry.endpoint)
    return (*names, entry.body, usage, entry.created_at_s, entry.cost_nusd, entry.size, now_s)


def _entry(row: tuple[Any, ...]) -> Entry:
    key, tenant, tier, model, endpoint, body, usage, created_at_s, cost_nusd = row
    return Entry(key, tenant, tier, model, endpoint, body, Usage(**orjson.loads(usage)), created_at_s, cost_nusd)


class Store:
    """One connection, to be used by the thread that made it. A method that raises `sqlite3.Error` changed nothing."""

    def __init__(self, path: Path, max_bytes: int, ttl_s: float, now: Callable[[], float] = time.time) -> None:
        self._path, self._max_bytes, self._ttl_s, self._now = path, max_bytes, ttl_s, now
        self._file = SqliteFile(path, "the exact cache", _APPLICATION_ID, _FORMAT, _SCHEMA, _PRAGMAS)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._epoch = Epoch(path.with_name(path.name + ".epoch"))
        self._seen = Seen(path.with_name(path.name + ".seen"))
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        self._epoch.close()
        self._seen.close()

    def epoch(self) -> int:
        """Of deletions of many; a memory read, for any thread."""
        return self._epoch.read()

    def epoch_of(self, key: bytes) -> int:
        """Of all deletions that may have met this key; two memory reads, for any thread."""
        return self._epoch.of(key)

    def perhaps(self, key: bytes) -> bool:
        """Whether `get` may find it; three memory reads, for any thread. What is just being stored may not be seen."""
        return self._seen.perhaps(key)

    def get(self, key: bytes) -> Entry | None:
        def read() -> Any:
            oldest_s = self._now() - self._ttl_s
            return self._db.execute(f"{_SELECT} WHERE key = ? AND created_at_s > ?", (key, oldest_s)).fetchone()

        row = self._on_sound_file(read)
        return None if row is None else _entry(row)

    def write(self, puts: Sequence[tuple[Entry, int]], used: Iterable[bytes] = ()) -> int:
        """Store entries, each with the epoch of its key its request began in, and note which keys were used.

        Returns how many stayed out because they may have been deleted since they began.
        """

        def work() -> tuple[int, int]:
            now_s = self._now()
            with transaction(self._db):
                epoch = self._stored_epoch()
                untold = epoch - self._epoch.read()  # of a deleter that was killed before it could say so
                kept = [entry for entry, began in puts if began == self._epoch.of(entry.key) + untold]
                fresh = {entry.key: entry for entry in kept}.values()
                self._db.executemany("UPDATE entry SET last_used_s = ? WHERE key = ?", [(now_s, key) for key in used])
                self._db.executemany(_INSERT, [_row(entry, now_s) for entry in fresh])
                self._db.execute("DELETE FROM entry WHERE created_at_s <= ?", (now_s - self._ttl_s,))
                self._evict()
            return len(puts) - len(kept), epoch

        refused, epoch = self._on_sound_file(work)
        for entry, _ in puts:
            self._seen.note(entry.key)
        if epoch > self._epoch.read():
            with self._epoch.locked():
                self._epoch.raise_to(epoch)
        return refused

    def delete_entry(self, key: bytes) -> int:
        """Answers to other questions, kept or on their way, are none the worse for it: whoever complains all the time
        keeps nobody's answers from being remembered."""
        with self._epoch.locked():
            self._epoch.raise_slot(key)  # before: no write that comes after the deletion brings it back
            gone = self._on_sound_file(lambda: self._db.execute("DELETE FROM entry WHERE key = ?", (key,)).rowcount)
            self._epoch.raise_slot(key)  # after: what was read in between is forgotten
            self._erase()
        return gone

    def delete_tenant(self, tenant: str) -> int:
        return self._delete("tenant = ?", tenant)

    def delete_all(self) -> int:
        return self._delete("TRUE")

    def size(self) -> tuple[int, int]:
        """Entries and bytes, expired ones that no write has swept yet included."""

        def read() -> tuple[int, int]:
            entries, size = self._db.execute("SELECT entries, bytes FROM meta").fetchone()
            return entries, size

        return self._on_sound_file(read)

    def _delete(self, where: str, *values: object) -> int:
        def work() -> tuple[int, int]:
            with transaction(self._db):
                gone = self._db.execute(f"DELETE FROM entry WHERE {where}", values).rowcount
                self._db.execute("UPDATE meta SET epoch = epoch + 1")
                return gone, self._stored_epoch()

        with self._epoch.locked():
            gone, epoch = self._on_sound_file(work)
            # After the commit: whoever sees the new epoch, and forgets what it holds in memory, finds the rows gone.
            self._epoch.raise_to(epoch)
            self._erase()
        return gone

    def _erase(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log still holds the deleted texts
        self._file.aside.unlink(missing_ok=True)  # and so may a file that nobody could read

    def _stored_epoch(self) -> int:
        return int(self._db.execute("SELECT epoch FROM meta").fetchone()[0])

    def _evict(self) -> None:
        """Down to nine tenths, longest unused first, so that a full cache does not evict on every write."""
        (size,) = self._db.execute("SELECT bytes FROM meta").fetchone()
        if size <= self._max_bytes:
            return
        doomed = []
        for key, freed in self._db.execute("SELECT key, size FROM entry ORDER BY last_used_s"):
            doomed.append((key,))
            size -= freed
            if size <= self._max_bytes * 0.9:
                break
        self._db.executemany("DELETE FROM entry WHERE key = ?", doomed)

    def _on_sound_file(self, work: Callable[[], T]) -> T:
        """Work on the file that is at the path now, and on a new one when that turns out to be damaged."""
        if not self._is_current():  # set aside by another process: what is written to it would escape deletions
            self._db.close()
            self._open()
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            with self._epoch.locked():
                self._db.close()
                if self._is_current():
                    self._file.set_aside(str(error))
                self._open()
            return work()

    def _is_current(self) -> bool:
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        with self._epoch.locked():
            self._inode = 0  # until it is open: a failure here is tried again by the next call
            self._db = self._file.connect_or_begin_anew()
            self._inode = self._path.stat().st_ino
            self._seen.refill(key for (key,) in self._db.execute("SELECT key FROM entry"))
            # The greater of the two counts: either file may have been begun anew beside the other.
            self._db.execute("UPDATE meta SET epoch = max(epoch, ?)", (self._epoch.read(),))
            self._epoch.raise_to(self._stored_epoch())

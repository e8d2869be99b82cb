"""The cache's file: entries, their vectors and standing in one SQLite database (WAL). Synchronous, for one thread.

Guarantees: a deletion that has returned survives a crash of the process and of the machine, and what it deleted is
overwritten in the file and its log; a kill at any moment leaves a valid file; one process at a time has it open, since
another's memory would know nothing of this one's deletions; vectors of another encoder are refused; a file that cannot
be read is set aside and a new one begun. Knows no index and no event loop.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from models.errors import StartError
from models.sqlite_file import BUSY_TIMEOUT_S, SqliteFile, transaction
from models.types import Usage
from router.cache.entries import Entry, EntryId, Scope, Standing
from router.cache.index import require_same_encoder

_APPLICATION_ID: Final = 0x46546873  # "FThs", in the file's header: another program's database is left alone
_FORMAT: Final = 1  # raise it with any change of the schema or of `Usage`
OWNER_PATIENCE_S: Final = 10.0

# The body is last: what is read without it does not read its pages.
_SCHEMA: Final = """
CREATE TABLE entry (
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, namespace TEXT NOT NULL, partition BLOB NOT NULL,
  requested_model TEXT NOT NULL, tier TEXT NOT NULL, model TEXT NOT NULL, usage BLOB NOT NULL,
  cost_nusd INTEGER NOT NULL, created_at_s REAL NOT NULL, ttl_s REAL NOT NULL,
  hits INTEGER NOT NULL, saved_nusd INTEGER NOT NULL, quarantined INTEGER NOT NULL, observations BLOB NOT NULL,
  body_bytes INTEGER NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL, body BLOB NOT NULL
);
CREATE INDEX entry_by_tenant ON entry (tenant);
CREATE INDEX entry_by_namespace ON entry (namespace);
CREATE INDEX entry_by_expiry ON entry (created_at_s + ttl_s);
CREATE TABLE meta (epoch INTEGER NOT NULL, encoder_sha256 TEXT NOT NULL, dim INTEGER NOT NULL);
"""
_PRAGMAS: Final = ("synchronous = FULL",)  # a deletion must survive a power cut; puts share a commit anyway
_COLUMNS: Final = (
    "id, tenant, namespace, partition, requested_model, tier, model, usage, cost_nusd, created_at_s, ttl_s, "
    "hits, saved_nusd, quarantined, observations, body_bytes, text, vector"
)
_INSERT: Final = f"INSERT OR REPLACE INTO entry ({_COLUMNS}, body) VALUES ({', '.join('?' * 19)})"
_UPDATE: Final = "UPDATE entry SET hits = ?, saved_nusd = ?, quarantined = ?, observations = ? WHERE id = ?"

Vector = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Loaded:
    """An entry as read at the start, without its body."""

    entry: Entry
    standing: Standing
    vector: Vector
    body_bytes: int


@dataclass(slots=True)
class Batch:
    """What one transaction writes. Later lines hold over earlier ones: an id in `gone` is not in `puts`."""

    puts: dict[EntryId, tuple[Entry, Vector]] = field(default_factory=dict)
    standings: dict[EntryId, Standing] = field(default_factory=dict)
    gone: set[EntryId] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.puts or self.standings or self.gone)


@dataclass(frozen=True, slots=True)
class Which:
    """What to delete; exactly one is set, or `everything`. `ids`: fewer than SQLite takes variables, 32,766."""

    ids: Sequence[EntryId] = ()
    tenant: str | None = None
    namespace: str | None = None
    everything: bool = False


class EntryStore:
    """One connection, to be used by the thread that made it. A method that raises `sqlite3.Error` changed nothing."""

    def __init__(self, path: Path, encoder_sha256: str, dim: int, patience_s: float = OWNER_PATIENCE_S) -> None:
        self._encoder_sha256, self._dim = encoder_sha256, dim
        self._file = SqliteFile(
            path, "the semantic cache", _APPLICATION_ID, _FORMAT, _SCHEMA, _PRAGMAS, self._check_encoder
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _sole_owner(path.with_name(path.name + ".lock"), patience_s)
        try:
            self._db = self._file.connect_or_begin_anew()
        except BaseException:
            os.close(self._lock)
            raise

    @classmethod
    def existing(cls, path: Path) -> Self | None:
        """A file that is there, whatever encoder it is of; None without one. For a command line, not to add to it."""
        if not path.is_file():
            return None
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            encoder_sha256, dim = db.execute("SELECT encoder_sha256, dim FROM meta").fetchone()
        finally:
            db.close()
        return cls(path, encoder_sha256, dim)

    def size(self) -> tuple[int, int]:
        """Entries, and bytes of their answers."""
        entries, size = self._db.execute("SELECT count(*), coalesce(sum(body_bytes), 0) FROM entry").fetchone()
        return int(entries), int(size)

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    def epoch(self) -> int:
        """How many deletions there have been."""
        return int(self._db.execute("SELECT epoch FROM meta").fetchone()[0])

    def load(self, now_s: float) -> Iterator[Loaded]:
        """What has not expired; the rest is deleted first."""
        with transaction(self._db):
            self._db.execute("DELETE FROM entry WHERE created_at_s + ttl_s <= ?", (now_s,))
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM entry"):
            yield _loaded(row)

    def write(self, batch: Batch) -> None:
        with transaction(self._db):
            self._write(batch)

    def delete(self, which: Which, before: Batch) -> int:
        """Writes `before` first, in the same transaction. Durable when it returns; the number of entries deleted."""
        where, values = _where(which)
        with transaction(self._db):
            self._write(before)
            gone = self._db.execute(f"DELETE FROM entry WHERE {where}", values).rowcount
            self._db.execute("UPDATE meta SET epoch = epoch + 1")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log still holds the deleted texts
        self._file.aside.unlink(missing_ok=True)  # and so may a file that nobody could read
        return gone

    def _write(self, batch: Batch) -> None:
        self._db.executemany("DELETE FROM entry WHERE id = ?", [(i,) for i in batch.gone])
        self._db.executemany(_INSERT, [_row(entry, vector) for entry, vector in batch.puts.values()])
        self._db.executemany(_UPDATE, [(*_standing_row(s), i) for i, s in batch.standings.items()])

    def _check_encoder(self, db: sqlite3.Connection) -> None:
        row = db.execute("SELECT encoder_sha256 FROM meta").fetchone()
        if row is None:
            db.execute("INSERT INTO meta VALUES (0, ?, ?)", (self._encoder_sha256, self._dim))
        else:
            require_same_encoder(f"the semantic cache {self._file.path}", row[0], self._encoder_sha256)


class Bodies:
    """Answers by id, through a connection of the reading thread's own: a write in another thread holds nobody up."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self._db.execute("PRAGMA query_only = ON")

    def get(self, entry_id: EntryId) -> bytes | None:
        row = self._db.execute("SELECT body FROM entry WHERE id = ?", (entry_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def close(self) -> None:
        self._db.close()


def _sole_owner(path: Path, patience_s: float) -> int:
    """A lock that the kernel drops with its holder. A replica that is being replaced may take a moment to go."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                os.close(descriptor)
                raise StartError(f"another process has the semantic cache of {path} open; one router owns it") from None
        time.sleep(0.05)


def _where(which: Which) -> tuple[str, Sequence[object]]:
    if which.everything:
        return "TRUE", ()
    if which.tenant is not None:
        return "tenant = ?", (which.tenant,)
    if which.namespace is not None:
        return "namespace = ?", (which.namespace,)
    return f"id IN ({', '.join('?' * len(which.ids))})", which.ids


def _row(entry: Entry, vector: Vector) -> tuple[Any, ...]:
    scope, usage = entry.scope, orjson.dumps(asdict(entry.usage))
    names = (entry.id, scope.tenant, scope.namespace, scope.partition, entry.requested_model, entry.tier, entry.model)
    numbers = (usage, entry.cost_nusd, entry.created_at_s, entry.ttl_s)
    content = (len(entry.body), entry.text, vector.tobytes(), entry.body)
    return (*names, *numbers, *_standing_row(Standing()), *content)


def _standing_row(standing: Standing) -> tuple[Any, ...]:
    observations = orjson.dumps(standing.observations)
    return standing.hits, standing.saved_nusd, int(standing.quarantined), observations


def _loaded(row: tuple[Any, ...]) -> Loaded:
    (entry_id, tenant, namespace, partition, requested, tier, model, usage, cost_nusd, created_at_s, ttl_s) = row[:11]
    hits, saved_nusd, quarantined, observations, body_bytes, text, vector = row[11:]
    scope = Scope(tenant, partition, namespace)
    entry = Entry(
        EntryId(entry_id), scope, requested, tier, model, text, b"", Usage(**orjson.loads(usage)), cost_nusd,
        created_at_s, ttl_s,
    )  # fmt: skip
    seen = [(float(similarity), bool(right)) for similarity, right in orjson.loads(observations)]
    standing = Standing(hits, saved_nusd, bool(quarantined), seen)
    return Loaded(entry, standing, np.frombuffer(vector, np.float16), body_bytes)

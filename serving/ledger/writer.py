"""The writer: takes the journals of all replicas into the ledger, each request once.

Rows and the offset behind them are committed together, so it may be killed at any point and goes on where it was. A row
is visible in `requests` once its request has ended; until then `open_requests` remembers it across restarts. Knows
nothing of what rows mean.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, delete, select

from models.errors import StartError
from serving.ledger.journal import SUFFIX, BadLine, looked_at, owner_of, parse
from serving.ledger.row import Row
from serving.ledger.schema import journals, open_requests
from serving.ledger.store import Spend, Store, epoch_ms

_CHUNK_BYTES = 4 << 20
LOCK_FILE = "writer.lock"
REJECTED_FILE = "rejected.lines"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class IngestStats:
    """What one pass did. Every line written before `started_ms` has been taken; `ended` are owners now known dead."""

    started_ms: int
    rows: int = 0
    lost: int = 0
    corrupt: int = 0
    lag_bytes: int = 0
    spend: list[Spend] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Chunk:
    """Whole lines of a journal: requests closed, requests still open, and the offset behind the last line."""

    end: int
    closed: dict[str, Row] = field(default_factory=dict)
    opened: dict[str, Row] = field(default_factory=dict)
    rejected: list[bytes] = field(default_factory=list)

    def take(self, line: bytes, where: str) -> None:
        try:
            kind, row = parse(line)
        except BadLine as exc:
            log.error("%s: a line was skipped and kept in %s: %s", where, REJECTED_FILE, exc)
            self.rejected.append(line)
            return
        if kind == "close":
            self.closed.setdefault(row.request_id, row)
            self.opened.pop(row.request_id, None)
        elif row.request_id not in self.closed:
            self.opened[row.request_id] = row


class Writer:
    """The only writer of a journal directory: a second one is refused. Blocks, so give it a thread of its own."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._place = f"{socket.gethostname()}:{directory.resolve()}/"  # a database may serve several nodes
        self._lock = _only_one(directory / LOCK_FILE)
        self._unreported = IngestStats(0)
        with store.read() as connection:
            self._offsets: dict[str, int] = dict(connection.execute(select(journals)).all())
        self._open = self._open_ids()
        self._bury_missing()

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ingest_once(self) -> IngestStats:
        """Take what is new in all journals. When the database fails it raises, and the next call takes up there."""
        stats = self._unreported
        stats.started_ms, stats.lag_bytes = epoch_ms(), 0
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            with looked_at(path) as (fd, orphaned):
                self._consume(path, fd, stats)
                if orphaned:
                    self._check_end(path, fd, stats)
                    self._bury(self._place + path.name, stats)
                    path.unlink()
                    stats.ended.append(owner_of(path))
        self._unreported = IngestStats(0)
        living = self.owners()
        stats.ended = [o for o in dict.fromkeys(stats.ended) if o not in living]
        return stats

    def owners(self) -> set[str]:
        """The processes with a journal here; after a pass these are the living."""
        return {owner_of(path) for path in self._directory.glob(f"*{SUFFIX}")}

    def retain(self, days: int) -> int:
        """Delete rows older than so many days; returns how many."""
        return self._store.retain(days)

    def delete_tenant(self, tenant: str) -> int:
        """Delete all of a tenant, what still stands in journals included; returns how many rows."""
        self.ingest_once()
        deleted = self._store.delete_tenant(tenant)
        self._open = self._open_ids()
        return deleted

    def _open_ids(self) -> set[str]:
        with self._store.read() as connection:
            return set(connection.execute(select(open_requests.c.request_id)).scalars())

    def _consume(self, path: Path, fd: int, stats: IngestStats) -> None:
        """Read to where the file ends now. A file shorter than what was read of it is another file: start again."""
        size, name = os.fstat(fd).st_size, self._place + path.name
        if self._offsets.get(name, 0) > size:
            log.warning("journal %s is shorter than what was read of it: reading it again", path.name)
            self._offsets[name] = 0
        while (offset := self._offsets.get(name, 0)) < size:
            chunk = _read(path.name, fd, offset, size)
            if chunk.end == offset:
                break
            self._commit(name, chunk, stats)
        stats.lag_bytes += size - self._offsets.get(name, 0)

    def _commit(self, name: str, chunk: _Chunk, stats: IngestStats) -> None:
        self._keep_rejected(chunk.rejected)
        with self._store.write() as connection:
            taken = self._store.put(connection, chunk.closed.values())
            _forget_open(connection, sorted(chunk.closed.keys() & self._open))
            if chunk.opened:
                rows = [
                    {"request_id": i, "journal": name, "tenant": r.tenant, "row": r.to_json()}
                    for i, r in chunk.opened.items()
                ]
                self._store.upsert(connection, open_requests, rows)
            self._store.upsert(connection, journals, [{"name": name, "offset_bytes": chunk.end}])
        self._open -= chunk.closed.keys()
        self._open |= chunk.opened.keys()
        self._offsets[name] = chunk.end
        stats.corrupt += len(chunk.rejected)
        _count(stats, taken, chunk.closed)

    def _check_end(self, path: Path, fd: int, stats: IngestStats) -> None:
        """What a dead owner left unfinished was never a line."""
        if torn := os.pread(fd, _CHUNK_BYTES, self._offsets.get(self._place + path.name, 0)):
            log.error("journal %s ends in half a line of %d bytes: its owner died writing it", path.name, len(torn))
            self._keep_rejected([torn])
            stats.corrupt += 1

    def _bury(self, name: str, stats: IngestStats) -> None:
        """What a dead owner left open is lost. Its file goes after this: killed in between, the next writer reads it
        again, which changes nothing."""
        with self._store.write() as connection:
            orphans = connection.execute(select(open_requests.c.row).where(open_requests.c.journal == name)).scalars()
            lost = {row.request_id: row for row in map(_lost, orphans)}
            taken = self._store.put(connection, lost.values())
            connection.execute(delete(open_requests).where(open_requests.c.journal == name))
            connection.execute(delete(journals).where(journals.c.name == name))
        self._open -= lost.keys()
        self._offsets.pop(name, None)
        stats.lost += len(taken)
        _count(stats, taken, lost)

    def _bury_missing(self) -> None:
        """A database restored from a backup may remember journals that have been consumed and deleted since."""
        with self._store.read() as connection:
            names = set(connection.execute(select(open_requests.c.journal).distinct()).scalars()) | self._offsets.keys()
        for name in names:
            if name.startswith(self._place) and not (self._directory / name.removeprefix(self._place)).exists():
                log.warning("journal %s is gone: what it left open is lost", name)
                self._bury(name, self._unreported)

    def _keep_rejected(self, lines: list[bytes]) -> None:
        if lines:
            with (self._directory / REJECTED_FILE).open("ab") as file:
                file.writelines(line.rstrip(b"\n") + b"\n" for line in lines)


def _read(name: str, fd: int, offset: int, size: int) -> _Chunk:
    """Whole lines from `offset`, about a chunk of them; a line longer than that is read in one piece."""
    want = _CHUNK_BYTES
    while True:
        data = os.pread(fd, min(want, size - offset), offset)
        whole = data.rfind(b"\n") + 1
        if whole or want >= size - offset:
            break
        want *= 2
    chunk = _Chunk(offset + whole)
    for line in data[:whole].splitlines():
        chunk.take(line, name)
    return chunk


def _lost(row: dict[str, Any]) -> Row:
    lost = Row.from_json(row)
    lost.status, lost.error_code = "lost", "replica_lost"
    return lost


def _forget_open(connection: Connection, ids: list[str]) -> None:
    for start in range(0, len(ids), 1_000):  # databases bound the variables of a statement
        chunk = ids[start : start + 1_000]
        connection.execute(delete(open_requests).where(open_requests.c.request_id.in_(chunk)))


def _count(stats: IngestStats, taken: set[str], rows: dict[str, Row]) -> None:
    stats.rows += len(taken)
    for row in (rows[request_id] for request_id in taken):
        if row.billed_nusd:
            stats.spend.append(Spend(row.at_ms, row.tenant, row.key_id, row.billed_nusd))


def _only_one(path: Path) -> int:
    """Hold the directory for this process. Raises StartError naming who holds it already."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StartError(
            f"the journals in {path.parent} already have a writer ({holder}): is the service running twice? "
            "Stop the other one, or give this one another state_dir"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"pid {os.getpid()}\n".encode())
    return fd

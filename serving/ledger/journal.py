"""The journal: what a gateway replica writes down before and after every request, as JSON lines.

Owns the file format, for writer and reader. Knows neither the database nor who is served.

A file belongs to one process, which holds it under `flock` for as long as it may still write: whoever gets the lock
knows that the owner is gone, however it went. A request's `open` and `close` are always in the same file, so a file
that has no owner and has been read to its end says all there is to say about its requests. A line is one `write` to an
`O_APPEND` descriptor: it survives the process's death, and a power cut takes what `keep_synced` had not synced yet.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import logging
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from models.errors import FarthingError
from serving.ledger.row import Row

SUFFIX = ".jsonl"
ROTATE_BYTES = 64 << 20
_LINE: TypeAdapter[dict[Literal["open", "close"], Row]] = TypeAdapter(dict[Literal["open", "close"], Row])

log = logging.getLogger(__name__)


class JournalUnavailable(FarthingError):
    """The disk does not take a line: nothing may be asked of a model that could not be accounted for."""

    http_status = 503
    code = "journal_unavailable"
    retryable = True


class BadLine(ValueError):
    """A line that no replica can have meant."""


@dataclass(slots=True, eq=False)
class _Segment:
    """One file. `size` counts whole lines; `pending` the requests opened here and not closed yet."""

    path: Path
    fd: int
    size: int = 0
    pending: int = 0
    torn: bool = False
    dirty: bool = False

    def append(self, line: bytes) -> None:
        """Write all of a line or, on a full disk, nothing: readers take whole lines only, so a part can be cut off."""
        if self.torn:
            self._mend()
        written = os.write(self.fd, line)
        if written < len(line):
            self.torn = True
            self._mend()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written
        self.dirty = True

    def _mend(self) -> None:
        os.ftruncate(self.fd, self.size)
        self.torn = False


class Journal:
    """The journal of this process. To be used from one thread, the event loop's: a call costs a few microseconds."""

    def __init__(self, directory: Path, replica: str, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.owner = f"{re.sub(r'[^A-Za-z0-9_-]', '_', replica)}.{os.getpid()}.{time.time_ns():x}"
        self._directory = directory
        self._rotate_bytes = rotate_bytes
        self._numbers = itertools.count(1)
        self._opened: dict[str, _Segment] = {}
        self._late: deque[tuple[_Segment, bytes]] = deque()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._segment = self._begin()

    def open(self, row: Row) -> None:
        """Note that a request begins. Raises JournalUnavailable when the disk refuses: don't call a model then."""
        self._opened[row.request_id] = self._write_now(b"open", row)
        self._opened[row.request_id].pending += 1

    def close(self, row: Row) -> None:
        """Note how an opened request ended. Never raises for the disk: the line waits here until it can be written."""
        segment = self._opened.pop(row.request_id)
        self._late.append((segment, _line(b"close", row)))
        self._write_late()

    def record(self, row: Row) -> None:
        """Note a request that began and ended at once (a hit, a refusal). Raises JournalUnavailable as `open` does."""
        self._write_now(b"close", row)

    async def keep_synced(self, every_s: float = 1.0) -> None:
        """Bring lines to the disk itself once in `every_s`, in a thread. Run it as a task beside the journal."""
        while True:
            await asyncio.sleep(every_s)
            self._write_late()
            if descriptors := self._dirty_descriptors():
                await asyncio.to_thread(_sync, descriptors)

    def stop(self) -> None:
        """Release the files. What is still open will be closed as `lost` by the writer."""
        self._write_late()
        for segment in {self._segment, *self._opened.values(), *(s for s, _ in self._late)}:
            os.close(segment.fd)
        if self._late:
            log.error("journal %s: the disk refused the ends of %d requests", self.owner, len(self._late))

    def _write_now(self, kind: bytes, row: Row) -> _Segment:
        line = _line(kind, row)
        self._write_late()
        if self._segment.size + len(line) > self._rotate_bytes and self._segment.size:
            self._rotate()
        try:
            self._segment.append(line)
        except OSError as exc:
            raise JournalUnavailable(
                f"the request cannot be accounted for ({exc.strerror}): free space in the state directory",
                retry_after_s=5.0,
            ) from exc
        return self._segment

    def _write_late(self) -> None:
        while self._late:
            segment, line = self._late[0]
            try:
                segment.append(line)
            except OSError as exc:
                if len(self._late) == 1:
                    log.error("journal %s: %s; the ends of requests wait in memory", self.owner, exc.strerror)
                return
            self._late.popleft()
            segment.pending -= 1
            self._release(segment)

    def _rotate(self) -> None:
        full = self._segment
        try:
            self._segment = self._begin()
        except OSError as exc:
            log.warning("journal %s: cannot begin a new file (%s), going on in the old one", self.owner, exc.strerror)
            return
        self._release(full)

    def _release(self, segment: _Segment) -> None:
        if segment is not self._segment and not segment.pending:
            os.close(segment.fd)

    def _begin(self) -> _Segment:
        """A new file, locked. The writer may take a file seen between its creation and its lock for a dead one and
        delete it: then it has no name any more, and the next number is tried."""
        while True:
            path = self._directory / f"{self.owner}.{next(self._numbers)}{SUFFIX}"
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return _Segment(path, fd)
            os.close(fd)

    def _dirty_descriptors(self) -> list[int]:
        """Duplicates, so that a rotation during the sync closes nothing under it."""
        dirty = [s for s in {self._segment, *self._opened.values()} if s.dirty]
        for segment in dirty:
            segment.dirty = False
        return [os.dup(s.fd) for s in dirty]


@contextmanager
def looked_at(path: Path) -> Iterator[tuple[int, bool]]:
    """An open journal, and whether its owner is dead: then its lock is ours until we are done with it."""
    fd = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            orphaned = True
        except BlockingIOError:
            orphaned = False
        yield fd, orphaned
    finally:
        os.close(fd)


def owner_of(path: Path) -> str:
    """The process a journal file belongs to, the same for all its files."""
    return path.name.removesuffix(SUFFIX).rpartition(".")[0]


def parse(line: bytes) -> tuple[Literal["open", "close"], Row]:
    """Read one line. NUL, which PostgreSQL refuses, becomes U+FFFD; an integer that no database takes is a BadLine."""
    try:
        entry = _LINE.validate_json(line.replace(b"\\u0000", b"\\ufffd"), strict=True)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        raise BadLine(f"{'.'.join(map(str, error['loc']))}: {error['msg']}") from exc
    if len(entry) != 1:
        raise BadLine("expected one of 'open', 'close'")
    return entry.popitem()


def _line(kind: bytes, row: Row) -> bytes:
    return b'{"%b":%b}\n' % (kind, orjson.dumps(row))


def _sync(descriptors: list[int]) -> None:
    for fd in descriptors:
        try:
            os.fdatasync(fd)
        except OSError as exc:
            log.error("journal: cannot sync: %s", exc.strerror)
        finally:
            os.close(fd)

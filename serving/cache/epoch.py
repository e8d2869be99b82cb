"""Numbers that every process of the node sees change at once: how often something was deleted from one cache file.

One counts deletions of many entries; deletions of one are counted in a slot that its key shares with few others. They
live in a small file mapped into each process, so that looking costs a memory read. The file is also the lock for what
must not happen twice at a time (beginning a file, deleting). Knows nothing of what is cached.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLOTS = 4096  # an answer on its way meets another key's deletion once in so many
_CELL_BYTES = 8
_BYTES = (1 + SLOTS) * _CELL_BYTES


class Epoch:
    """Only ever grows. Write it inside `locked()`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _BYTES:
            os.ftruncate(self._fd, _BYTES)
        self._map = mmap.mmap(self._fd, _BYTES)
        self._cells = memoryview(self._map).cast("Q")  # aligned words: never seen half-written
        self._holds = 0

    def read(self) -> int:
        """Deletions of many."""
        return self._cells[0]

    def of(self, key: bytes) -> int:
        """Changes with every deletion that may have met this key."""
        return self._cells[0] + self._cells[_slot(key)]

    def raise_to(self, value: int) -> None:
        self._cells[0] = max(value, self._cells[0])

    def raise_slot(self, key: bytes) -> None:
        self._cells[_slot(key)] += 1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclusive among processes, freed by a kill; within this process for one thread, which may nest it."""
        if self._holds == 0:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if self._holds == 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        self._cells.release()
        self._map.close()
        os.close(self._fd)


def _slot(key: bytes) -> int:
    """Keys are digests: any four bytes will do."""
    return 1 + int.from_bytes(key[-4:]) % SLOTS

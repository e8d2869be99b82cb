"""A number that every process of the node sees change at once: the count of deletions from one cache file.

It lives in an 8-byte file mapped into each process, so that looking costs a memory read. The file is also the lock for
what must not happen twice at a time (beginning a file, deleting). Knows nothing of what is cached.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BYTES = 8


class Epoch:
    """Only ever grows. Write it inside `locked()`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _BYTES:
            os.ftruncate(self._fd, _BYTES)
        self._map = mmap.mmap(self._fd, _BYTES)
        self._cell = memoryview(self._map).cast("Q")  # one aligned word: never seen half-written
        self._holds = 0

    def read(self) -> int:
        return self._cell[0]

    def raise_to(self, value: int) -> None:
        self._cell[0] = max(value, self._cell[0])

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
        self._cell.release()
        self._map.close()
        os.close(self._fd)

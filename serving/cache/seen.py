"""What the cache's file cannot hold, known without asking it: a Bloom filter that all processes of the node share.

A miss is the usual case of a cache, and asking a thread for it cost a tenth of a proxied request. A slot is a byte, so
that setting one is a single store and needs no lock. It may say "perhaps" of a key that is not there (then the file is
asked),
and "no" of one that another process is just storing (then it is a miss); never "no" of one that has been stored.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path

SLOTS = 1 << 22  # 4 MiB; with 100,000 keys one in 3,000 absent ones is taken for present, with a million one in 8
_PLACES = struct.Struct("<3I")  # from the key itself, which is a digest


def _places(key: bytes) -> tuple[int, int, int]:
    one, two, three = _PLACES.unpack_from(key if len(key) >= _PLACES.size else key.ljust(_PLACES.size, b"\0"))
    return one % SLOTS, two % SLOTS, three % SLOTS


class Seen:
    """Filled by whoever opens the file, noted in after each commit."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < SLOTS:
                os.ftruncate(fd, SLOTS)
            self._map = mmap.mmap(fd, SLOTS)
        finally:
            os.close(fd)

    def note(self, key: bytes) -> None:
        for place in _places(key):
            self._map[place] = 1

    def perhaps(self, key: bytes) -> bool:
        one, two, three = _places(key)
        return bool(self._map[one] and self._map[two] and self._map[three])

    def refill(self, keys: Iterable[bytes]) -> None:
        """Say of these "perhaps"; begin anew when half of all slots are set, by keys that are long gone."""
        if self._map[:].count(1) > SLOTS // 2:
            self._map[:] = bytes(SLOTS)
        for key in keys:
            self.note(key)

    def close(self) -> None:
        self._map.close()

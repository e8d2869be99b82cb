"""Dense rows of vectors in blocks: add at the end, remove by moving the last row into the gap. No holes, no copying.

A block never grows once it is 4,096 rows, so that no addition copies more than 6 MB, and small partitions take a small
block. Not thread-safe. Knows no partition and no library for searching.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS: Final = 4096
_FIRST_ROWS: Final = 16
_GROWTH: Final = 2


class Rows:
    """`place` of a row is its number here; it changes when another row is removed, which `remove` reports."""

    __slots__ = ("_blocks", "_count", "_dim", "_ids")

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._blocks: list[NDArray[np.float32]] = []
        self._ids: list[NDArray[np.int64]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, row_id: int, vector: NDArray[np.float32]) -> int:
        block, row = divmod(self._count, BLOCK_ROWS)
        if block == len(self._blocks):
            self._blocks.append(np.empty((_FIRST_ROWS, self._dim), np.float32))
            self._ids.append(np.empty(_FIRST_ROWS, np.int64))
        elif row == len(self._blocks[block]):
            self._enlarge(block)
        self._blocks[block][row] = vector
        self._ids[block][row] = row_id
        self._count += 1
        return self._count - 1

    def remove(self, place: int) -> int | None:
        """The id of the row that now has this place; None when it was the last one."""
        last = self._count - 1
        (from_block, from_row), (to_block, to_row) = divmod(last, BLOCK_ROWS), divmod(place, BLOCK_ROWS)
        moved = None
        if place != last:
            self._blocks[to_block][to_row] = self._blocks[from_block][from_row]
            moved = int(self._ids[from_block][from_row])
            self._ids[to_block][to_row] = moved
        self._count = last
        if from_row == 0:
            del self._blocks[from_block:], self._ids[from_block:]
        return moved

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Views of ids (n,) and vectors (n, dim), valid until the next change."""
        for start, ids, vectors in zip(range(0, self._count, BLOCK_ROWS), self._ids, self._blocks, strict=True):
            used = min(BLOCK_ROWS, self._count - start)
            yield ids[:used], vectors[:used]

    def tail(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Copies of the last rows, at most `count` and at most the last block."""
        start = (self._count - 1) // BLOCK_ROWS * BLOCK_ROWS
        low, high = max(0, self._count - count - start), self._count - start
        return self._ids[-1][low:high].copy(), self._blocks[-1][low:high].copy()

    def memory_bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks)

    def _enlarge(self, block: int) -> None:
        size = min(BLOCK_ROWS, len(self._blocks[block]) * _GROWTH)
        vectors, ids = np.empty((size, self._dim), np.float32), np.empty(size, np.int64)
        vectors[: len(self._blocks[block])] = self._blocks[block]
        ids[: len(self._ids[block])] = self._ids[block]
        self._blocks[block], self._ids[block] = vectors, ids

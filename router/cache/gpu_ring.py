"""`VectorIndex` on a GPU: one preallocated matrix, rows overwritten in place, exact search masked by partition.

    scores = X[:high] @ q;  other partitions and dead rows -> -inf;  top 4k;  of those the best k in float32

Masking before the top k means that no neighbour of another partition can crowd out one's own, which a post-filter
cannot say (and flat GPU indexes of faiss silently ignore a selector). Which row is whose, and alive, is decided by
tables on the host; the tags on the device repeat them. The matrix, the tags and one search's scratch are all the memory
it takes, bounded by `max_bytes`. For one thread only.

`device="cpu"` runs the same code on torch's CPU.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import ConfigError
from router.cache.index import Neighbours

_DEAD: Final = -1
_TAG_BYTES: Final = 8
_SPARE: Final = 4  # rows looked at for each one wanted: float16 scores are too coarse to settle an order
_SCRATCH_BYTES: Final = 16  # of one search, for each row: scores, their masked copy, the comparison, top k's workspace


@dataclass(slots=True)
class _PartitionTag:
    tag: int
    rows: int = 0


class GpuRing:
    """max_bytes: of device memory; it decides how many rows fit. When they are full, the oldest makes room."""

    def __init__(self, encoder_sha256: str, dim: int, max_bytes: int, device: str = "cuda") -> None:
        self.encoder_sha256 = encoder_sha256
        self.dim = dim
        self._device = torch.device(device)
        # float16 halves what a search must read, which is all that it costs; a CPU computes in it slowly
        self._dtype = torch.float32 if self._device.type == "cpu" else torch.float16
        self.capacity = max_bytes // row_bytes(dim, self._dtype.itemsize)
        if self.capacity < 1:
            raise ConfigError(f"the cache index is given {max_bytes} bytes on {device}: not one row of {dim} fits")
        self._matrix = torch.zeros((self.capacity, dim), dtype=self._dtype, device=self._device)
        self._tags = torch.full((self.capacity,), _DEAD, dtype=torch.int64, device=self._device)
        self._row_ids = np.full(self.capacity, _DEAD, np.int64)
        self._slots: dict[int, int] = {}
        self._owners: dict[int, bytes] = {}
        self._partitions: dict[bytes, _PartitionTag] = {}
        self._next_tag = 0
        self._high = 0
        self._free: list[int] = []
        self._by_age: deque[tuple[int, int]] = deque()  # (slot, row id) as added; stale ones are skipped

    def __len__(self) -> int:
        return len(self._slots)

    def ids(self) -> set[int]:
        return set(self._slots)

    def memory_bytes(self) -> int:
        return int(self._matrix.nbytes + self._tags.nbytes)

    def add(self, row_id: int, vector: NDArray[np.float32], partition: bytes) -> int | None:
        self.remove(row_id)
        displaced = None
        if not self._free and self._high == self.capacity:
            displaced = self._oldest()
            self.remove(displaced)
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._high = self._high, self._high + 1
        owner = self._partitions.get(partition)
        if owner is None:
            owner = self._partitions[partition] = _PartitionTag(self._next_tag)
            self._next_tag += 1  # never given twice: a stale tag can only miss
        owner.rows += 1
        self._matrix[slot] = torch.from_numpy(np.ascontiguousarray(vector)).to(self._device, self._dtype)
        self._tags[slot] = owner.tag
        self._row_ids[slot] = row_id
        self._slots[row_id] = slot
        self._owners[row_id] = partition
        self._remember_age(slot, row_id)
        return displaced

    def remove(self, row_id: int) -> bool:
        slot = self._slots.pop(row_id, None)
        if slot is None:
            return False
        partition = self._owners.pop(row_id)
        owner = self._partitions[partition]
        owner.rows -= 1
        if owner.rows == 0:
            del self._partitions[partition]
        self._row_ids[slot] = _DEAD
        self._tags[slot] = _DEAD
        self._matrix[slot] = 0
        self._free.append(slot)
        return True

    def search(self, vector: NDArray[np.float32], partition: bytes, k: int) -> Neighbours:
        owner = self._partitions.get(partition)
        if owner is None:
            return Neighbours(np.empty(0, np.int64), np.empty(0, np.float32))
        with torch.inference_mode():
            query = torch.from_numpy(np.ascontiguousarray(vector, np.float32)).to(self._device)
            scores = self._matrix[: self._high] @ query.to(self._dtype)
            scores.masked_fill_(self._tags[: self._high] != owner.tag, -torch.inf)
            slots = scores.topk(min(_SPARE * k, owner.rows)).indices
            similarities = (self._matrix[slots].float() @ query).cpu().numpy()
            places = slots.cpu().numpy()
        order = np.argsort(-similarities, kind="stable")[:k]
        ids = self._row_ids[places[order]]
        ours = np.array([self._owners.get(int(i)) == partition for i in ids], bool)  # the host has the last word
        return Neighbours(ids[ours], similarities[order][ours])

    def close(self) -> None:
        """Gives the memory back to torch."""
        self._matrix = self._matrix[:0].clone()
        self._tags = self._tags[:0].clone()

    def _oldest(self) -> int:
        while True:
            slot, row_id = self._by_age.popleft()
            if self._slots.get(row_id) == slot:
                return row_id

    def _remember_age(self, slot: int, row_id: int) -> None:
        self._by_age.append((slot, row_id))
        if len(self._by_age) > 2 * self.capacity:  # mostly rows that have gone
            self._by_age = deque(pair for pair in self._by_age if self._slots.get(pair[1]) == pair[0])


def row_bytes(dim: int, item_bytes: int) -> int:
    """Device memory for each row: its vector, its tag, its part of a search."""
    return dim * item_bytes + _TAG_BYTES + _SCRATCH_BYTES

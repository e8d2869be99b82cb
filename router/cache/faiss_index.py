"""`VectorIndex` on the CPU: exact in blocks of a partition's own, in cells once a partition is too large for that.

A partition that passes `cells_from_rows` is given cells (an inverted file: spherical k-means, search in the nearest
`PROBES` cells) by a background thread, which trains on a sample and then moves a few rows at a time. At every moment a
row is in exactly one place, so nothing is copied whole, swapped or caught up, and nothing stalls; what has not been
moved yet is searched exactly. The only file that imports faiss.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from router.cache.index import Neighbours
from router.cache.rows import Rows

# Exact search passes 10 ms of one core at about this size (benchmarks/index.py).
CELLS_FROM_ROWS: Final = 65_536
PROBES: Final = 16
_REGROW: Final = 4  # cells are made anew when there are this many times the rows they were made for
_SAMPLE_PER_CELL: Final = 40
_MOVE_ROWS: Final = 128

Vectors = NDArray[np.float32]


@dataclass(slots=True)
class _Cells:
    """Rows by nearest centre. Without centres: one cell, searched whole."""

    centres: Vectors | None
    cells: list[Rows]

    def nearest(self, vectors: Vectors, k: int) -> NDArray[np.int64]:
        """(n, k) cell numbers."""
        if self.centres is None:
            return np.zeros((len(vectors), 1), np.int64)
        found: NDArray[np.int64] = faiss.knn(vectors, self.centres, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
        return found

    def __len__(self) -> int:
        return sum(map(len, self.cells))


@dataclass(slots=True)
class _Partition:
    """`layers`: the newest takes what is added; an older one is being emptied into it."""

    layers: list[_Cells]
    rows: int = 0
    made_for_rows: int = 0
    being_made: bool = False


@dataclass(slots=True)
class _Place:
    partition: bytes
    rows: Rows
    place: int


@dataclass(slots=True)
class _Maker:
    """The thread that makes cells, and how it is ended."""

    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)


class FaissIndex:
    """Calls may come from any thread, one runs at a time. cells_from_rows: the size at which a partition gets cells."""

    def __init__(self, encoder_sha256: str, dim: int, cells_from_rows: int = CELLS_FROM_ROWS) -> None:
        self.encoder_sha256 = encoder_sha256
        self.dim = dim
        self._cells_from_rows = cells_from_rows
        self._partitions: dict[bytes, _Partition] = {}
        self._places: dict[int, _Place] = {}
        self._lock = threading.Lock()
        self._maker = _Maker()

    def __len__(self) -> int:
        return len(self._places)

    def ids(self) -> set[int]:
        with self._lock:
            partitions = self._partitions.values()
            rows = [rows for p in partitions for layer in p.layers for rows in layer.cells]
            return {int(i) for each in rows for ids, _ in each.blocks() for i in ids}

    def memory_bytes(self) -> int:
        with self._lock:
            partitions = self._partitions.values()
            return sum(rows.memory_bytes() for p in partitions for layer in p.layers for rows in layer.cells)

    def add(self, row_id: int, vector: Vectors, partition: bytes) -> int | None:
        with self._lock:
            self._remove(row_id)
            found = self._partitions.get(partition)
            if found is None:
                found = self._partitions[partition] = _Partition([_Cells(None, [Rows(self.dim)])])
            self._append(partition, found.layers[-1], np.array([row_id]), vector.reshape(1, -1))
            found.rows += 1
            wanted = max(self._cells_from_rows, found.made_for_rows * _REGROW)
            if found.rows > wanted and not found.being_made:
                found.being_made = True
                self._start(partition, found)
        return None

    def remove(self, row_id: int) -> bool:
        with self._lock:
            return self._remove(row_id)

    def search(self, vector: Vectors, partition: bytes, k: int) -> Neighbours:
        query = np.ascontiguousarray(vector.reshape(1, -1), np.float32)
        with self._lock:
            _one_thread()
            found = self._partitions.get(partition)
            near: list[tuple[float, int]] = []
            for layer in found.layers if found else ():
                cells = layer.nearest(query, min(PROBES, len(layer.cells)))[0]
                near += _search(query, [layer.cells[cell] for cell in cells if cell >= 0], k)
        best = heapq.nlargest(k, near)
        return Neighbours(np.array([i for _, i in best], np.int64), np.array([s for s, _ in best], np.float32))

    def close(self) -> None:
        """Ends the background thread; what it has moved so far stays right."""
        self._maker.stop.set()
        for thread in self._maker.threads:
            thread.join()

    def is_settled(self) -> bool:
        """Whether no partition is waiting for its cells or being moved into them."""
        with self._lock:
            return not any(p.being_made for p in self._partitions.values())

    def _append(self, name: bytes, layer: _Cells, ids: NDArray[np.int64], vectors: Vectors) -> None:
        cells = layer.nearest(np.ascontiguousarray(vectors, np.float32), 1)[:, 0]
        for row_id, vector, cell in zip(ids.tolist(), vectors, cells.tolist(), strict=True):
            rows = layer.cells[cell]
            self._places[row_id] = _Place(name, rows, rows.append(row_id, vector))

    def _remove(self, row_id: int) -> bool:
        gone = self._places.pop(row_id, None)
        if gone is None:
            return False
        self._close_gap(gone.rows, gone.place)
        partition = self._partitions[gone.partition]
        partition.rows -= 1
        if partition.rows == 0:
            del self._partitions[gone.partition]
        return True

    def _close_gap(self, rows: Rows, place: int) -> None:
        moved = rows.remove(place)
        if moved is not None:
            self._places[moved].place = place

    # --- the background thread: short turns under the lock, and at least as long without it ---

    def _start(self, name: bytes, partition: _Partition) -> None:
        self._maker.threads = [thread for thread in self._maker.threads if thread.is_alive()]
        thread = threading.Thread(target=self._make_cells, args=(name, partition), name="index-cells", daemon=True)
        self._maker.threads.append(thread)
        thread.start()

    def _make_cells(self, name: bytes, partition: _Partition) -> None:
        _one_thread()
        rows, count = partition.rows, max(1, math.isqrt(partition.rows))
        sample = self._sample(partition, count * _SAMPLE_PER_CELL)
        centres = _train(sample, min(count, len(sample))) if len(sample) else None
        with self._lock:
            if centres is None:  # all removed meanwhile
                partition.being_made = False
                return
            partition.layers.append(_Cells(centres, [Rows(self.dim) for _ in range(len(centres))]))
            partition.made_for_rows = rows
        old, new = partition.layers
        for cell in old.cells:
            while self._move_some(name, cell, new):
                if self._maker.stop.is_set():
                    return
        with self._lock:
            partition.layers.remove(old)
            partition.being_made = False

    def _sample(self, partition: _Partition, size: int) -> Vectors:
        """Rows spread over all cells and blocks, copied block by block so that no search waits for the whole of it."""
        share = min(1.0, size / max(1, partition.rows))
        parts: list[Vectors] = [np.empty((0, self.dim), np.float32)]
        for cell in partition.layers[-1].cells:
            number = 0
            while True:
                with self._lock:
                    block = next((v for n, (_, v) in enumerate(cell.blocks()) if n == number), None)
                    if block is None:
                        break
                    parts.append(block[:: max(1, round(1 / share))].copy())
                number += 1
        return np.concatenate(parts)

    def _move_some(self, name: bytes, cell: Rows, new: _Cells) -> bool:
        began_s = time.perf_counter()
        with self._lock:
            if not len(cell):
                return False
            ids, vectors = cell.tail(_MOVE_ROWS)
            for _ in range(len(ids)):
                cell.remove(len(cell) - 1)
            self._append(name, new, ids, vectors)
        time.sleep(time.perf_counter() - began_s)
        return True


def _search(query: Vectors, cells: Iterable[Rows], k: int) -> list[tuple[float, int]]:
    near: list[tuple[float, int]] = []
    for rows in cells:
        for ids, vectors in rows.blocks():
            similar, places = faiss.knn(query, vectors, min(k, len(ids)), metric=faiss.METRIC_INNER_PRODUCT)
            near += zip(similar[0].tolist(), ids[places[0]].tolist(), strict=True)
    return near


def _train(sample: Vectors, count: int) -> Vectors:
    kmeans = faiss.Kmeans(sample.shape[1], count, niter=8, spherical=True, seed=1, min_points_per_centroid=1)
    kmeans.train(sample)
    return np.asarray(kmeans.centroids, np.float32)


def _one_thread() -> None:
    """OpenMP's count belongs to the calling thread; more than the free cores makes a search many times slower."""
    faiss.omp_set_num_threads(1)

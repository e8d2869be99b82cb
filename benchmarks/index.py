"""How fast is the cache's index while entries come and go? Beside a plain numpy scan and what memory allows.

    python -m benchmarks.index [--sizes 1000,10000,100000,1000000] [--device cpu|cuda] [--seconds 5] [--reload 100000]

All rows are in one partition, the worst case. Vectors are drawn around centres, 50 to each, and each query is a stored
row turned away to a cosine of 0.95, as a question in other words is; `found` is how often that row came first. One
thread searches, and after every fifth search adds a row and evicts one. The floor is the time to read the rows once, as
measured here over as many bytes. `search_cpu_ms` is the searching thread's own time, to compare on a machine that does
other things. Set OMP_NUM_THREADS=1 for numpy. `--reload N` also writes a cache file of N entries and times opening it
again, in seconds of the clock and of the CPU. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import summary_ms
from models.types import Usage
from router.cache.entries import Entry, Scope, new_id
from router.cache.faiss_index import FaissIndex
from router.cache.gpu_ring import GpuRing, row_bytes
from router.cache.index import VectorIndex
from router.cache.semantic import SemanticCache
from router.cache.shelf import Bounds

DIM = 384
K = 8
COSINE = 0.95
ROWS_PER_CENTRE = 50
SPREAD = 0.8  # of a row around its centre; two rows of one centre then have a cosine of about 0.6
SEARCHES_PER_CHANGE = 5
PARTITION = b"one"
Vectors = NDArray[np.float32]


@dataclass(slots=True)
class Workload:
    """Rows already stored, rows to come, and queries near stored rows with the row each is near to."""

    rows: Vectors
    fresh: Vectors
    queries: Vectors
    sources: NDArray[np.int64]


def unit(vectors: Vectors) -> Vectors:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def workload(size: int, seed: int = 1) -> Workload:
    rng = np.random.default_rng(seed)
    count = size + 20_000
    centres = unit(rng.standard_normal((max(1, count // ROWS_PER_CENTRE), DIM), dtype=np.float32))
    rows = unit(rng.standard_normal((count, DIM), dtype=np.float32))
    for start in range(0, count, 100_000):
        part = rows[start : start + 100_000]
        part *= SPREAD
        part += centres[rng.integers(len(centres), size=len(part))]
        unit(part)
    sources = rng.integers(size // 2, size, size=2000)  # the older half is evicted meanwhile
    near = rows[sources]
    away = rng.standard_normal(near.shape, dtype=np.float32)
    away = unit(away - (away * near).sum(axis=1, keepdims=True) * near)
    queries = COSINE * near + np.sqrt(np.float32(1 - COSINE**2)) * away
    return Workload(rows[:size], rows[size:], queries, sources)


def make(device: str, size: int) -> VectorIndex:
    if device == "cpu":
        return FaissIndex("benchmark", DIM)
    return GpuRing("benchmark", DIM, (size + 1) * row_bytes(DIM, 2), device)


def fill(index: VectorIndex, rows: Vectors) -> float:
    """Seconds for each row."""
    began_s = time.perf_counter()
    for row, vector in enumerate(rows):
        index.add(row, vector, PARTITION)
    return (time.perf_counter() - began_s) / len(rows)


class Churn:
    """Searches with additions and evictions between them, by the one thread that owns the index."""

    def __init__(self, index: VectorIndex, load: Workload) -> None:
        self._index, self._load = index, load
        self._searched = self._changed = 0

    def run(self, go_on: Callable[[], bool]) -> dict[str, Any]:
        searches: list[float] = []
        cpu: list[float] = []
        changes: list[float] = []
        found = 0
        began_s = time.perf_counter()
        while go_on() or len(searches) < 20:
            number = self._searched % len(self._load.queries)
            before_s, before_cpu_s = time.perf_counter(), time.thread_time()
            near = self._index.search(self._load.queries[number], PARTITION, K)
            searches.append(time.perf_counter() - before_s)
            cpu.append(time.thread_time() - before_cpu_s)
            found += len(near.ids) > 0 and int(near.ids[0]) == int(self._load.sources[number])
            self._searched += 1
            if self._searched % SEARCHES_PER_CHANGE == 0 and self._changed < len(self._load.rows) // 2:
                changes.append(self._change())
        elapsed_s = time.perf_counter() - began_s
        return {
            "search_ms": summary_ms(searches),
            "search_cpu_ms": summary_ms(cpu),
            "qps": round(len(searches) / elapsed_s, 1),
            "add_and_evict_ms": summary_ms(changes),
            "found": round(found / len(searches), 4),
        }

    def _change(self) -> float:
        fresh = self._load.fresh[self._changed % len(self._load.fresh)]
        before_s = time.perf_counter()
        self._index.remove(self._changed)
        self._index.add(len(self._load.rows) + self._changed, fresh, PARTITION)
        self._changed += 1
        return time.perf_counter() - before_s


def numpy_scan(load: Workload, seconds: float) -> dict[str, Any]:
    times: list[float] = []
    cpu: list[float] = []
    k = min(K, len(load.rows) - 1)
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or len(times) < 5:
        before_s, before_cpu_s = time.perf_counter(), time.thread_time()
        scores = load.rows @ load.queries[len(times) % len(load.queries)]
        np.argpartition(scores, -k)[-k:]
        times.append(time.perf_counter() - before_s)
        cpu.append(time.thread_time() - before_cpu_s)
    return {"search_ms": summary_ms(times), "search_cpu_ms": summary_ms(cpu)}


def floor_ms(rows: int, device: str) -> float:
    """The best of several reads of as many bytes as an exact search must read."""
    import torch

    item = 4 if device == "cpu" else 2
    data = torch.ones(rows * DIM * item // 4, dtype=torch.float32, device=device)
    times = []
    for _ in range(10):
        before_s = time.perf_counter()
        torch.dot(data, data).item() if device == "cpu" else data.sum().item()
        times.append(time.perf_counter() - before_s)
    return round(min(times) * 1000, 4)


def measure(size: int, device: str, seconds: float) -> dict[str, Any]:
    load = workload(size)
    scan = numpy_scan(load, seconds / 2)
    index = make(device, size)
    add_s = fill(index, load.rows)
    churn = Churn(index, load)
    result: dict[str, Any] = {"entries": size, "add_us": round(add_s * 1e6, 1)}
    if isinstance(index, FaissIndex) and not index.is_settled():
        began_s = time.perf_counter()
        result["while_cells_are_made"] = churn.run(lambda: not index.is_settled())
        result["cells_made_in_s"] = round(time.perf_counter() - began_s, 1)
    end_s = time.perf_counter() + seconds
    result |= churn.run(lambda: time.perf_counter() < end_s)
    result |= {"memory_mb": round(index.memory_bytes() / 1e6, 1), "numpy": scan, "floor_ms": floor_ms(size, device)}
    index.close()
    return result


async def reload(entries: int) -> dict[str, Any]:
    """Seconds to open a cache of that many, in partitions of 100, with answers of 2 kB."""
    rows = workload(entries).rows
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "cache.sqlite"
        cache = await SemanticCache.open(path, FaissIndex("benchmark", DIM), ["small"], Bounds(max_entries=entries))
        began_s = time.perf_counter()
        for number, vector in enumerate(rows):
            scope = Scope("tenant", (number // 100).to_bytes(8))
            text, now_s = f"a question of some length, number {number}", time.time()
            body, usage = bytes(2000), Usage(20, 0, 0, 200)
            entry = Entry(new_id(), scope, "auto", "small", "m", text, body, usage, 1000, now_s, 9000)
            await cache.put(entry, vector, cache.epoch())
        await cache.flush()
        put_s = time.perf_counter() - began_s
        await cache.close()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        cache = await SemanticCache.open(path, FaissIndex("benchmark", DIM), ["small"], Bounds(max_entries=entries))
        opened_s, opened_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        size, held = path.stat().st_size, (await cache.stats())["entries"]
        await cache.close()
    figures = {"put_us": put_s / entries * 1e6, "open_s": opened_s, "open_cpu_s": opened_cpu_s, "file_mb": size / 1e6}
    return {"entries": held, **{name: round(value, 2) for name, value in figures.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="entries, comma-separated")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the ring")
    parser.add_argument("--seconds", type=float, default=5.0, help="of searching at each size")
    parser.add_argument("--reload", type=int, default=0, help="entries in a cache file to open again")
    args = parser.parse_args()
    results = []
    for size in map(int, filter(None, args.sizes.split(","))):
        results.append(measure(size, args.device, args.seconds))
        print(json.dumps(results[-1]), file=sys.stderr)
        gc.collect()
    reloaded = {"reload": asyncio.run(reload(args.reload))} if args.reload else {}
    print(json.dumps({"device": args.device, "dim": DIM, "k": K, "cosine": COSINE, "sizes": results, **reloaded}))


if __name__ == "__main__":
    main()

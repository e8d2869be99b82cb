"""100,000 random operations, the process killed among them: nothing deleted, expired or foreign comes back."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from router.cache.faiss_index import FaissIndex
from router.cache.semantic import SemanticCache
from tests.router.cache.crash_worker import BOUNDS, DIM, SCOPES, TIERS

ROOT = Path(__file__).parents[3]
OPERATIONS = 100_000
KILLS = 4


def work_and_be_killed(path: Path, seed: int, operations: int) -> tuple[set[int], list[str]]:
    """Ids whose deletion had returned before the kill, and promises broken while it ran."""
    command = [sys.executable, str(Path(__file__).with_name("crash_worker.py")), str(path), str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    deleted, broken = set[int](), list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "D" and line.endswith("\n"):
                deleted.add(int(rest))
            elif kind == "V":
                broken.append(rest)
            elif kind == "N" and int(rest) >= operations:
                os.kill(worker.pid, signal.SIGKILL)  # what it has said until then is still read
    assert worker.returncode == -signal.SIGKILL
    return deleted, broken


async def check(path: Path, deleted: set[int]) -> int:
    index = FaissIndex("encoder", DIM)
    cache = await SemanticCache.open(path, index, TIERS, BOUNDS)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = db.execute("SELECT id, tenant, partition, created_at_s + ttl_s, vector FROM entry").fetchall()
    db.close()
    in_file = {row[0] for row in rows}
    assert in_file == index.ids() and (await cache.stats())["entries"] == len(in_file)
    assert not in_file & deleted
    assert all(expires_at_s > time.time() - 1 for _, _, _, expires_at_s, _ in rows)
    for entry_id, tenant, partition, _, raw in rows[::7]:
        vector = np.frombuffer(raw, np.float16).astype(np.float32)
        for scope in SCOPES:
            near = await cache.lookup(vector, scope, "small")
            assert all(found.entry.scope == scope for found in near)
            if (scope.tenant, scope.partition) == (tenant, partition):
                entry = await cache.get(entry_id, scope)
                assert entry is None or entry.expires_at_s > time.time() - 1
            else:
                assert await cache.get(entry_id, scope) is None
    await cache.close()
    return len(in_file)


@pytest.mark.timeout(300)  # 38 s beside other work, more than a minute on a machine that is far overcommitted
async def test_a_kill_brings_nothing_back(path: Path) -> None:
    deleted: set[int] = set()
    kept = 0
    for seed in range(KILLS):
        acknowledged, broken = work_and_be_killed(path, seed, OPERATIONS // KILLS)
        assert broken == []
        deleted |= acknowledged
        kept += await check(path, deleted)
    assert len(deleted) > 500 and kept > 500  # the test has seen what it is about

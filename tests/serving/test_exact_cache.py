"""The exact cache: hits, bounds, and deletions that hold in every process."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.types import Usage
from serving.cache.exact import CacheLimits, Entry, ExactCache
from serving.cache.store import Store

ROOT = Path(__file__).parents[2]
USAGE = Usage(input_tokens=3, cached_input_tokens=1, output_tokens=5)


def entry(name: str, tenant: str = "t", size: int = 10, created_at_s: float | None = None) -> Entry:
    created = time.time() if created_at_s is None else created_at_s
    return Entry(name.encode(), tenant, "small", "m", "chat/completions", b"x" * size, USAGE, created, 42)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "exact.sqlite"


def store(path: Path) -> Store:
    return Store(path, max_bytes=10**7, ttl_s=3600.0)


def in_another_process(path: Path, body: str) -> subprocess.Popen[str]:
    lines = [
        "import sys, time",
        "from pathlib import Path",
        "from models.types import Usage",
        "from serving.cache.store import Entry, Store",
        "store = Store(Path(sys.argv[1]), 10**7, 3600.0)",
        body,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines), str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


async def test_what_was_put_is_got_at_once_and_after_a_restart(path: Path) -> None:
    first = await ExactCache.open(path)
    put = entry("k", size=1000)
    assert await first.get(b"k") is None
    first.put(put, first.epoch(put.key))
    assert await first.get(b"k") is put
    await first.close()

    again = await ExactCache.open(path)
    assert await again.get(b"k") == put
    assert await again.get(b"k") == put
    counts = await again.stats()
    assert (counts["file_hits"], counts["memory_hits"], counts["entries"]) == (1, 1, 1)
    await again.close()


async def test_replicas_share_what_either_stored(path: Path) -> None:
    one, other = await ExactCache.open(path), await ExactCache.open(path)
    one.put(entry("k"), one.epoch(b"k"))
    await one.flush()
    assert await other.get(b"k") is not None
    await one.close()
    await other.close()


async def test_a_later_answer_replaces_the_earlier_also_within_one_batch(path: Path) -> None:
    cache = await ExactCache.open(path)
    cache.put(entry("k", size=10), cache.epoch(b"k"))
    cache.put(entry("k", size=20), cache.epoch(b"k"))
    await cache.flush()
    cache.put(entry("k", size=30), cache.epoch(b"k"))
    stats = await cache.stats()
    assert (stats["entries"], stats["bytes"]) == (1, entry("k", size=30).size)
    await cache.close()
    with store(path) as file:
        found = file.get(b"k")
        assert found is not None
        assert len(found.body) == 30


async def test_the_age_counts_from_creation_and_no_hit_renews_it(path: Path) -> None:
    clock = Clock()
    cache = await ExactCache.open(path, CacheLimits(ttl_s=60.0), clock)
    cache.put(entry("k", created_at_s=clock()), cache.epoch(b"k"))
    for _ in range(5):
        clock.now_s += 11
        assert await cache.get(b"k") is not None
        await cache.flush()
    clock.now_s += 5
    assert await cache.get(b"k") is None
    cache.put(entry("other", created_at_s=clock()), cache.epoch(b"other"))
    assert (await cache.stats())["entries"] == 1  # the expired one is gone from the file
    await cache.close()


async def test_memory_keeps_the_recently_used_within_its_bytes(path: Path) -> None:
    size = entry("x").size
    cache = await ExactCache.open(path, CacheLimits(memory_bytes=3 * size))
    for name in "abc":
        cache.put(entry(name), cache.epoch(name.encode()))
    await cache.get(b"a")
    cache.put(entry("d"), cache.epoch(b"d"))
    stats = await cache.stats()
    assert (stats["memory_entries"], stats["memory_bytes"], stats["entries"]) == (3, 3 * size, 4)
    before = stats["memory_hits"]
    assert await cache.get(b"a") is not None
    assert (await cache.stats())["memory_hits"] == before + 1
    assert await cache.get(b"b") is not None  # from the file
    assert (await cache.stats())["file_hits"] == 1
    await cache.close()


async def test_an_answer_over_the_entry_bound_is_not_kept(path: Path) -> None:
    cache = await ExactCache.open(path, CacheLimits(max_entry_bytes=1000))
    cache.put(entry("k", size=2000), cache.epoch(b"k"))
    assert await cache.get(b"k") is None
    assert (await cache.stats())["too_large"] == 1
    await cache.close()


def test_the_file_is_bounded_and_the_longest_unused_go_first(path: Path) -> None:
    clock, size = Clock(), entry("x", size=1000).size
    with Store(path, 10 * size, 10**9, clock) as file:
        for number in range(10):
            clock.now_s += 1
            file.write([(entry(f"k{number}", size=1000), 0)])
        clock.now_s += 1
        file.write([(entry("new", size=1000), 0)], used=[b"k0"])
        entries, total = file.size()
        assert total <= 9 * size
        assert total == entries * size
        kept = {number for number in range(10) if file.get(b"k%d" % number) is not None}
        assert kept == {0, *range(10 - entries + 2, 10)}
        assert file.get(b"new") is not None


async def test_a_deletion_holds_at_once_in_every_replica(path: Path) -> None:
    one, other = await ExactCache.open(path), await ExactCache.open(path)
    for name, tenant in (("a", "acme"), ("b", "acme"), ("c", "umbra")):
        one.put(entry(name, tenant), one.epoch(name.encode()))
    await one.flush()
    for key in (b"a", b"b", b"c"):
        assert await other.get(key) is not None
    assert await one.delete_entry(b"a") == 1
    assert (await other.get(b"a"), await one.get(b"a")) == (None, None)
    assert await other.delete_tenant("acme") == 1
    assert (await one.get(b"b"), await other.get(b"b")) == (None, None)
    assert await one.get(b"c") is not None
    assert await one.delete_all() == 1
    assert (await one.get(b"c"), await other.get(b"c")) == (None, None)
    assert await one.delete_entry(b"a") == 0
    await one.close()
    await other.close()


async def test_a_deletion_by_another_process_holds_at_once(path: Path) -> None:
    cache = await ExactCache.open(path)
    cache.put(entry("k", "acme"), cache.epoch(b"k"))
    await cache.flush()
    command = in_another_process(path, "print(store.delete_tenant('acme'))")
    assert await asyncio.to_thread(command.communicate) == ("1\n", None)
    assert await cache.get(b"k") is None
    await cache.close()


async def test_an_answer_in_flight_during_a_deletion_is_never_stored(path: Path) -> None:
    one, other = await ExactCache.open(path), await ExactCache.open(path)
    began = one.epoch(b"old")
    one.put(entry("waiting", "acme"), began)  # in memory, not yet in the file
    await other.delete_tenant("acme")
    assert await one.get(b"any") is None  # the deletion is noticed, and memory is empty
    one.put(entry("late", "acme"), began)
    assert (await one.get(b"waiting"), await one.get(b"late")) == (None, None)
    stats = await one.stats()
    assert (stats["refused"], stats["entries"]) == (2, 0)
    one.put(entry("fresh", "acme"), one.epoch(b"fresh"))
    assert (await one.stats())["entries"] == 1
    await one.close()
    await other.close()


def test_the_file_itself_refuses_an_answer_from_before_a_deletion(path: Path) -> None:
    """What the memory-mapped number does not say yet, the transaction still knows."""
    with store(path) as file, store(path) as other:
        began = file.epoch()
        other.delete_all()
        assert file.write([(entry("old"), began), (entry("new"), file.epoch())]) == 1
        assert (file.get(b"old"), file.get(b"new") is not None) == (None, True)


async def test_who_complains_all_the_time_keeps_no_other_answer_from_being_remembered(path: Path) -> None:
    one, other = await ExactCache.open(path), await ExactCache.open(path)
    one.put(entry("kept", "umbra"), one.epoch(b"kept"))
    began = {key: one.epoch(key) for key in (b"old", b"fresh")}
    await other.delete_entry(b"old")
    one.put(entry("fresh", "umbra"), began[b"fresh"])
    await other.delete_entry(b"old")
    assert await one.get(b"fresh") is not None and await one.get(b"kept") is not None
    stats = await one.stats()
    assert (stats.get("refused", 0), stats["entries"], stats["memory_hits"]) == (0, 2, 2)
    one.put(entry("old", "acme"), began[b"old"])  # it is what was complained about that may not come back
    assert await one.get(b"old") is None and (await one.stats())["refused"] == 1
    one.put(entry("old", "acme"), one.epoch(b"old"))
    assert await other.get(b"old") is None and await one.get(b"old") is not None
    await one.flush()
    assert await other.get(b"old") is not None
    await one.close()
    await other.close()


async def test_what_is_deleted_before_it_is_in_the_file_is_counted(path: Path) -> None:
    cache = await ExactCache.open(path)
    for name in ("a", "b", "c", "d"):
        cache.put(entry(name, tenant=name), cache.epoch(name.encode()))
    assert await cache.delete_entry(b"a") == 1
    cache.put(entry("a"), cache.epoch(b"a"))
    assert await cache.delete_entry(b"a") == 1
    assert await cache.delete_tenant("b") == 1 and await cache.delete_all() == 2
    await cache.close()


async def test_a_deleted_entry_that_waits_for_the_file_does_not_reach_it(path: Path) -> None:
    one, other = await ExactCache.open(path), await ExactCache.open(path)
    one.put(entry("k"), one.epoch(b"k"))  # in memory, not yet in the file
    assert await other.delete_entry(b"k") == 0
    assert await one.get(b"k") is None
    assert (await one.stats())["entries"] == 0
    await one.close()
    await other.close()


async def test_an_entry_deleted_by_another_process_is_gone_at_once(path: Path) -> None:
    cache = await ExactCache.open(path)
    for name in ("k", "other"):
        cache.put(entry(name), cache.epoch(name.encode()))
    await cache.flush()
    command = in_another_process(path, "print(store.delete_entry(b'k'))")
    assert await asyncio.to_thread(command.communicate) == ("1\n", None)
    assert await cache.get(b"k") is None and await cache.get(b"other") is not None
    assert (await cache.stats())["memory_hits"] == 1
    await cache.close()


@pytest.mark.parametrize("delete", [lambda file: file.delete_all(), lambda file: file.delete_entry(b"k")])
async def test_a_read_that_a_deletion_overtook_is_a_miss_and_stays_one(path: Path, delete: Any) -> None:
    with store(path) as other:
        cache = await ExactCache.open(path)
        cache.put(entry("k"), cache.epoch(b"k"))
        await cache.close()
        cache = await ExactCache.open(path)
        reading = asyncio.create_task(cache.get(b"k"))
        await asyncio.sleep(0)  # the read is with the thread
        time.sleep(0.05)  # noqa: ASYNC251  it has read the row, and the loop has not heard of it
        delete(other)
        assert await reading is None
        assert await cache.get(b"k") is None
        await cache.close()


def test_a_deleter_killed_before_it_could_tell_is_made_good_by_the_next_write(path: Path) -> None:
    with store(path) as file:
        raw = sqlite3.connect(path)
        raw.execute("UPDATE meta SET epoch = epoch + 1")
        raw.commit()
        raw.close()
        assert file.write([(entry("old"), file.epoch())]) == 1
        assert file.epoch() == 1
        assert file.write([(entry("new"), file.epoch())]) == 0


def test_deleted_text_is_in_no_file(path: Path) -> None:
    secret = b"the secret of acme " * 50
    with store(path) as file:
        file.write([(Entry(b"k", "acme", "s", "m", "e", secret, USAGE, time.time(), 0), 0)])
        assert any(b"secret of acme" in part.read_bytes() for part in path.parent.iterdir())
        path.with_name(path.name + ".unreadable").write_bytes(secret)
        file.delete_tenant("acme")
        assert not any(b"secret of acme" in part.read_bytes() for part in path.parent.iterdir())


def test_the_files_are_for_their_owner_only(path: Path) -> None:
    with store(path) as file:
        file.write([(entry("k"), 0)])
        modes = {part.name: stat.S_IMODE(part.stat().st_mode) for part in path.parent.iterdir()}
    assert len(modes) >= 3
    assert set(modes.values()) == {0o600}


async def test_putting_and_getting_never_wait_for_the_file(path: Path) -> None:
    """With the thread held up, a put returns and the answer is served."""
    cache = await ExactCache.open(path)
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")
    cache.put(entry("a"), cache.epoch(b"a"))
    flushing = asyncio.create_task(cache.flush())
    await asyncio.sleep(0.02)
    cache.put(entry("b"), cache.epoch(b"b"))
    started = asyncio.get_running_loop().time()
    assert await cache.get(b"a") is not None
    assert await cache.get(b"b") is not None
    assert asyncio.get_running_loop().time() - started < 0.2
    assert await cache.get(b"not in memory") is None  # rather than wait
    assert asyncio.get_running_loop().time() - started < 1.0
    assert not flushing.done()
    raw.execute("ROLLBACK")
    raw.close()
    await flushing
    await cache.close()

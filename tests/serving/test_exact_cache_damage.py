"""The exact cache under kills, locks and damage: never a lost file, a failed request or somebody else's data."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.errors import StartError
from models.types import Usage
from serving.cache.exact import CacheLimits, Entry, ExactCache
from serving.cache.store import Store

ROOT = Path(__file__).parents[2]


def entry(name: str, size: int = 10) -> Entry:
    return Entry(name.encode(), "t", "small", "m", "chat/completions", b"x" * size, Usage(), time.time(), 42)


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


WRITE_FOR_EVER = """
for n in range(10**9):
    batch = [Entry(b"%d-%d" % (n, i), "t", "s", "m", "e", b"x" * 3000, Usage(), time.time(), 0) for i in range(20)]
    store.write([(one, store.epoch()) for one in batch])
    print(n, flush=True)
"""


def test_a_kill_while_writing_leaves_whole_batches(path: Path) -> None:
    for round_ in range(5):
        writer = in_another_process(path, WRITE_FOR_EVER)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.005 * round_)
        writer.send_signal(signal.SIGKILL)
        written = writer.communicate()[0].count("\n") + 1
        with store(path) as file:
            assert not path.with_name(path.name + ".unreadable").exists()
            entries, total = file.size()
            assert entries % 20 == 0
            assert entries >= min(20 * written, 20)
            assert total == entries * entry("x", size=3000).size
            assert file.get(b"0-19") is not None
            assert file.delete_all() == entries


async def test_the_lock_holds_others_off_until_its_holder_is_killed(path: Path) -> None:
    holder = in_another_process(path, "with store._epoch.locked():\n  print('held', flush=True)\n  time.sleep(60)")
    assert holder.stdout is not None
    assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
    opening = asyncio.create_task(ExactCache.open(path))
    await asyncio.sleep(0.2)
    assert not opening.done()
    holder.kill()
    await asyncio.to_thread(holder.communicate)
    cache = await opening
    assert await cache.delete_all() == 0
    await cache.close()


@pytest.mark.parametrize("damage", [b"not a database, not at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_cannot_be_read_is_set_aside_and_a_new_one_begun(
    path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    begin_with(path, damage)
    with store(path) as file:
        file.write([(entry("k"), file.epoch())])
        assert file.get(b"k") is not None
    assert path.with_name(path.name + ".unreadable").read_bytes() == damage
    assert "set aside" in caplog.text


def test_a_count_of_deletions_from_before_they_were_counted_by_entry_is_gone_on_with(path: Path) -> None:
    """The file was eight bytes then; the entries beside it are as good as ever."""
    with store(path) as file:
        file.delete_all()
        file.write([(entry("k"), file.epoch_of(b"k"))])
    counts = path.with_name(path.name + ".epoch")
    counts.write_bytes(counts.read_bytes()[:8])
    with store(path) as file, store(path) as other:
        assert file.epoch() == 1 and other.get(b"k") is not None
        began = file.epoch_of(b"k")
        assert other.delete_entry(b"k") == 1
        assert file.write([(entry("k"), began)]) == 1 and file.get(b"k") is None


def test_a_cache_of_another_format_is_set_aside(path: Path) -> None:
    with store(path) as file:
        file.write([(entry("k"), 0)])
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    with store(path) as file:
        assert file.get(b"k") is None


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    begin_with(path, b"")
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE ledger (row TEXT)")
    raw.execute("INSERT INTO ledger VALUES ('kept')")
    raw.commit()
    raw.close()
    with pytest.raises(StartError, match="another program's database"):
        await ExactCache.open(path)
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT row FROM ledger").fetchall() == [("kept",)]
    raw.close()


def begin_with(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)


def set_aside(path: Path) -> None:
    path.replace(path.with_name("aside"))


def spoil(path: Path) -> None:
    """Overwrite every page but the first, as a failing disk would."""
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


async def test_damage_met_while_running_is_a_miss_and_then_a_new_file(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = await ExactCache.open(path, CacheLimits(memory_bytes=0))
    other = await ExactCache.open(path, CacheLimits(memory_bytes=0))
    for number in range(100):
        one.put(entry(f"k{number}", size=3000), one.epoch(f"k{number}".encode()))
    await one.flush()
    await one.close()
    spoil(path)
    assert await other.get(b"k5") is None
    assert "set aside" in caplog.text
    other.put(entry("new"), other.epoch(b"new"))
    await other.flush()
    assert await other.get(b"new") is not None
    await other.close()


async def test_who_still_holds_a_file_that_was_set_aside_moves_to_the_new_one(path: Path) -> None:
    one, other = await ExactCache.open(path), await ExactCache.open(path)
    set_aside(path)
    with store(path) as new:
        one.put(entry("k"), one.epoch(b"k"))
        await one.flush()
        assert new.get(b"k") is not None
        assert await other.get(b"k") is not None
        assert new.delete_all() == 1
        assert (await one.get(b"k"), await other.get(b"k")) == (None, None)
    await one.close()
    await other.close()


async def test_a_file_that_is_locked_costs_misses_and_no_request(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.sqlite_file.BUSY_TIMEOUT_S", 0.05)
    cache = await ExactCache.open(path)
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")
    cache.put(entry("k"), cache.epoch(b"k"))
    assert (await cache.stats())["writes_failed"] == 1
    assert await cache.get(b"k") is not None  # from memory
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await cache.delete_all()
    raw.execute("ROLLBACK")
    raw.close()
    assert await cache.delete_all() == 0
    await cache.close()


async def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot open the exact cache"):
        await ExactCache.open(tmp_path / "file" / "exact.sqlite")


async def test_two_processes_that_meet_a_damaged_file_begin_one_new_file(path: Path) -> None:
    begin_with(path, b"damaged" * 1000)
    script = (
        "store.write([(Entry(str(__import__('os').getpid()).encode(),'t','s','m','e',b'',Usage(),time.time(),0), 0)])"
    )
    both = [in_another_process(path, script) for _ in range(2)]
    for process in both:
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
    with store(path) as file:
        assert file.size()[0] == 2
        assert all(file.get(str(process.pid).encode()) is not None for process in both)

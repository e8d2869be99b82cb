from __future__ import annotations

import asyncio
import fcntl
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.ledger.journal import BadLine, Journal, JournalUnavailable, owner_of, parse
from serving.ledger.row import Row


def lines(directory: Path) -> list[tuple[str, str]]:
    """(kind, request id) of every line, file by file."""
    files = sorted(directory.glob("*.jsonl"), key=lambda p: int(p.name.split(".")[-2]))
    parsed = [parse(line) for path in files for line in path.read_bytes().splitlines()]
    return [(kind, row.request_id) for kind, row in parsed]


def lockable(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def only_file(directory: Path) -> Path:
    (path,) = directory.glob("*.jsonl")
    return path


async def synced(journal: Journal, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await journal.keep_synced(0.01)


@contextmanager
def disk_full_after(path: Path, more_bytes: int) -> Iterator[None]:
    """The kernel takes so many bytes more for a file and writes no further, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_request_is_written_before_and_after(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "gateway#x/1")
    row = Row(request_id="a", at_ms=5, tenant="t", tags=["x"])
    journal.open(row)
    assert lines(tmp_path) == [("open", "a")]
    row.status, row.cost_nusd = "answered", 7
    journal.close(row)
    journal.record(Row(request_id="b", at_ms=6, status="cached"))
    assert lines(tmp_path) == [("open", "a"), ("close", "a"), ("close", "b")]
    (path,) = tmp_path.glob("*.jsonl")
    assert parse(path.read_bytes().splitlines()[1]) == ("close", row)
    assert owner_of(path) == journal.owner
    assert path.stat().st_mode & 0o077 == 0
    journal.stop()


def test_the_file_is_locked_while_its_process_may_write(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "r")
    (path,) = tmp_path.glob("*.jsonl")
    assert not lockable(path)
    journal.stop()
    assert lockable(path)


def test_a_file_deleted_before_it_was_locked_is_not_used(tmp_path: Path) -> None:
    """The writer may take a file that is not locked yet for a dead owner's."""
    real = fcntl.flock
    seen: list[Path] = []

    def deleted_first(fd: int, how: int) -> None:
        if not seen:
            seen.extend(tmp_path.glob("*.jsonl"))
            seen[0].unlink()
        real(fd, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", deleted_first)
        journal = Journal(tmp_path, "r")
    journal.record(Row(request_id="a", at_ms=1))
    assert lines(tmp_path) == [("close", "a")]
    assert not seen[0].exists()
    journal.stop()


def test_a_full_file_is_followed_by_another_and_released_when_its_requests_have_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "r", rotate_bytes=2_000)
    long = Row(request_id="long", at_ms=1)
    journal.open(long)
    (first,) = tmp_path.glob("*.jsonl")
    for i in range(6):
        row = Row(request_id=f"r{i}", at_ms=1)
        journal.open(row)
        journal.close(row)
    assert len(list(tmp_path.glob("*.jsonl"))) > 2
    assert not lockable(first)
    journal.close(long)
    assert b'"long"' in first.read_bytes().splitlines()[-1]
    assert lockable(first)
    assert sum(not lockable(path) for path in tmp_path.glob("*.jsonl")) == 1
    assert len(lines(tmp_path)) == 14
    journal.stop()


def test_a_full_disk_refuses_the_request_and_leaves_no_half_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "r")
    journal.record(Row(request_id="a", at_ms=1))
    (path,) = tmp_path.glob("*.jsonl")
    with disk_full_after(path, 100):
        with pytest.raises(JournalUnavailable, match="free space"):
            journal.open(Row(request_id="b", at_ms=1))
        with pytest.raises(JournalUnavailable):
            journal.record(Row(request_id="c", at_ms=1))
    journal.record(Row(request_id="d", at_ms=1))
    assert lines(tmp_path) == [("close", "a"), ("close", "d")]
    journal.stop()


@pytest.mark.parametrize("then", ["sync", "next", "stop"])
def test_an_end_that_the_disk_refused_is_written_later(tmp_path: Path, then: str) -> None:
    journal = Journal(tmp_path, "r")
    row = Row(request_id="a", at_ms=1)
    journal.open(row)
    with disk_full_after(only_file(tmp_path), 100):
        journal.close(row)
        assert lines(tmp_path) == [("open", "a")]
    if then == "sync":
        asyncio.run(synced(journal, 0.1))
    elif then == "next":
        journal.record(Row(request_id="b", at_ms=1))
    journal.stop()
    assert lines(tmp_path)[:2] == [("open", "a"), ("close", "a")]


def test_syncing_leaves_no_descriptor_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "r")

    def once() -> int:
        journal.record(Row(request_id="a", at_ms=1))
        asyncio.run(synced(journal, 0.05))
        return len(list(Path("/proc/self/fd").iterdir()))

    assert len({once() for _ in range(4)}) == 1
    journal.stop()


def test_keys_of_a_newer_version_are_passed_over() -> None:
    assert parse(b'{"open":{"request_id":"a","at_ms":1,"new_thing":[1]}}') == ("open", Row(request_id="a", at_ms=1))


def test_nul_which_postgresql_refuses_is_replaced() -> None:
    _, row = parse(b'{"close":{"request_id":"a","at_ms":1,"requested_model":"x\\u0000y"}}')
    assert row.requested_model == "x\ufffdy"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"half {",
        b"[]",
        b"{}",
        b'{"open":{"at_ms":1}}',
        b'{"open":{"request_id":"a","at_ms":"1"}}',
        b'{"ajar":{"request_id":"a","at_ms":1}}',
        b'{"open":{"request_id":"a","at_ms":1},"close":{"request_id":"a","at_ms":1}}',
        b'{"close":{"request_id":"a","at_ms":1,"status":"fine"}}',
        b'{"close":{"request_id":"a","at_ms":1,"cost_nusd":9223372036854775808}}',
        b'{"close":{"request_id":"\xff","at_ms":1}}',
    ],
)
def test_a_line_that_means_nothing_is_a_bad_line(line: bytes) -> None:
    with pytest.raises(BadLine):
        parse(line)

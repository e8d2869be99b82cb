from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, text
from sqlalchemy.exc import OperationalError

from models.errors import ConfigError, StartError
from serving.ledger.journal import Journal, _line
from serving.ledger.row import Row
from serving.ledger.schema import journals, open_requests, requests
from serving.ledger.store import DAY_MS, Spend, Store, epoch_ms
from serving.ledger.writer import REJECTED_FILE, Writer


def rows(store: Store) -> dict[str, str]:
    with store.read() as connection:
        return dict(connection.execute(select(requests.c.request_id, requests.c.status)).all())


def still_open(store: Store) -> set[str]:
    with store.read() as connection:
        return set(connection.execute(select(open_requests.c.request_id)).scalars())


def held_file(directory: Path, name: str = "r.1.1.1.jsonl") -> int:
    """A journal of a living owner, to be written by hand."""
    fd = os.open(directory / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/ledger.db")
    yield opened
    opened.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journals"


@pytest.fixture
def writer(store: Store, directory: Path) -> Iterator[Writer]:
    with Writer(store, directory) as opened:
        yield opened


@pytest.fixture
def journal(directory: Path) -> Journal:
    return Journal(directory, "r")


def test_a_request_is_visible_when_it_has_ended(store: Store, writer: Writer, journal: Journal) -> None:
    row = Row(request_id="a", at_ms=1, tenant="t", tags=["x", "ü"], score=0.5)
    journal.open(row)
    assert writer.ingest_once().rows == 0
    assert rows(store) == {}
    assert still_open(store) == {"a"}
    row.status, row.cost_nusd, row.ttft_ms = "answered", 2**60, 1.5
    journal.close(row)
    stats = writer.ingest_once()
    assert (stats.rows, stats.lost, stats.corrupt, stats.lag_bytes) == (1, 0, 0, 0)
    assert still_open(store) == set()
    with store.read() as connection:
        (stored,) = connection.execute(select(requests)).mappings()
    assert Row(**stored) == row
    assert writer.ingest_once().rows == 0


def test_requests_left_open_by_a_dead_replica_are_lost(
    store: Store, writer: Writer, journal: Journal, directory: Path
) -> None:
    for name in "abc":
        journal.open(Row(request_id=name, at_ms=ord(name), tenant="t"))
    writer.ingest_once()
    journal.close(Row(request_id="b", at_ms=ord("b"), status="answered"))
    journal.stop()
    stats = writer.ingest_once()
    assert rows(store) == {"a": "lost", "b": "answered", "c": "lost"}
    assert (stats.rows, stats.lost, stats.ended) == (3, 2, [journal.owner])
    assert list(directory.glob("*.jsonl")) == []
    assert still_open(store) == set()
    with store.read() as connection:
        assert connection.execute(select(journals)).all() == []
        lost = connection.execute(select(requests).where(requests.c.request_id == "a")).mappings().one()
    assert (lost["at_ms"], lost["tenant"], lost["error_code"]) == (ord("a"), "t", "replica_lost")


def test_a_replica_that_only_rotated_is_not_dead(writer: Writer, directory: Path) -> None:
    journal = Journal(directory, "r", rotate_bytes=1_000)
    for i in range(5):
        journal.record(Row(request_id=str(i), at_ms=1))
    assert len(list(directory.glob("*.jsonl"))) > 1
    stats = writer.ingest_once()
    assert (stats.rows, stats.ended) == (5, [])
    assert len(list(directory.glob("*.jsonl"))) == 1
    journal.stop()
    assert writer.ingest_once().ended == [journal.owner]


def test_what_is_open_survives_a_restart_of_the_writer(store: Store, journal: Journal, directory: Path) -> None:
    row = Row(request_id="a", at_ms=1)
    journal.open(row)
    with Writer(store, directory) as first:
        first.ingest_once()
    row.status = "answered"
    journal.close(row)
    with Writer(store, directory) as second:
        assert second.ingest_once().rows == 1
    assert rows(store) == {"a": "answered"}
    assert still_open(store) == set()


def test_a_bad_line_is_counted_kept_and_passed_over(store: Store, writer: Writer, directory: Path) -> None:
    fd = held_file(directory)
    os.write(fd, _line(b"close", Row(request_id="a", at_ms=1)) + b"garbage\n" + b'{"close":{}}\n')
    os.write(fd, _line(b"close", Row(request_id="b", at_ms=1)) + b'{"close":{"request_id":"half')
    stats = writer.ingest_once()
    assert (stats.rows, stats.corrupt, stats.lag_bytes) == (2, 2, 28)
    assert writer.ingest_once().corrupt == 0
    os.close(fd)
    assert writer.ingest_once().corrupt == 1
    kept = (directory / REJECTED_FILE).read_bytes().splitlines()
    assert kept == [b"garbage", b'{"close":{}}', b'{"close":{"request_id":"half']
    assert rows(store).keys() == {"a", "b"}


def test_a_line_longer_than_a_chunk_is_taken(store: Store, writer: Writer, journal: Journal) -> None:
    journal.record(Row(request_id="a", at_ms=1, reason="x" * (5 << 20)))
    journal.record(Row(request_id="b", at_ms=1))
    assert writer.ingest_once().rows == 2


def test_a_second_writer_is_refused_and_told_who_writes(store: Store, writer: Writer, directory: Path) -> None:
    with pytest.raises(StartError, match=rf"pid {os.getpid()}\b.*state_dir"):
        Writer(store, directory)
    writer.close()
    writer._lock = os.open(directory, os.O_RDONLY)  # for the fixture to close
    Writer(store, directory).close()


def test_a_failing_database_loses_nothing(store: Store, writer: Writer, journal: Journal, directory: Path) -> None:
    other = Journal(directory, "zz")
    journal.record(Row(request_id="a", at_ms=1, billed_nusd=5))
    other.record(Row(request_id="b", at_ms=1, billed_nusd=7))
    real, calls = store.put, 0

    def fails_once(*args: object) -> set[str]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OperationalError("insert", {}, Exception("gone"))
        return real(*args)  # type: ignore[arg-type]

    store.put = fails_once  # type: ignore[method-assign]
    with pytest.raises(OperationalError):
        writer.ingest_once()
    stats = writer.ingest_once()
    assert stats.rows == 2
    assert sum(spend.nusd for spend in stats.spend) == 12
    assert rows(store).keys() == {"a", "b"}


def test_only_what_is_new_counts_as_spent(store: Store, writer: Writer, directory: Path) -> None:
    line = _line(b"close", Row(request_id="a", at_ms=9, tenant="t", key_id="k", billed_nusd=5, status="answered"))
    fd = held_file(directory)
    os.write(fd, line + line)
    assert writer.ingest_once().spend == [Spend(9, "t", "k", 5)]
    os.write(fd, line)
    assert writer.ingest_once().spend == []
    assert store.spend_since(0) == [Spend(9, "t", "k", 5)]
    assert store.spend_since(10) == []
    os.close(fd)


def test_an_end_replaces_lost_and_never_the_other_way(store: Store, writer: Writer, directory: Path) -> None:
    lost, answered = Row(request_id="a", at_ms=1), Row(request_id="a", at_ms=1, status="answered")
    for row, then in ((lost, "lost"), (answered, "answered"), (lost, "answered")):
        with store.write() as connection:
            store.put(connection, [row])
        assert rows(store) == {"a": then}


def test_a_restored_database_closes_what_vanished_journals_left_open(
    store: Store, journal: Journal, directory: Path
) -> None:
    journal.open(Row(request_id="a", at_ms=1))
    with Writer(store, directory) as writer:
        writer.ingest_once()
    shutil.rmtree(directory)
    with Writer(store, directory) as writer:
        assert writer.ingest_once().lost == 1
    assert rows(store) == {"a": "lost"}


def test_retention_deletes_what_is_older(store: Store, writer: Writer, journal: Journal) -> None:
    now_ms = epoch_ms()
    for days in (0, 1, 3, 40):
        journal.record(Row(request_id=str(days), at_ms=now_ms - days * DAY_MS - 1000))
    store.extend_uptime("small/0", 0, now_ms - 50 * DAY_MS, 1)
    writer.ingest_once()
    assert writer.retain(2) == 2
    assert rows(store).keys() == {"0", "1"}
    with store.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM engine_uptime")).scalar() == 0
    with pytest.raises(ConfigError, match="at least 1"):
        writer.retain(0)


def test_deleting_a_tenant_includes_what_stands_in_journals(store: Store, writer: Writer, journal: Journal) -> None:
    journal.record(Row(request_id="a", at_ms=1, tenant="t"))
    journal.record(Row(request_id="b", at_ms=1, tenant="u"))
    journal.open(Row(request_id="c", at_ms=1, tenant="t"))
    assert writer.delete_tenant("t") == 1
    assert rows(store).keys() == {"b"}
    assert still_open(store) == set()


ids = st.sampled_from("abcdef")
events = st.lists(
    st.tuples(st.sampled_from(["open", "close"]), ids, st.sampled_from(["answered", "failed"])), max_size=30
)


@settings(max_examples=25, deadline=None)
@given(events=events, cuts=st.lists(st.integers(1, 900), max_size=4), twice=st.booleans(), restart=st.booleans())
def test_however_lines_arrive_each_request_is_there_once(
    sqlite: Store, events: list[tuple[str, str, str]], cuts: list[int], twice: bool, restart: bool
) -> None:
    """Cut anywhere, read in pieces, by one writer or several, appended once or twice: the first end, else lost."""
    with sqlite.write() as connection:
        for table in (requests, open_requests, journals):
            connection.execute(delete(table))
    ends: dict[str, str] = {}
    for kind, name, status in events:
        if kind == "close":
            ends.setdefault(name, status)
    data = b"".join(
        _line(kind.encode(), replace(Row(request_id=name, at_ms=1), status=status)) for kind, name, status in events
    )
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        writer = Writer(sqlite, directory)
        for name in ["r.1.1.1.jsonl", "r.2.1.1.jsonl"][: 1 + twice]:
            fd, rest = held_file(directory, name), data
            for cut in [*cuts, len(data)]:
                os.write(fd, rest[:cut])
                rest = rest[cut:]
                writer.ingest_once()
                if restart:
                    writer.close()
                    writer = Writer(sqlite, directory)
            os.close(fd)
            writer.ingest_once()
        writer.close()
        assert list(directory.glob("*.jsonl")) == []
    assert rows(sqlite) == {name: "lost" for _, name, _ in events} | ends
    assert still_open(sqlite) == set()

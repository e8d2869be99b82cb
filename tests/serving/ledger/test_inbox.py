"""Copies of other nodes' journals: prefixes, held while more may come, buried by the writer when nothing does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from models.errors import BadRequest
from serving.ledger.grants import HOLD_S
from serving.ledger.inbox import AWAY, Inbox, Piece
from serving.ledger.journal import Journal
from serving.ledger.row import Row
from serving.ledger.schema import open_requests, requests
from serving.ledger.store import Store
from serving.ledger.writer import Writer


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Head:
    """Ledger, writer and inbox of a head, which may be restarted."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.directory = Clock(), folder / "journal"
        self.store = Store.open(f"sqlite:///{folder / 'ledger.db'}")
        self._start()

    def _start(self) -> None:
        self.writer = Writer(self.store, self.directory)
        self.inbox = Inbox(self.directory, self.clock)

    def killed_and_restarted(self) -> None:
        """Its locks are gone with the process, its files are not."""
        self.inbox.close()
        self.writer.close()
        self._start()

    def reads(self) -> int:
        """One pass; returns how many were lost by it."""
        self.inbox.release_silent()
        lost = self.writer.ingest_once().lost
        self.inbox.passed()
        return lost

    def statuses(self) -> dict[str, str]:
        with self.store.read() as connection:
            return {row.request_id: row.status for row in connection.execute(select(requests))}

    def open(self) -> set[str]:
        with self.store.read() as connection:
            return set(connection.execute(select(open_requests.c.request_id)).scalars())

    def copies(self) -> list[Path]:
        return list(self.directory.glob(f"{AWAY}*"))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    found = Head(tmp_path / "head")
    yield found
    found.inbox.close()
    found.writer.close()
    found.store.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A gateway's on another node: one request done, one under way."""
    found = Journal(tmp_path / "node", f"{AWAY}192.0.2.2-abc")
    for name in ("done", "open"):
        found.open(Row(request_id=name, at_ms=1))
    found.close(Row(request_id="done", at_ms=1, status="answered", billed_nusd=7))
    yield found
    found.stop()


def of(journal: Journal) -> tuple[str, bytes]:
    path = next(journal._directory.glob("*"))
    return path.name, path.read_bytes()


def test_rows_come_while_the_gateway_lives_and_nothing_is_lost(head: Head, journal: Journal) -> None:
    name, data = of(journal)
    assert head.inbox.take([Piece(name, 0, data)], {}).sizes == {name: len(data)}
    assert head.reads() == 0 and head.reads() == 0
    assert head.statuses() == {"done": "answered"} and head.open() == {"open"}


def test_a_piece_that_comes_twice_or_too_early_changes_nothing(head: Head, journal: Journal) -> None:
    name, data = of(journal)
    cut = data.index(b"\n") - 5  # in the middle of a line
    assert head.inbox.take([Piece(name, 10, data[10:])], {}).sizes == {name: 0}
    for _ in range(2):
        assert head.inbox.take([Piece(name, 0, data[:cut])], {}).sizes == {name: cut}
    head.reads()
    assert head.inbox.take([Piece(name, 5, data[5:])], {}).sizes == {name: len(data)}, "what is new of it is taken"
    head.reads()
    assert head.statuses() == {"done": "answered"} and head.copies()[0].read_bytes() == data


def test_a_dead_gateways_open_requests_are_lost_once(head: Head, journal: Journal) -> None:
    name, data = of(journal)
    head.inbox.take([Piece(name, 0, data[:50])], {})
    taken = head.inbox.take([Piece(name, 50, data[50:], over=True)], {})
    assert taken.done == {name} and taken.sizes == {}
    assert head.reads() == 1 and head.statuses() == {"done": "answered", "open": "lost"}
    assert head.copies() == [] and head.open() == set()
    assert head.inbox.take([Piece(name, 0, data, over=True)], {}).done == {name}, "the answer may be lost on the way"
    assert head.reads() == 0 and head.copies() == []


def test_a_journal_that_looked_dead_before_its_owner_had_locked_it_goes_on(head: Head, journal: Journal) -> None:
    name, data = of(journal)
    assert head.inbox.take([Piece(name, 0, over=True)], {}).done == {name}
    head.reads()
    assert head.inbox.take([Piece(name, 0, data[:50])], {}).sizes == {name: 50}
    assert head.inbox.take([Piece(name, 50, data[50:], over=True)], {}).done == {name}
    assert head.reads() == 1 and head.statuses() == {"done": "answered", "open": "lost"}


def test_nor_is_it_done_when_its_owner_has_died_meanwhile(head: Head, journal: Journal) -> None:
    name, data = of(journal)
    head.inbox.take([Piece(name, 0, over=True)], {})
    assert head.inbox.take([Piece(name, 0, data, over=True)], {}).done == {name}
    head.reads()
    assert head.statuses() == {"done": "answered", "open": "lost"}


def test_it_is_not_over_before_all_of_it_is_here(head: Head, journal: Journal) -> None:
    name, data = of(journal)
    assert head.inbox.take([Piece(name, 50, data[50:], over=True)], {}).done == frozenset()
    assert head.reads() == 0


def test_a_restarted_head_holds_its_copies_and_takes_up_where_they_end(head: Head, journal: Journal) -> None:
    name, data = of(journal)
    head.inbox.take([Piece(name, 0, data)], {})
    head.killed_and_restarted()
    assert head.reads() == 0 and head.open() == {"open"}
    journal.close(Row(request_id="open", at_ms=1, status="answered"))
    assert head.inbox.take([Piece(name, 0)], {}).sizes == {name: len(data)}
    head.inbox.take([Piece(name, len(data), of(journal)[1][len(data) :])], {})
    assert head.reads() == 0 and head.statuses() == {"done": "answered", "open": "answered"}


def test_a_node_that_is_silent_for_long_is_given_up_and_corrects_that_when_it_comes_back(
    head: Head, journal: Journal
) -> None:
    name, data = of(journal)
    head.inbox.take([Piece(name, 0, data)], {})
    head.clock.now_s += HOLD_S + 1
    assert head.reads() == 1 and head.statuses() == {"done": "answered", "open": "lost"} and head.copies() == []
    journal.close(Row(request_id="open", at_ms=1, status="answered"))
    assert head.inbox.take([Piece(name, len(data))], {}).sizes == {name: 0}
    head.inbox.take([Piece(name, 0, of(journal)[1])], {})
    head.reads()
    assert head.statuses() == {"done": "answered", "open": "answered"}


def test_money_counts_as_held_until_its_row_is_here_and_read(head: Head, journal: Journal) -> None:
    """By the node's clock, which may be any."""
    name, data = of(journal)
    head.inbox.take([Piece(name, 0, data)], {journal.owner: 17})
    assert head.inbox.read_ms(journal.owner) == 0
    head.reads()
    assert head.inbox.read_ms(journal.owner) == 17 and head.inbox.read_ms("another") == 0
    head.inbox.take([Piece(name, len(data), over=True)], {})
    head.reads()
    assert head.inbox.read_ms(journal.owner) == 0, "the dead are forgotten"


def test_money_counts_as_held_while_what_came_cannot_be_put_to_what_is_here(head: Head, journal: Journal) -> None:
    """As when a node comes back that was given up: the head has let go of its copy."""
    name, data = of(journal)
    head.inbox.take([Piece(name, 50, data[50:])], {journal.owner: 17})
    head.reads()
    assert head.inbox.read_ms(journal.owner) == 0
    head.inbox.take([Piece(name, 0, data)], {journal.owner: 18})
    head.reads()
    assert head.inbox.read_ms(journal.owner) == 18


def test_a_node_whose_lines_the_disk_refuses_is_not_silent(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{AWAY}192.0.2.2-abc.1.a.{number}.jsonl" for number in (1, 2)]
    head.inbox.take([Piece(name, 0, b"{}\n") for name in names], {})
    with monkeypatch.context() as full:
        full.setattr("os.write", lambda _fd, _what: 0)
        for _ in range(4):
            head.clock.now_s += HOLD_S / 2
            with pytest.raises(OSError, match="full"):
                head.inbox.take([Piece(name, 3, b"{}\n") for name in names], {})
            head.reads()
    assert head.inbox.take([Piece(name, 3) for name in names], {}).sizes == dict.fromkeys(names, 3)


@pytest.mark.parametrize("name", ["../ledger.db", "local.1.2.jsonl", f"{AWAY}a/b.jsonl", f"{AWAY}a.db"])
def test_only_a_nodes_journal_can_be_written(head: Head, name: str) -> None:
    with pytest.raises(BadRequest):
        head.inbox.take([Piece(name, 0, b"x")], {})
    assert head.copies() == []


def test_a_full_disk_leaves_a_whole_prefix(head: Head, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    name, data = of(journal)
    head.inbox.take([Piece(name, 0, data[:50])], {})
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, what: write(fd, what[: len(what) // 2]))
        with pytest.raises(OSError, match="full"):
            head.inbox.take([Piece(name, 50, data[50:])], {})
    assert head.copies()[0].read_bytes() == data[:50]
    assert head.inbox.take([Piece(name, 50, data[50:])], {}).sizes == {name: len(data)}

"""What a courier takes of the files it finds, whatever those are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from serving import courier
from serving.ledger.inbox import AWAY
from serving.ledger.journal import Journal
from serving.ledger.row import Row
from serving.runtime import Runtime


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path, f"{AWAY}192.0.2.2-a")
    yield found
    found.stop()


@pytest.mark.parametrize("look_back", [1, 100, 1 << 16])
def test_half_a_line_of_a_living_gateway_is_not_sent_however_small_the_parcel(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, look_back: int
) -> None:
    """A line that the disk refused in part is cut off again: what the head has would be no prefix any more."""
    monkeypatch.setattr(courier, "LOOK_BACK_BYTES", look_back)
    path = journal._segment.path
    for name in ("a", "b"):
        journal.record(Row(request_id=name, at_ms=1))
    whole = path.stat().st_size
    os.write(journal._segment.fd, b'{"close":{"request_id":"half')
    for there in (0, whole // 2, whole - 1, whole):
        for room in range(whole - there, whole - there + 20):
            piece, left = courier._piece(path, there, room)
            assert (piece.end, left, piece.over) == (whole, 0, False)
    piece, left = courier._piece(path, whole - 10, 4)
    assert (piece.end, left) == (whole - 6, 6), "a part of a whole line may go"


def test_of_a_dead_one_all_is_sent(journal: Journal) -> None:
    journal.record(Row(request_id="a", at_ms=1))
    path = journal._segment.path
    os.write(journal._segment.fd, b"half")
    os.close(journal._segment.fd)
    size = path.stat().st_size
    piece, left = courier._piece(path, 0, 1 << 20)
    assert (piece.end, left, piece.over) == (size, 0, True)
    piece, left = courier._piece(path, 0, size - 2)
    assert (piece.end, left, piece.over) == (size - 2, 2, False)
    journal._segment.fd = os.open(path, os.O_RDWR)


def test_what_is_no_journal_is_left_alone_and_metrics_are_not_read_for_nobody(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path, "http://192.0.2.1:8000", metrics_in_service=False, clustered=True)
    journal = Journal(runtime.journal, f"{AWAY}192.0.2.2-a")
    journal.record(Row(request_id="a", at_ms=1))
    name = journal._segment.path.name
    runtime.metrics.mkdir(parents=True)
    (runtime.metrics / "gauge_livesum_1.db").write_bytes(b"torn")
    for alien in (f"{name} (copy).jsonl", "notes.jsonl", os.fsdecode(b"node-\xff.jsonl")):
        (runtime.journal / alien).write_bytes(b"{}\n")
    parcel = courier.Courier(runtime, cast(Any, None))._collect()
    assert [piece.name for piece in parcel.pieces] == [name] and list(parcel.cuts) == [journal.owner]
    journal.stop()

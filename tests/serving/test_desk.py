"""What the head does with parcels of other nodes, whatever else is wrong there."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from models.errors import Unavailable
from serving import desk as desk_
from serving.config import Config, parse
from serving.desk import Desk, Parcel
from serving.ledger.inbox import Piece, Taken
from serving.ledger.store import epoch_ms
from serving.runtime import Runtime, fresh_run_folder

NAME = "node-192.0.2.2-a.1.b.1.jsonl"
CONFIG = """
tiers:
  - name: boxes
    price: {{usd_per_hour: 1}}
    backends: [{{kind: members, profile: embedded, file: {folder}/members.json}}]
"""


async def take(pieces: Sequence[Piece], _cuts: Mapping[str, int]) -> Taken:
    return Taken({piece.name: piece.end for piece in pieces}, frozenset())


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(CONFIG.format(folder=tmp_path))


@pytest.fixture
def desk(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(desk_, "GATHER_EVERY_S", -1.0)
    runtime = Runtime(tmp_path / "state", "", metrics_in_service=False, clustered=True)
    runtime.run.mkdir(parents=True)
    fresh_run_folder(runtime)
    return Desk(config, runtime, cast(Any, None), None, take)


async def test_a_restarted_head_takes_journals_in_though_a_list_of_boxes_is_broken(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "members.json").write_text("[broken")
    with caplog.at_level(logging.WARNING):
        for offset in range(3):
            receipt = await desk.ship(Parcel("192.0.2.2", "those it has", (Piece(NAME, offset, b"x"),)))
            assert receipt.taken.sizes == {NAME: offset + 1} and receipt.papers is None
    assert len(caplog.records) == 1
    with pytest.raises(Unavailable):
        await desk.ship(Parcel("192.0.2.3"))
    (tmp_path / "members.json").unlink()
    assert (await desk.ship(Parcel("192.0.2.3"))).papers


async def test_nodes_may_tell_all_at_once_what_they_have_still_to_do(desk: Desk) -> None:
    desk._runtime.draining_file.touch()
    for _ in range(20):
        parcels = [Parcel(f"192.0.2.{number}", undone=float(number)) for number in range(20)]
        await asyncio.gather(*map(desk.ship, parcels))
        told = json.loads(desk._runtime.nodes_file.read_text())
        assert told == {parcel.node: parcel.undone for parcel in parcels}


async def test_a_clock_that_is_off_is_told_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    async def ship(off_s: float) -> int:
        cuts = {"node-a.1.b": epoch_ms() + int(off_s * 1000), "node-c.1.d": 0}
        await desk.ship(Parcel("192.0.2.2", "x", (Piece(NAME, 0),), cuts))
        return len(caplog.records)

    with caplog.at_level(logging.WARNING):
        assert [await ship(off_s) for off_s in (0, -20, 3600, 3600, 0, -7200, -7200)] == [0, 0, 1, 1, 1, 2, 2]
    assert "192.0.2.2: its clock is +3600 s off" in caplog.text and "-7200 s" in caplog.text

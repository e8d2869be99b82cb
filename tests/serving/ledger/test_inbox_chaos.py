"""Whatever is lost on the way, comes late, dies or is cut off: each request has one row in the end, its true one, its
cost is counted once, and no gateway is told that its lines are in the ledger before they are."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select

from serving import courier
from serving.courier import Courier
from serving.desk import Parcel, Receipt
from serving.ledger.grants import HOLD_S
from serving.ledger.inbox import AWAY, Inbox
from serving.ledger.journal import Journal
from serving.ledger.row import Row
from serving.ledger.schema import open_requests, requests
from serving.ledger.store import Store
from serving.ledger.writer import Writer
from serving.runtime import Runtime

COST_NUSD = 7


class World:
    """A node with gateways and a courier, and the head."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance, self.head, self.now_s, self.now_ms = chance, folder / "head", 0.0, 0
        self.runtime = Runtime(folder / "node", "", metrics_in_service=False)
        self.store = Store.open(f"sqlite:///{folder / 'ledger.db'}")
        self.writer, self.inbox = Writer(self.store, self.head), Inbox(self.head, lambda: self.now_s)
        self.gateways: dict[Journal, list[str]] = {}
        self.true: dict[str, str] = {}
        self.settled: list[tuple[str, str, int]] = []  # owner, request, by the node's clock
        self.late: list[Parcel] = []
        self.asked = self.spent_nusd = 0
        self.new_courier()

    def new_courier(self) -> None:
        self.courier = Courier(self.runtime, cast(Any, None))

    def tick(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def new_gateway(self) -> None:
        name = f"{AWAY}192.0.2.2-{len(self.true)}x{self.asked}"
        self.gateways[Journal(self.runtime.journal, name, rotate_bytes=self.chance.choice([2_000, 1 << 20]))] = []

    def requests_begin(self) -> None:
        for journal, under_way in self.gateways.items():
            self.asked += 1
            under_way.append(f"r{self.asked}")
            journal.open(Row(request_id=under_way[-1], at_ms=1))

    def requests_end(self) -> None:
        for journal, under_way in self.gateways.items():
            for name in self.chance.sample(under_way, len(under_way) // 2):
                under_way.remove(name)
                journal.close(
                    Row(request_id=name, at_ms=1, status="answered", billed_nusd=COST_NUSD, tenant="ü\0\u2028")
                )
                self.true[name] = "answered"
                self.settled.append((journal.owner, name, self.tick()))

    def gateway_killed(self) -> None:
        if self.gateways:
            journal = self.chance.choice(list(self.gateways))
            self.true.update(dict.fromkeys(self.gateways.pop(journal), "lost"))
            for segment in {journal._segment, *journal._opened.values()}:
                os.write(segment.fd, b'{"close":{"reque')
                os.close(segment.fd)

    def parcel_sent(self) -> None:
        parcel = self.courier._collect()
        fate = self.chance.choice(["well", "well", "well", "answer lost", "late"])
        if fate == "late":
            self.late.append(parcel)
            return
        taken = self.inbox.take(parcel.pieces, parcel.cuts)
        if fate == "well":
            self.courier._apply(parcel, Receipt(taken, False, None))

    def late_parcel(self) -> None:
        if self.late:
            parcel = self.late.pop(self.chance.randrange(len(self.late)))
            self.inbox.take(parcel.pieces, parcel.cuts)

    def head_reads(self) -> None:
        self.inbox.release_silent()
        self.spent_nusd += sum(spend.nusd for spend in self.writer.ingest_once().spend)
        self.inbox.passed()
        rows = self.rows()
        for owner, name, at_ms in self.settled:
            assert rows.get(name) == "answered" or at_ms >= self.inbox.read_ms(owner)

    def head_killed(self) -> None:
        self.inbox.close()
        self.writer.close()
        self.writer, self.inbox = Writer(self.store, self.head), Inbox(self.head, lambda: self.now_s)

    def given_up(self) -> None:
        self.now_s += HOLD_S + 1

    def rows(self) -> dict[str, str]:
        with self.store.read() as connection:
            return {row.request_id: row.status for row in connection.execute(select(requests))}

    def end(self) -> None:
        """Everything dies but the courier and the head, until nothing is left to say."""
        while self.gateways:
            self.gateway_killed()
        while (parcel := self.courier._collect()).pieces:
            self.courier._apply(parcel, Receipt(self.inbox.take(parcel.pieces, parcel.cuts), False, None))
        self.given_up()
        self.head_reads()
        with self.store.read() as connection:
            assert not connection.execute(select(open_requests)).all()
        self.inbox.close()
        self.writer.close()


@pytest.mark.parametrize("seed", range(6))
def test_each_request_has_its_row_once_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    world = World(tmp_path, random.Random(seed))
    monkeypatch.setattr(courier, "epoch_ms", world.tick)
    monkeypatch.setattr(courier, "MAX_PARCEL_BYTES", world.chance.choice([500, 3_000, 20_000]))
    often: list[Callable[[], None]] = [world.requests_begin, world.requests_end, world.parcel_sent, world.parcel_sent]
    seldom = [world.gateway_killed, world.new_gateway, world.new_courier, world.head_killed, world.given_up]
    world.new_gateway()
    for _ in range(150):
        world.chance.choice(
            [*often, *often, *often, world.head_reads, world.late_parcel, world.chance.choice(seldom)]
        )()
    world.end()
    assert world.rows() == world.true
    assert world.spent_nusd == COST_NUSD * sum(status == "answered" for status in world.true.values()) > 0
    world.store.close()

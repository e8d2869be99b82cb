"""From a rented box to an answer through the gateway's own pool: the file, TLS by the cluster's CA, the box's key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from cluster import operate
from cluster.config import load
from cluster.fleet import Fleet
from cluster.members import FILE
from models.pool import Pool
from models.types import Call, Capabilities, Deadline
from serving.members import Members
from tests.cluster.conftest import written
from tests.cluster.fake_boxes import FakeBoxes
from tests.cluster.fake_vast import FakeVast


def call() -> Call:
    body = {"messages": [{"role": "user", "content": "What is a farthing?"}]}
    return Call("chat/completions", body, "req_1", Deadline.after(10.0))


async def test_a_rented_box_answers_through_the_pool_and_one_taken_away_does_not(
    fake: FakeVast, boxes: FakeBoxes, document: dict[str, Any], tmp_path: Path
) -> None:
    deck = operate.open_deck(load(written(document, tmp_path)), lambda _: None)
    await asyncio.to_thread(operate.up, deck)  # the controller blocks, and has loops of its own
    async with aiohttp.ClientSession() as session:
        pool = Pool("small", [])
        members = Members(pool, deck.config.folder / FILE, Capabilities(), session)
        members.look()
        reply = await pool.ask(call())
        assert reply.completion is not None and reply.completion.body["choices"]
        assert [m.ready for m in await pool.health()] == [True]
        await asyncio.to_thread(operate.up, deck)  # a new key under the same path
        await asyncio.to_thread(Fleet(deck).tick)
        members.look()
        assert (await pool.ask(call())).completion is not None
        await asyncio.to_thread(operate.down, deck)
        members.look()
        assert pool.backends == []
    assert fake.standing() == []

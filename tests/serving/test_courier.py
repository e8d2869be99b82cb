"""A node without gateways' files of the head: its courier brings journals there and papers back, whatever dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from models.errors import StartError
from models.types import Usage
from serving import courier as courier_
from serving import members, papers
from serving.bookkeeper import Bookkeeper
from serving.cache.exact import Entry
from serving.cache.remote import RemoteCache
from serving.config import Config, parse
from serving.courier import Courier
from serving.desk import Parcel, Receipt
from serving.ledger import texts
from serving.ledger.grants import Amounts, Ask, LeaseRequest
from serving.ledger.inbox import AWAY
from serving.ledger.journal import Journal
from serving.ledger.keys import Limits
from serving.ledger.row import Row
from serving.ledger.schema import requests
from serving.ledger.texts import Kept
from serving.runtime import Runtime, fresh_run_folder
from serving.shared import open_away

NODE = "192.0.2.2"
CONFIG = """
state_dir: {state}
listen: {{host: 0.0.0.0}}
ray: {{address: "192.0.2.1:6379"}}
gateway: {{nodes: every}}
budget: {{frontier_usd_per_day: 1}}
tiers:
  - {{name: small, backends: [{{kind: engine, profile: embedded, gpus: 0}}]}}
  - name: boxes
    price: {{usd_per_hour: 1}}
    backends: [{{kind: members, profile: embedded, file: {state}/members.json}}]
"""


class Wire:
    """To the head, which may be out of reach, before a call or after it."""

    def __init__(self, books: Bookkeeper) -> None:
        self.books, self.cut, self.answers_lost = books, False, False

    async def ship(self, parcel: Parcel) -> Receipt:
        if self.cut:
            raise ConnectionError
        receipt = await self.books.desk.ship(parcel)
        if self.answers_lost:
            raise ConnectionError
        return receipt

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            if self.cut:
                raise ConnectionError
            return await getattr(self.books.desk, name)(*arguments)

        return call


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(CONFIG.format(state=tmp_path / "head"))


@pytest.fixture
def at_head(config: Config) -> Runtime:
    found = Runtime(config.state_dir, "http://192.0.2.1:8000", metrics_in_service=False, clustered=True)
    found.run.mkdir(parents=True)
    fresh_run_folder(found)
    (found.run / "secrets" / "frontier-0").write_text("sk-provider")
    tell_engines(found, 1)
    return found


@pytest.fixture
async def wire(config: Config, at_head: Runtime) -> AsyncIterator[Wire]:
    books = Bookkeeper(config, at_head)
    await books.start()
    yield Wire(books)
    await books.close()


@pytest.fixture
def runtime(at_head: Runtime, tmp_path: Path) -> Runtime:
    """The node's, on a disk of its own."""
    return Runtime(tmp_path / "node", at_head.base_url, metrics_in_service=False, clustered=True).on_node(NODE)


@pytest.fixture
async def carrier(runtime: Runtime, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Courier]:
    monkeypatch.setattr(courier_, "AGAIN_S", 0.05)
    monkeypatch.setattr(courier_, "SHIP_EVERY_S", 0.02)
    found = Courier(runtime, wire)
    await found.start()
    task = asyncio.create_task(found.keep())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await found.close()


def tell_engines(runtime: Runtime, count: int) -> None:
    key = str(runtime.engine_token_file)
    listed = [{"url": f"http://192.0.2.{n}:1/v1", "model": "m", "key_file": key} for n in range(count)]
    runtime.engines_file.write_text(json.dumps({"version": 1, "members": listed}))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


def statuses(wire: Wire) -> dict[str, str]:
    with wire.books._store.read() as connection:
        return {row.request_id: row.status for row in connection.execute(select(requests))}


def one_done(journal: Journal, name: str) -> None:
    journal.open(Row(request_id=name, at_ms=1))
    journal.close(Row(request_id=name, at_ms=1, status="answered"))


async def test_rows_of_a_living_gateway_come_to_the_ledger(runtime: Runtime, wire: Wire, carrier: Courier) -> None:
    journal = Journal(runtime.journal, f"{AWAY}{NODE}-a")
    journal.open(Row(request_id="waits", at_ms=1))
    one_done(journal, "one")
    await until(lambda: statuses(wire) == {"one": "answered"})
    wire.cut = True
    await asyncio.sleep(0.1)
    one_done(journal, "two")
    await asyncio.sleep(0.3)
    assert statuses(wire) == {"one": "answered"}
    wire.cut = False
    await until(lambda: statuses(wire) == {"one": "answered", "two": "answered"})
    journal.stop()
    await until(lambda: statuses(wire).get("waits") == "lost")
    await until(lambda: not list(runtime.journal.glob("*")))


async def test_a_killed_gateways_requests_are_lost_once_though_every_answer_is_lost(
    runtime: Runtime, wire: Wire, carrier: Courier
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from serving.ledger.journal import Journal; "
        "from serving.ledger.row import Row; j = Journal(Path(sys.argv[1]), sys.argv[2]); "
        "j.open(Row(request_id='x', at_ms=1)); j.record(Row(request_id='y', at_ms=1, status='cached')); "
        "os.write(j._segment.fd, b'{\"close\"'); os.kill(os.getpid(), 9)"
    )
    wire.answers_lost = True
    command = [sys.executable, "-c", code, str(runtime.journal), f"{AWAY}{NODE}-b"]
    await asyncio.to_thread(subprocess.run, command, check=False)
    await until(lambda: statuses(wire) == {"x": "lost", "y": "cached"})
    await asyncio.sleep(0.3)
    assert list(runtime.journal.glob("*")), "nobody has said that it is safe"
    wire.answers_lost = False
    await until(lambda: not list(runtime.journal.glob("*")))
    await asyncio.sleep(0.3)
    assert statuses(wire) == {"x": "lost", "y": "cached"}
    assert not list(wire.books._runtime.journal.glob(f"{AWAY}*"))


async def test_a_journal_longer_than_a_parcel_comes_whole(
    runtime: Runtime, wire: Wire, carrier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_, "MAX_PARCEL_BYTES", 700)  # less than a line
    journal = Journal(runtime.journal, f"{AWAY}{NODE}-c")
    for number in range(20):
        one_done(journal, f"r{number}")
    journal.stop()
    await until(lambda: len(statuses(wire)) == 20)
    assert set(statuses(wire).values()) == {"answered"}


async def test_one_process_of_a_node_carries_and_the_next_takes_over(
    runtime: Runtime, wire: Wire, carrier: Courier
) -> None:
    second = Courier(runtime, wire)
    await second.start()
    task = asyncio.create_task(second.keep())
    await until(lambda: carrier._lock is not None)
    await asyncio.sleep(0.2)
    assert second._lock is None
    os.close(carrier._lock or 0)  # as its death does
    carrier._lock = os.open("/dev/null", os.O_RDONLY)
    wire_of_the_dead = carrier._head
    carrier._head = Wire(wire.books)
    carrier._head.cut = True
    await until(lambda: second._lock is not None)
    journal = Journal(runtime.journal, f"{AWAY}{NODE}-d")
    one_done(journal, "after")
    await until(lambda: statuses(wire) == {"after": "answered"})
    journal.stop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await second.close()
    carrier._head = wire_of_the_dead


async def test_a_node_has_the_heads_papers_for_itself_alone(
    config: Config, at_head: Runtime, runtime: Runtime, carrier: Courier
) -> None:
    assert (runtime.run / "secrets" / "frontier-0").read_text() == "sk-provider"
    assert runtime.operator_token_file.read_text() == at_head.operator_token_file.read_text()
    modes = {p.stat().st_mode & 0o777 for p in runtime.run.rglob("*") if p.is_file() and "metrics" not in p.parts}
    assert modes == {0o600} and runtime.run.stat().st_mode & 0o777 == 0o700
    (engine,) = json.loads(runtime.engines_file.read_text())["members"]
    assert engine["key_file"] == str(runtime.engine_token_file)
    (at_head.state / "box.key").write_text("first")
    box = {"url": "https://192.0.2.9/v1", "model": "m", "key_file": str(at_head.state / "box.key")}
    (at_head.state / "members.json").write_text(json.dumps({"version": 1, "members": [box]}))
    tell_engines(at_head, 2)
    await until(lambda: len(json.loads(runtime.engines_file.read_text())["members"]) == 2)
    listed = runtime.members_file(at_head.state / "members.json")
    await until(lambda: json.loads(listed.read_text())["members"])
    (member,) = members.read(listed)
    assert member.key_file.read_text() == "first" and member.key_file.is_relative_to(runtime.run)
    (at_head.state / "box.key").write_text("rotated")
    await until(lambda: member.key_file.read_text() == "rotated")
    (at_head.state / "members.json").unlink()
    await until(lambda: not member.key_file.exists())


async def test_another_instance_finds_nothing_of_the_one_before(runtime: Runtime, wire: Wire, carrier: Courier) -> None:
    (runtime.metrics / "counter_1.db").touch()
    (runtime.run / "draining").touch()
    same = papers.gather(wire.books._config, wire.books._runtime)
    papers.place(same, runtime)
    assert (runtime.metrics / "counter_1.db").exists()
    papers.place({**same, papers.ENGINE_TOKEN: b"another's"}, runtime)
    assert not list(runtime.metrics.iterdir()) and not (runtime.run / "draining").exists()


async def test_draining_reaches_the_node_and_the_end_waits_for_its_journal(
    at_head: Runtime, runtime: Runtime, wire: Wire, carrier: Courier
) -> None:
    journal = Journal(runtime.journal, f"{AWAY}{NODE}-e")
    at_head.draining_file.touch()
    await until(runtime.draining_file.exists)
    one_done(journal, "last")
    await until(lambda: statuses(wire) == {"last": "answered"})
    await until(lambda: json.loads(at_head.nodes_file.read_text()) == {NODE: 0.0})
    journal.stop()
    await carrier.close()
    assert not list(runtime.journal.glob("*")), "its farewell took the rest along"
    assert not runtime.engine_token_file.exists() and not list((runtime.run).glob("secrets"))
    carrier._lock = None


async def test_papers_that_find_no_room_keep_no_journal_from_going(
    at_head: Runtime, runtime: Runtime, wire: Wire, carrier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    def full(*_: Any) -> None:
        tried.append(_)
        raise OSError("no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(papers, "place", full)
        tell_engines(at_head, 3)
        await until(lambda: tried)
        journal = Journal(runtime.journal, f"{AWAY}{NODE}-g")
        one_done(journal, "one")
        journal.stop()
        await until(lambda: statuses(wire) == {"one": "answered"})
        at_head.draining_file.touch()
        await until(runtime.draining_file.exists)
        await until(lambda: not list(runtime.journal.glob("*")))
    await until(lambda: len(json.loads(runtime.engines_file.read_text())["members"]) == 3)


async def test_without_the_head_a_node_does_not_start(
    runtime: Runtime, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_, "AGAIN_S", 0.02)
    monkeypatch.setattr(courier_, "START_PATIENCE_S", 0.1)
    wire.cut = True
    with pytest.raises(StartError, match="ConnectionError"):
        await Courier(runtime, wire).start()


async def test_what_a_nodes_gateway_settled_counts_as_held_until_the_ledger_has_it(
    runtime: Runtime, wire: Wire, carrier: Courier
) -> None:
    journal = Journal(runtime.journal, f"{AWAY}{NODE}-f")
    ask = Ask("k", "t", Limits(), Amounts(), Amounts(), Amounts(nusd=5))

    async def ingested_ms(number: int) -> int:
        return (await wire.books.lease(LeaseRequest(journal.owner, number, (ask,), True))).ingested_ms

    assert await ingested_ms(1) == 0
    one_done(journal, "one")
    await until(lambda: statuses(wire) == {"one": "answered"})
    await asyncio.sleep(0.5)
    known = await ingested_ms(2)
    assert known > 0
    wire.cut = True
    await asyncio.sleep(0.5)
    still = await ingested_ms(3)
    await asyncio.sleep(0.3)
    assert await ingested_ms(4) == still, "the head reads on, but nothing comes from there"
    journal.stop()


async def test_a_nodes_metrics_are_on_its_own_loopback(
    runtime: Runtime, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = Courier(replace(runtime, admin_port=port), wire)
    await found.start()
    task = asyncio.create_task(found.keep())
    await until(lambda: found._admin is not None)
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await found.close()


def entry(key: bytes, body: bytes = b"{}") -> Entry:
    import time

    return Entry(key, "t", "small", "m", "chat/completions", body, Usage(), time.time(), 3)


async def test_the_cache_of_a_node_is_the_heads(wire: Wire) -> None:
    one, two = RemoteCache(wire, 100_000), RemoteCache(wire, 100_000)
    missed, epoch = await one.look_up(b"k")
    assert missed is None
    one.put(entry(b"k"), epoch)
    await one.close()
    found, began = await two.look_up(b"k")
    assert found is not None and found.cost_nusd == 3
    cache = wire.books.desk._cache
    assert cache is not None
    assert began == await one.began(b"k")
    await cache.delete_entry(b"k")
    assert (await one.look_up(b"k"))[0] is None and (await two.look_up(b"k"))[0] is None
    two.put(entry(b"k"), began)  # its request began before the deletion
    one.put(entry(b"big", b"x" * 200_000), await one.began(b"big"))
    await asyncio.gather(one.close(), two.close())
    assert (await one.look_up(b"k"))[0] is None and (await one.look_up(b"big"))[0] is None


async def test_texts_of_a_node_are_kept_at_the_head(config: Config, runtime: Runtime, wire: Wire) -> None:
    away = await open_away(config, runtime, wire, "http://192.0.2.1:8000")
    kept = Kept("r", 1, "t", [{"role": "user", "content": "hi"}], "hello", False, 20)
    await asyncio.to_thread(away.save, [kept])
    assert texts.size_bytes(wire.books._store) == 20
    wire.cut = True
    with pytest.raises(ConnectionError):  # who keeps texts counts them as dropped
        await asyncio.to_thread(away.save, [kept])
    await away.close()


async def test_without_the_head_the_cache_misses_and_fails_nothing(wire: Wire) -> None:
    cache = RemoteCache(wire, 1000)
    wire.cut = True
    missed, epoch = await cache.look_up(b"k")
    assert missed is None
    wire.cut = False
    cache.put(entry(b"k"), epoch)  # nobody has said what was deleted meanwhile
    await cache.close()
    assert (await cache.look_up(b"k"))[0] is None
    wire.cut = True
    cache.put(entry(b"k"), 0)
    await cache.close()

"""The node's bookkeeper: journals into rows, leases, uptime, metrics on a port of its own, and its own health."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from models.errors import StartError
from serving.bookkeeper import STALE_S, Bookkeeper
from serving.config import Config, parse
from serving.ledger import texts
from serving.ledger.grants import Amounts, Ask, LeaseRequest
from serving.ledger.inbox import AWAY
from serving.ledger.journal import Journal
from serving.ledger.keys import Limits
from serving.ledger.row import Row
from serving.ledger.schema import engine_uptime, requests
from serving.ledger.store import DAY_MS, Store, epoch_ms
from serving.ledger.texts import Kept
from serving.runtime import Runtime

CONFIG = """
state_dir: {state}
tiers: [{{name: small, price: {{usd_per_hour: 3.6}}, backends: [{{kind: engine, profile: embedded}}]}}]
budget: {{frontier_usd_per_day: 1}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(CONFIG.format(state=tmp_path))


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    (tmp_path / "run" / "metrics").mkdir(parents=True)
    return Runtime(tmp_path, "http://127.0.0.1:1", metrics_in_service=False, admin_port=free_port())


@pytest.fixture
async def bookkeeper(config: Config, runtime: Runtime) -> AsyncIterator[Bookkeeper]:
    found = Bookkeeper(config, runtime)
    await found.start()
    yield found
    await found.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.02)


def count(bookkeeper: Bookkeeper) -> int:
    with bookkeeper._store.read() as connection:
        return len(connection.execute(select(requests)).all())


async def test_what_a_replica_writes_becomes_rows_and_a_dead_ones_requests_are_lost(
    bookkeeper: Bookkeeper, runtime: Runtime
) -> None:
    journal = Journal(runtime.journal, "gateway")
    journal.record(Row(request_id="req_1", at_ms=1, status="answered"))
    await until(lambda: count(bookkeeper) == 1)
    journal.open(Row(request_id="req_2", at_ms=2))
    journal.stop()
    await until(lambda: count(bookkeeper) == 2)
    with bookkeeper._store.read() as connection:
        statuses = connection.execute(select(requests.c.status).order_by(requests.c.at_ms)).scalars().all()
    assert statuses == ["answered", "lost"]


async def test_closing_takes_what_is_still_in_the_journals(config: Config, runtime: Runtime) -> None:
    bookkeeper = Bookkeeper(config, runtime)
    await bookkeeper.start()
    journal = Journal(runtime.journal, "gateway")
    journal.record(Row(request_id="req_late", at_ms=1, status="answered"))
    await bookkeeper.close()
    again = Bookkeeper(config, runtime)
    await again.start()
    assert count(again) == 1
    await again.close()
    journal.stop()


async def test_it_ends_though_the_database_is_away_and_the_next_start_takes_the_rows(
    config: Config, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    bookkeeper = Bookkeeper(config, runtime)
    await bookkeeper.start()
    journal = Journal(runtime.journal, "gateway")
    with monkeypatch.context() as away:
        away.setattr(Store, "write", lambda _: (_ for _ in ()).throw(OSError("no route to the database")))
        journal.record(Row(request_id="req_late", at_ms=1, status="answered"))
        await bookkeeper.close()
    again = Bookkeeper(config, runtime)
    await again.start()
    assert count(again) == 1
    await again.close()
    journal.stop()


async def test_a_lease_is_bounded_by_the_configured_budget(bookkeeper: Bookkeeper) -> None:
    ask = Ask("", "default", Limits(), want=Amounts(nusd=2 * 10**9))
    (grant,) = (await bookkeeper.lease(LeaseRequest("r.1.a", 1, (ask,), whole=True))).grants
    assert grant.granted.nusd <= 10**9 and grant.blocked_by == "deployment"
    (grant,) = (await bookkeeper.lease(LeaseRequest("r.1.a", 2, (ask,)))).grants
    assert grant.granted.nusd <= 10**9


async def test_copies_of_other_nodes_journals_are_not_waited_for_where_no_node_has_gateways(
    config: Config, runtime: Runtime
) -> None:
    left = Journal(runtime.journal, f"{AWAY}192.0.2.2-a")
    left.open(Row(request_id="req_1", at_ms=1))
    left.stop()
    books = Bookkeeper(config, runtime)
    await books.start()
    assert count(books) == 1 and not list(runtime.journal.glob(f"{AWAY}*"))
    ask = Ask("", "default", Limits(), want=Amounts(nusd=1))
    (grant,) = (await books.lease(LeaseRequest("r.1.a", 1, (ask,), whole=True))).grants
    assert grant.granted.nusd >= 1
    await books.close()


async def test_the_engines_hours_are_written_down_at_the_configured_price(bookkeeper: Bookkeeper) -> None:
    def uptime() -> list[Any]:
        with bookkeeper._store.read() as connection:
            return list(connection.execute(select(engine_uptime)).mappings())

    await until(uptime)
    (row,) = uptime()
    assert (row["engine"], row["nusd_per_hour"]) == ("small", 3_600_000_000)
    assert row["to_ms"] >= row["from_ms"]


async def test_what_a_dead_engine_was_doing_is_forgotten(config: Config, runtime: Runtime) -> None:
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    gauge = runtime.metrics / f"gauge_livesum_{dead.pid}.db"
    gauge.touch()
    books = Bookkeeper(config, runtime)
    await books.start()
    async with asyncio.timeout(5):
        while gauge.exists():
            await asyncio.sleep(0.02)
    await books.close()


async def test_metrics_are_on_the_admin_port_on_loopback(bookkeeper: Bookkeeper, runtime: Runtime) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{runtime.admin_port}/metrics") as answer:
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


async def test_an_admin_port_that_is_taken_stops_the_start_and_says_which(config: Config, runtime: Runtime) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", runtime.admin_port or 0))
        holder.listen()
        bookkeeper = Bookkeeper(config, runtime)
        with pytest.raises(StartError, match=f"admin port {runtime.admin_port}"):
            await bookkeeper.start()
        await bookkeeper.close()


async def test_a_second_writer_is_refused(bookkeeper: Bookkeeper, config: Config, runtime: Runtime) -> None:
    with pytest.raises(StartError, match="already have a writer"):
        await Bookkeeper(config, runtime).start()


async def test_it_is_sick_when_no_journal_was_read_for_long(
    bookkeeper: Bookkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    bookkeeper.check()
    bookkeeper._tasks[0].cancel()
    late_s = time.monotonic() + STALE_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: late_s)
    with pytest.raises(RuntimeError, match="no journal was read"):
        bookkeeper.check()
    monkeypatch.undo()


async def test_a_database_that_fails_is_tried_again(bookkeeper: Bookkeeper, runtime: Runtime) -> None:
    ingest, failures = bookkeeper._writer.ingest_once, [1, 2]

    def failing() -> Any:
        if failures:
            failures.pop()
            raise OSError("the database is away")
        return ingest()

    bookkeeper._writer.ingest_once = failing  # type: ignore[method-assign]
    await until(lambda: not failures)
    journal = Journal(runtime.journal, "gateway")
    journal.record(Row(request_id="req_1", at_ms=1, status="answered"))
    await until(lambda: count(bookkeeper) == 1)
    journal.stop()


async def test_old_texts_go_also_where_none_are_kept_any_more(config: Config, runtime: Runtime) -> None:
    store = Store.open(config.ledger_url)
    now_ms = epoch_ms()
    words = [{"role": "user", "content": "hi"}]
    texts.put(store, [Kept("old", now_ms - 31 * DAY_MS, "t", words, None, False, 10)])
    texts.put(store, [Kept("new", now_ms, "t", words, None, False, 10)])
    assert not config.texts.enabled
    bookkeeper = Bookkeeper(config, runtime)
    await bookkeeper.start()
    try:
        await until(lambda: texts.size_bytes(store) == 10)
    finally:
        await bookkeeper.close()
        store.close()

"""A pool whose members a file lists: they join, leave and stay as it says, and nonsense changes nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from models.errors import Unavailable
from models.pool import Pool
from models.types import Call, Capabilities, Deadline
from models.upstream.openai import make_session
from serving.backends import tier_facts
from serving.bookkeeper import Bookkeeper
from serving.config import MembersBackend, parse
from serving.engine_plan import plan_engine
from serving.ledger.schema import engine_uptime
from serving.ledger.store import Store
from serving.members import Members
from serving.runtime import Runtime
from serving.tiers import ServingTier

CONFIG = """
tiers:
  - name: small
    price: {usd_per_hour: 0.4}
    backends: [{kind: members, file: FILE, profile: qwen3-8b-awq}]
"""


def publish(file: Path, *hosts: str, **changes: Any) -> None:
    members = []
    for host in hosts:
        key = file.with_name(f"{host}.key")
        key.write_text("secret")
        members.append(
            {"url": f"http://{host}/v1", "model": "m", "key_file": str(key), "ca_file": str(file.parent / "ca")}
        )
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"version": 1, "members": members} | changes))
    draft.replace(file)


def put(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with make_session() as found:
        yield found


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "ssl.create_default_context", lambda **_: True
    )  # certificates: tests/cluster/test_gateway_pool.py
    return tmp_path / "members.json"


async def test_members_join_leave_and_stay_as_the_file_says(file: Path, session: aiohttp.ClientSession) -> None:
    pool = Pool("small", [])
    members = Members(pool, file, Capabilities(), session)
    members.look()
    assert pool.backends == []
    publish(file, "a:1", "b:2")
    members.look()
    first = pool.backends
    assert [backend.name for backend in first] == ["small/a:1", "small/b:2"]
    publish(file, "b:2", "c:3")
    members.look()
    assert [backend.name for backend in pool.backends] == ["small/b:2", "small/c:3"]
    assert pool.backends[0] is first[1]  # with its breaker and its requests
    put(file, None)
    members.look()
    assert pool.backends == []


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"version": 2, "members": []}', '{"version": 1, "members": [{"url": 3}]}']
)
async def test_a_file_that_is_no_list_of_members_changes_nothing(
    file: Path, session: aiohttp.ClientSession, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = Pool("small", [])
    members = Members(pool, file, Capabilities(), session)
    publish(file, "a:1")
    members.look()
    put(file, text)
    members.look()
    members.look()
    assert [backend.name for backend in pool.backends] == ["small/a:1"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]  # told once


async def test_a_certificate_that_comes_later_is_waited_for(
    file: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**_: Any) -> None:
        raise FileNotFoundError("no ca.pem yet")

    pool = Pool("small", [])
    members = Members(pool, file, Capabilities(), session)
    publish(file, "a:1")
    with monkeypatch.context() as patch:
        patch.setattr("ssl.create_default_context", missing)
        members.look()
        assert pool.backends == []
    members.look()
    assert [backend.name for backend in pool.backends] == ["small/a:1"]


@pytest.mark.parametrize("known", [True, False])
async def test_a_member_whose_key_has_gone_with_its_box_is_one_that_does_not_answer(
    file: Path, session: aiohttp.ClientSession, known: bool
) -> None:
    """Boxes that are lost lose their keys at once, and the file of members is looked at twice a second."""
    publish(file, "127.0.0.1:9")
    pool = Pool("small", [])
    Members(pool, file, Capabilities(), session).look()
    if known:
        await pool.health()
    file.with_name("127.0.0.1:9.key").unlink()
    with pytest.raises(Unavailable):
        await pool.ask(Call("chat/completions", {"messages": []}, "req_1", Deadline.after(5.0)))
    assert [m.ready for m in await pool.health()] == [False]


async def test_a_pool_without_members_sends_requests_on(session: aiohttp.ClientSession) -> None:
    call = Call("chat/completions", {"messages": []}, "req_1", Deadline.after(1.0))
    with pytest.raises(Unavailable, match="no backend can be asked"):
        await Pool("small", []).ask(call)


def test_a_start_without_the_file_of_boxes_says_where_it_looks(file: Path, tmp_path: Path) -> None:
    config, said = parse(CONFIG.replace("FILE", str(file))), list[str]()
    runtime = Runtime(tmp_path / "state", "http://x", metrics_in_service=True)
    assert plan_engine(config, runtime, said.append) is None
    assert len(said) == 1 and str(file) in said[0]
    publish(file)
    assert plan_engine(config, runtime, said.append) is None
    assert len(said) == 1


def test_a_tier_of_boxes_is_paid_by_the_hour_and_is_not_this_machine(file: Path) -> None:
    config = parse(CONFIG.replace("FILE", str(file)))
    (facts,) = tier_facts(config)
    assert (facts.context_tokens, facts.local) == (16_384, False)
    tier = config.tiers[0]
    assert isinstance(tier.backends[0], MembersBackend)
    assert (tier.owned, tier.local) == (True, False)


def test_a_box_that_joined_later_has_its_tiers_price() -> None:
    price: Any = object()
    tier = ServingTier("small", 0, None, {"small/0": price}, ("m",), Capabilities())
    assert tier.price_of("small/203.0.113.7:33526") is tier.price_of("") is price


async def test_each_box_is_paid_for_from_when_it_was_seen(file: Path, tmp_path: Path) -> None:
    config = parse(CONFIG.replace("FILE", str(file)) + f"state_dir: {tmp_path}\n")
    books = Bookkeeper(config, Runtime(tmp_path, "http://127.0.0.1:1", metrics_in_service=True))
    await books.start()
    try:
        publish(file, "a:1", "b:2")
        await books._in_thread(books._note_uptime)
        publish(file, "b:2")
        await books._in_thread(books._note_uptime)
    finally:
        await books.close()
    store = Store.open(config.ledger_url)
    with store.read() as connection:
        rows = connection.execute(select(engine_uptime.c.engine, engine_uptime.c.nusd_per_hour)).all()
    store.close()
    assert {(name, per_hour) for name, per_hour in rows} == {
        ("small/http://a:1/v1", 400_000_000),
        ("small/http://b:2/v1", 400_000_000),
    }

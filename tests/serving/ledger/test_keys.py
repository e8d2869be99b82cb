from __future__ import annotations

import argparse
import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from models.errors import BadRequest, Unauthenticated
from serving.ledger import keys_cli
from serving.ledger.keys import KeyTable, Limits, add, all_keys, loader, revoke
from serving.ledger.schema import keys
from serving.ledger.store import Store, epoch_ms
from serving.wire.options import Options


async def table(store: Store) -> KeyTable:
    fresh = KeyTable(loader(store))
    await fresh.refresh()
    return fresh


def command(store: Store, *words: str) -> int:
    parser = argparse.ArgumentParser()
    keys_cli.add_arguments(parser)
    return keys_cli.run(parser.parse_args(words), store)


async def test_a_key_is_known_with_all_that_was_said(store: Store) -> None:
    limits = Limits(60, 10_000, 0, 4, ("auto", "small"))
    defaults = Options(cache="bypass", tags=("a",), local_only=True, deadline_ms=500)
    expires_ms = epoch_ms() + 60_000
    key_id, secret = add(store, "acme", "admin", limits, defaults, expires_ms)
    key = (await table(store)).check(secret)
    assert (key.id, key.tenant, key.role, key.limits, key.defaults) == (key_id, "acme", "admin", limits, defaults)
    assert key.may_ask("small")
    assert not key.may_ask("frontier")
    assert [k.id for k in all_keys(store)] == [key_id]


def test_the_secret_is_not_stored(store: Store) -> None:
    _, secret = add(store, "t")
    with store.read() as connection:
        (row,) = connection.execute(select(keys)).all()
    assert secret.split("-", 2)[2] not in str(row)  # the secret part may hold dashes of its own
    assert len(secret) > 50


async def test_a_wrong_secret_of_a_known_id_is_refused(store: Store) -> None:
    key_id, secret = add(store, "t")
    known = await table(store)
    for wrong in ("", "fk-", f"fk-{key_id}-", secret + "x", secret[:-1], f"fk-000000000000-{secret[16:]}", "\ud800"):
        with pytest.raises(Unauthenticated, match="not known"):
            known.check(wrong)


async def test_expiry_and_revocation_are_told_to_who_holds_the_secret(store: Store) -> None:
    expires_ms = epoch_ms() + 60_000
    _, dated = add(store, "t", expires_ms=expires_ms)
    gone_id, gone = add(store, "t")
    assert revoke(store, gone_id)
    assert not revoke(store, gone_id)
    assert not revoke(store, "nothing")
    known = await table(store)
    assert known.check(dated, expires_ms - 1).tenant == "t"
    with pytest.raises(Unauthenticated, match="expired"):
        known.check(dated, expires_ms)
    with pytest.raises(Unauthenticated, match="revoked"):
        known.check(gone)


async def test_a_revocation_reaches_a_replica_by_itself(store: Store) -> None:
    key_id, secret = add(store, "t")
    known = await table(store)
    keeper = asyncio.create_task(known.keep_fresh(0.02))
    known.check(secret)
    revoke(store, key_id)
    async with asyncio.timeout(2):
        while True:
            try:
                known.check(secret)
            except Unauthenticated:
                break
            await asyncio.sleep(0.01)
    keeper.cancel()


async def test_a_refresh_without_a_change_reads_no_keys(store: Store) -> None:
    add(store, "t")
    load = loader(store)
    first = await load(-1)
    assert first is not None
    assert await load(first.version) is None
    add(store, "t")
    again = await load(first.version)
    assert again is not None
    assert len(again.keys) == 2


async def test_known_keys_stay_while_keys_cannot_be_read(store: Store) -> None:
    _, secret = add(store, "t")
    load, failed = loader(store), asyncio.Semaphore(0)

    async def once(version: int) -> Any:
        if version >= 0:
            failed.release()
            raise OSError("no database")
        return await load(version)

    known = KeyTable(once)
    await known.refresh()
    keeper = asyncio.create_task(known.keep_fresh(0.005))
    async with asyncio.timeout(5):
        for _ in range(3):
            await failed.acquire()
    assert known.check(secret).tenant == "t"
    keeper.cancel()


async def test_deleting_a_tenant_ends_its_keys(store: Store) -> None:
    _, mine = add(store, "t")
    _, other = add(store, "u")
    known = await table(store)
    store.delete_tenant("t")
    await known.refresh()
    with pytest.raises(Unauthenticated):
        known.check(mine)
    assert known.check(other).tenant == "u"


@pytest.mark.parametrize("bad", [{"requests_per_minute": 0}, {"max_parallel": -1}, {"nusd_per_day": -1}])
def test_impossible_limits_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(BadRequest):
        Limits(**bad)  # type: ignore[arg-type]


async def test_the_command_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    words = "add --tenant acme --usd-per-day 2.50 --models auto,small --tags a,b --local-only --expires 90d"
    assert command(store, *words.split()) == 0
    secret = capsys.readouterr().out.strip()
    key = (await table(store)).check(secret)
    assert key.limits == Limits(nusd_per_day=2_500_000_000, models=("auto", "small"))
    assert key.defaults == Options(tags=("a", "b"), local_only=True)
    assert key.expires_ms == pytest.approx(epoch_ms() + 90 * 86_400_000, abs=60_000)
    assert command(store, "list") == 0
    shown = capsys.readouterr().out
    assert f"{key.id}  valid" in shown
    assert "usd_per_day=$2.5" in shown
    assert secret not in shown
    assert command(store, "revoke", key.id) == 0
    assert command(store, "revoke", key.id) == 2
    command(store, "list")
    assert "revoked" in capsys.readouterr().out


@pytest.mark.parametrize("usd", ["-1", "much", "nan", "0.0000000001"])
def test_no_amount_of_money(store: Store, usd: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(store, "add", "--tenant", "t", f"--usd-per-day={usd}")
    assert "no amount of USD" in capsys.readouterr().err


def test_an_expiry_in_the_past_is_refused(store: Store) -> None:
    with pytest.raises(BadRequest, match="past"):
        command(store, "add", "--tenant", "t", "--expires", "2020-01-01")

"""The table of kept texts, on both databases: bounds, and deletion together with rows."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from sqlalchemy import select

from serving.ledger import store as store_module
from serving.ledger import texts
from serving.ledger.schema import deleted_tenants
from serving.ledger.schema import texts as table
from serving.ledger.store import DAY_MS, Store, epoch_ms
from serving.ledger.texts import Kept
from serving.texts.redact import Redactor


def fill(store: Store, count: int, size_bytes: int = 100, tenant: str = "t") -> None:
    now_ms = epoch_ms()
    made = [
        Kept(f"{tenant}{i:05}", now_ms - (count - i) * 1000, tenant, [{"role": "user", "content": "hi"}], "ho", False,
             size_bytes)
        for i in range(count)
    ]  # fmt: skip
    texts.put(store, made)


def left(store: Store) -> list[str]:
    with store.read() as connection:
        return list(connection.execute(select(table.c.request_id).order_by(table.c.request_id)).scalars())


def test_old_ones_go_then_the_oldest_until_the_rest_fits(store: Store) -> None:
    fill(store, 6_000, size_bytes=10)
    texts.put(store, [Kept("old", epoch_ms() - 31 * DAY_MS, "t", [], None, False, 10)])
    assert texts.prune(store, 30, 60_000) == 1
    assert texts.prune(store, 30, 59_995) == 1
    assert texts.prune(store, 30, 5_000) == 5_499
    assert left(store)[0] == "t05500" and texts.size_bytes(store) == 5_000
    assert texts.prune(store, 30, 0) == 500


def test_for_ever_is_a_time_too_and_does_not_keep_the_size_from_being_held(store: Store) -> None:
    fill(store, 10, size_bytes=10)
    for_ever = 999_999_999_999
    assert store.retain(for_ever) == 0
    assert texts.prune(store, for_ever, 50) == 5


def test_rows_and_texts_of_a_tenant_and_of_old_times_go_together(store: Store) -> None:
    fill(store, 3, tenant="a")
    fill(store, 2, tenant="b")
    store.delete_tenant("a")
    assert left(store) == ["b00000", "b00001"]
    store.retain(1, now_ms=epoch_ms() + 2 * DAY_MS)
    assert left(store) == []


def test_what_redaction_leaves_is_taken_by_the_database(store: Store) -> None:
    text = Redactor().redact("\0 null, \U0001f600, \u202e, \\u0000 and a@b.org", Counter())
    kept = Kept("r", epoch_ms(), "t", [{"role": "user", "content": text}], text, True, 10)
    texts.put(store, [kept, kept])
    with store.read() as connection:
        (row,) = connection.execute(select(table)).mappings()
    assert row["answer"] == row["messages"][0]["content"] == "\ufffd null, \U0001f600, \u202e, \\u0000 and [EMAIL]"
    texts.put(store, [])


def one(name: str, at_ms: int, tenant: str = "gone") -> Kept:
    return Kept(name, at_ms, tenant, [{"role": "user", "content": "hi"}], "ho", False, 10)


def test_texts_of_a_deleted_tenant_that_were_still_waiting_are_not_written(store: Store) -> None:
    asked_ms = epoch_ms()
    store.delete_tenant("gone")
    after = [one("before", asked_ms), one("by a key not yet forgotten", epoch_ms() + 1_000)]
    assert texts.put(store, [*after, one("other", asked_ms, "stays"), one("again", epoch_ms() + 3_000)]) == 2
    assert left(store) == ["again", "other"]  # who comes back under that name begins anew
    store.delete_tenant("gone")
    assert left(store) == ["other"]


def test_a_deletion_is_remembered_for_a_day(store: Store) -> None:
    store.delete_tenant("gone")
    texts.prune(store, 30, 10**9, now_ms=epoch_ms() + DAY_MS // 2)
    assert texts.put(store, [one("a", epoch_ms())]) == 0
    texts.prune(store, 30, 10**9, now_ms=epoch_ms() + DAY_MS + 3_000)
    with store.read() as connection:
        assert connection.execute(select(deleted_tenants)).all() == []


def test_a_deletion_waits_for_texts_that_are_just_being_written(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look for deleted tenants and its end a writer is not overtaken."""
    looked, may_write, upsert = threading.Event(), threading.Event(), store_module.Store.upsert

    def slowly(self: Store, connection: object, into: object, rows: object, **more: object) -> object:
        if into is table:
            looked.set()
            may_write.wait(10)
        return upsert(self, connection, into, rows, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module.Store, "upsert", slowly)
    writer = threading.Thread(target=texts.put, args=(store, [one("a", epoch_ms())]))
    deleter = threading.Thread(target=store.delete_tenant, args=("gone",))
    writer.start()
    assert looked.wait(10)
    deleter.start()
    deleter.join(0.5)
    assert deleter.is_alive()
    may_write.set()
    writer.join(10)
    deleter.join(10)
    assert left(store) == []

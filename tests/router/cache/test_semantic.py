"""The cache's promises: scope before similarity, age from creation, deletions that hold, a file that says the same."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.errors import StartError
from router.cache.entries import Entry, Scope, from_public, new_id, public
from router.cache.entry_store import Batch, EntryStore
from router.cache.faiss_index import FaissIndex
from router.cache.gpu_ring import GpuRing, row_bytes
from router.cache.index import EncoderMismatch, VectorIndex
from router.cache.semantic import SemanticCache
from router.cache.shelf import Bounds
from tests.router.cache.conftest import DIM, SCOPE, Clock, MakeEntry, vector

TIERS = ("small", "cheap", "frontier")


@asynccontextmanager
async def opened(
    path: Path, clock: Clock, bounds: Bounds | None = None, index: VectorIndex | None = None
) -> AsyncIterator[SemanticCache]:
    made = FaissIndex("encoder", DIM) if index is None else index
    cache = await SemanticCache.open(path, made, TIERS, bounds, clock)
    try:
        yield cache
    finally:
        await cache.close()


async def store(cache: SemanticCache, entry: Entry, seed: int) -> Entry:
    assert await cache.put(entry, vector(seed), cache.epoch())
    return entry


async def found(cache: SemanticCache, seed: int, scope: Scope = SCOPE, tier: str = "small") -> list[str]:
    return [near.entry.text for near in await cache.lookup(vector(seed), scope, tier)]


async def test_what_was_put_is_found_whole(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        one = await store(cache, entry(), 1)
        clock.now_s += 60
        (near,) = await cache.lookup(vector(1), SCOPE, "small")
        assert near.entry == replace(one, body=b"") and near.age_s == 60
        assert near.similarity == pytest.approx(1, abs=1e-3)
        assert await cache.get(one.id, SCOPE) == one
        await cache.flush()
        assert await cache.get(one.id, SCOPE) == one


async def test_a_restart_changes_nothing(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        one = await store(cache, entry(), 1)
        await cache.note_hit(one.id, 900)
        await cache.observe(one.id, 0.97, True)
        (before,) = await cache.lookup(vector(2), SCOPE, "small")
    async with opened(path, clock) as cache:
        (after,) = await cache.lookup(vector(2), SCOPE, "small")
        assert after == before and after.observations == ((0.97, True),)
        standing = await cache.standing(one.id)
        assert standing is not None and (standing.hits, standing.saved_nusd) == (1, 900)
        assert await cache.get(one.id) == one


@pytest.mark.parametrize(
    "other",
    [
        Scope("other", b"partition"),
        Scope("acme", b"another"),
        Scope("acme", b"partition", "shared"),
        Scope("", b"partition", "acme"),
    ],
)
async def test_another_scope_sees_nothing(path: Path, clock: Clock, entry: MakeEntry, other: Scope) -> None:
    async with opened(path, clock) as cache:
        one = await store(cache, entry(), 1)
        assert await found(cache, 1, other) == []
        assert await cache.get(one.id, other) is None


async def test_a_shared_namespace_is_shared(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        one = await store(cache, entry(scope=Scope("acme", b"p", "faq")), 1)
        theirs = Scope("other", b"p", "faq")
        assert await found(cache, 1, theirs) == [one.text]
        assert await cache.get(one.id, theirs) == one


def test_no_two_scopes_share_a_key() -> None:
    parts = ["", "a", "t", "n", "ab", "b"]
    scopes = [Scope(t, p.encode(), n) for t in parts for p in parts for n in parts]
    for one in scopes:
        assert all((one.key == other.key) == one.admits(other) for other in scopes)


async def test_the_host_has_the_last_word(path: Path, clock: Clock, entry: MakeEntry) -> None:
    """An index that ignored partitions, as faiss on a GPU ignores selectors, would still serve nothing foreign."""

    class Leaky(FaissIndex):
        def add(self, row_id: int, vector: Any, partition: bytes) -> int | None:
            return super().add(row_id, vector, b"everybody")

        def search(self, vector: Any, partition: bytes, k: int) -> Any:
            return super().search(vector, b"everybody", k)

    async with opened(path, clock, index=Leaky("encoder", DIM)) as cache:
        await store(cache, entry("theirs", scope=Scope("other", b"partition")), 1)
        await store(cache, entry("ours"), 2)
        assert await found(cache, 1) == ["ours"]


async def test_a_weaker_tier_never_answers_and_never_hides(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        for seed in range(40):
            await store(cache, entry(f"weak {seed}"), 1)
        await store(cache, entry("strong", tier="frontier"), 2)
        await store(cache, entry("unknown", tier="no longer configured"), 3)
        assert await found(cache, 1, tier="cheap") == ["strong"]
        assert len(await found(cache, 1, tier="small")) == 8


async def test_age_counts_from_creation(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        one = await store(cache, entry(ttl_s=100), 1)
        clock.now_s += 99
        assert await found(cache, 1) == [one.text]
        await cache.note_hit(one.id, 1000)
        clock.now_s += 1
        assert await found(cache, 1) == [] and await cache.get(one.id) is None
        assert not await cache.put(entry(ttl_s=0), vector(2), cache.epoch())
    async with opened(path, clock) as cache:
        assert (await cache.stats())["entries"] == 0


async def test_the_same_text_has_one_answer(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        await store(cache, entry(body=b"old"), 1)
        newer = await store(cache, entry(body=b"new", tier="cheap"), 1)
        assert not await cache.put(entry(body=b"weaker"), vector(1), cache.epoch())
        (near,) = await cache.lookup(vector(1), SCOPE, "small")
        assert near.entry.id == newer.id
    async with opened(path, clock) as cache:
        assert [n.entry.id for n in await cache.lookup(vector(1), SCOPE, "small")] == [newer.id]


DELETIONS: dict[str, tuple[Callable[[SemanticCache, Entry], Any], set[str]]] = {
    "id": (lambda cache, e: cache.delete_entries(e.id), {"shared", "theirs"}),
    "tenant": (lambda cache, e: cache.delete_tenant("acme"), {"theirs"}),
    "namespace": (lambda cache, e: cache.delete_namespace("faq"), {"mine", "theirs"}),
    "all": (lambda cache, e: cache.delete_all(), set()),
    "no namespace": (lambda cache, e: cache.delete_namespace(""), {"mine", "shared", "theirs"}),
}


@pytest.mark.parametrize("flushed", [False, True], ids=["unwritten", "written"])
@pytest.mark.parametrize("how", DELETIONS)
async def test_a_deletion_is_in_the_file_when_it_returns(
    path: Path, clock: Clock, entry: MakeEntry, how: str, flushed: bool
) -> None:
    delete, left = DELETIONS[how]
    async with opened(path, clock) as cache:
        mine = await store(cache, entry("mine"), 1)
        await store(cache, entry("shared", scope=Scope("acme", b"p", "faq")), 2)
        await store(cache, entry("theirs", scope=Scope("other", b"p")), 3)
        if flushed:
            await cache.flush()
        assert await delete(cache, mine) == 3 - len(left)
        await cache.flush() if how == "no namespace" else None
        with sqlite3.connect(path) as db:  # as another process finds it, whatever happens to this one
            assert {text for (text,) in db.execute("SELECT text FROM entry")} == left
        db.close()
        assert (await found(cache, 1) == ["mine"]) == ("mine" in left)


async def test_deleted_text_is_not_left_in_the_file(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        await store(cache, entry("a secret question", body=b"a secret answer" * 1000), 1)
        await cache.flush()
        await cache.delete_tenant("acme")
        left = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert b"secret" not in left


async def test_an_answer_on_its_way_during_a_deletion_is_not_stored(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        began = cache.epoch()
        await cache.delete_tenant("acme")
        assert not await cache.put(entry(), vector(1), began)
    async with opened(path, clock) as cache:
        assert cache.epoch() > began and not await cache.put(entry(), vector(1), began)


async def test_a_deletion_by_id_holds_for_an_answer_on_its_way_and_for_no_other(
    path: Path, clock: Clock, entry: MakeEntry
) -> None:
    async with opened(path, clock) as cache:
        began, doomed, other = cache.epoch(), entry(), entry()
        assert await cache.delete_entries(doomed.id) == 0
        assert not await cache.put(doomed, vector(1), began)
        assert await cache.put(other, vector(2), began)


async def test_a_cancelled_deletion_is_finished(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        await store(cache, entry(), 1)
        task = asyncio.create_task(cache.delete_all())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with opened(path, clock) as cache:
        assert (await cache.stats())["entries"] == 0


async def test_quarantine_is_durable(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        one = await store(cache, entry(), 1)
        assert await cache.quarantine(one.id) and not await cache.quarantine(new_id())
        assert await found(cache, 1) == [] and await cache.get(one.id) is None
        with sqlite3.connect(path) as db:
            assert db.execute("SELECT quarantined FROM entry").fetchone() == (1,)
        db.close()
    async with opened(path, clock) as cache:
        assert await found(cache, 1) == []


async def test_what_saves_least_for_its_bytes_goes_first(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock, Bounds(max_entries=3)) as cache:
        await store(cache, entry("dear", cost_nusd=50_000), 1)
        await store(cache, entry("dear and long", cost_nusd=50_000, body=b"x" * 100_000), 2)
        asked_often = await store(cache, entry("cheap, asked often", cost_nusd=5_000), 3)
        for _ in range(20):
            await cache.note_hit(asked_often.id, 5_000)
        await store(cache, entry("cheap", cost_nusd=5_000), 4)
        texts = {text for seed in range(1, 5) for text in await found(cache, seed)}
        assert texts == {"dear", "cheap, asked often", "cheap"}
        for seed in range(10, 100):  # what was useful once gives way in time
            await store(cache, entry(f"new {seed}", cost_nusd=20_000), seed)
        assert asked_often.text not in await found(cache, 3)
        assert (await cache.stats())["entries"] == 3
    async with opened(path, clock) as cache:
        assert (await cache.stats())["entries"] == 3


async def test_bytes_are_bounded(path: Path, clock: Clock, entry: MakeEntry) -> None:
    bounds = Bounds(max_bytes=100_000, max_entry_bytes=20_000)
    async with opened(path, clock, bounds) as cache:
        assert not await cache.put(entry(body=b"x" * 20_000), vector(0), cache.epoch())
        for seed in range(30):
            await store(cache, entry(f"{seed}", body=b"x" * 10_000), seed)
        stats = await cache.stats()
        assert 80_000 < stats["bytes"] <= 100_000
    async with opened(path, clock, bounds) as cache:
        assert {k: v for k, v in (await cache.stats()).items() if k in ("entries", "bytes")} == {
            "entries": stats["entries"],
            "bytes": stats["bytes"],
        }


async def test_a_full_ring_evicts_the_entry_as_well(path: Path, clock: Clock, entry: MakeEntry) -> None:
    ring = GpuRing("encoder", DIM, 3 * row_bytes(DIM, 4), device="cpu")
    async with opened(path, clock, index=ring) as cache:
        for seed in range(5):
            await store(cache, entry(f"{seed}"), seed)
        assert set(await found(cache, 0)) == {"2", "3", "4"}
        assert (await cache.stats())["entries"] == 3


async def test_another_encoder_is_refused(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        await store(cache, entry(), 1)
    with pytest.raises(EncoderMismatch, match="configure that encoder again, or delete it"):
        await SemanticCache.open(path, FaissIndex("another", DIM), TIERS, None, clock)
    async with opened(path, clock) as cache:
        assert await found(cache, 1)


def damage(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 1000)


async def test_a_damaged_file_is_set_aside_and_removed_by_the_next_deletion(
    path: Path, clock: Clock, entry: MakeEntry
) -> None:
    damage(path)
    async with opened(path, clock) as cache:
        await store(cache, entry(), 1)
        aside = path.with_name(path.name + ".unreadable")
        assert aside.exists() and await found(cache, 1)
        await cache.delete_all()
        assert not aside.exists()


async def test_another_programs_database_is_left_alone(path: Path, clock: Clock) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StartError, match="another program's"):
        await SemanticCache.open(path, FaissIndex("encoder", DIM), TIERS, None, clock)


async def test_what_cannot_be_written_is_not_served(
    path: Path, clock: Clock, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path, clock) as cache:
        kept = await store(cache, entry("kept"), 1)
        await cache.flush()

        def full(_: Batch) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(cache._store, "write", full)
            lost = await store(cache, entry("lost"), 2)
            await cache.note_hit(kept.id, 5)
            await cache.flush()
            assert await cache.get(lost.id) is None
            assert (await cache.stats())["writes_failed"] == 1
    async with opened(path, clock) as cache:
        assert await found(cache, 1) == ["kept"]
        standing = await cache.standing(kept.id)
        assert standing is not None and standing.hits == 1


async def test_one_process_owns_the_file(path: Path, clock: Clock) -> None:
    async with opened(path, clock):
        with pytest.raises(StartError, match="one router owns it"):
            EntryStore(path, "encoder", DIM, patience_s=0.1)
    EntryStore(path, "encoder", DIM, patience_s=0.1).close()


async def test_the_file_is_private(path: Path, clock: Clock, entry: MakeEntry) -> None:
    async with opened(path, clock) as cache:
        await store(cache, entry(), 1)
        await cache.flush()
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_ids_are_written_and_read() -> None:
    entry_id = new_id()
    assert from_public(public(entry_id)) == entry_id
    assert [from_public(text) for text in ("", "xyz", "-1", "f" * 17)] == [None] * 4

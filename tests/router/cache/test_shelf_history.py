"""Any history of puts, hits, deletions, ageing, writes and crashes leaves what a plain model says."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from models.types import Usage
from router.cache.entries import Entry, EntryId, Scope, new_id
from router.cache.entry_store import EntryStore, Which
from router.cache.faiss_index import FaissIndex
from router.cache.shelf import Bounds, Shelf
from tests.router.cache.conftest import DIM, NOW_S, vector

RANKS = {"small": 0, "frontier": 1}
TENANTS = st.sampled_from(["a", "b"])
SEEDS = st.integers(0, 12)


class History(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._now_s = NOW_S
        self._written: dict[EntryId, Entry] = {}
        self._live: dict[EntryId, Entry] = {}
        self._open()

    def _open(self) -> None:
        self._store = EntryStore(Path(self._folder.name) / "file", "encoder", DIM)
        self._index = FaissIndex("encoder", DIM, cells_from_rows=8)
        self._shelf = Shelf(self._index, RANKS, Bounds(), lambda: self._now_s)
        self._shelf.load(self._store.load(self._now_s))

    def teardown(self) -> None:
        self._store.close()
        self._index.close()
        self._folder.cleanup()

    @rule(tenant=TENANTS, seed=SEEDS, tier=st.sampled_from(list(RANKS)), ttl_s=st.sampled_from([10.0, 100.0]))
    def put(self, tenant: str, seed: int, tier: str, ttl_s: float) -> None:
        scope = Scope(tenant, b"p")
        entry = Entry(new_id(), scope, "auto", tier, "m", str(seed), b"{}", Usage(), 5, self._now_s, ttl_s)
        twins = [e for e in self._live.values() if e.scope == scope and e.text == entry.text]
        stronger = [e for e in twins if RANKS[e.tier] > RANKS[tier]]
        assert self._shelf.put(entry, vector(seed)) == (not stronger)
        if not stronger:
            self._live = {i: e for i, e in self._live.items() if e not in twins} | {entry.id: entry}

    @rule(tenant=TENANTS)
    def delete_tenant(self, tenant: str) -> None:
        which = Which(tenant=tenant)
        self._shelf.drop(which)
        self._store.delete(which, self._shelf.take())
        self._live = {i: e for i, e in self._live.items() if e.scope.tenant != tenant}
        self._written = dict(self._live)

    @rule(number=st.integers(0, 5))
    def delete_one(self, number: int) -> None:
        for entry_id in list(self._live)[number : number + 1]:
            self._shelf.drop(Which(ids=(entry_id,)))
            self._store.delete(Which(ids=(entry_id,)), self._shelf.take())
            del self._live[entry_id]
            self._written = dict(self._live)

    @rule()
    def write(self) -> None:
        self._store.write(self._shelf.take())
        self._written = dict(self._live)

    @rule(seconds=st.sampled_from([1.0, 9.0, 50.0]))
    def grow_old(self, seconds: float) -> None:
        self._now_s += seconds
        self._live = {i: e for i, e in self._live.items() if e.expires_at_s > self._now_s}

    @rule()
    def crash(self) -> None:
        """What was written is there again, and what was only in memory is not."""
        self._store.close()
        self._index.close()
        self._open()
        self._live = {i: e for i, e in self._written.items() if e.expires_at_s > self._now_s}
        assert self._index.ids() == set(self._live)

    @rule(tenant=TENANTS, seed=SEEDS, tier=st.sampled_from(list(RANKS)))
    def lookup(self, tenant: str, seed: int, tier: str) -> None:
        near = self._shelf.lookup(vector(seed), Scope(tenant, b"p"), tier, 100)
        able = [e for e in self._live.values() if e.scope.tenant == tenant and RANKS[e.tier] >= RANKS[tier]]
        assert {found.entry.id for found in near} == {e.id for e in able}

    @invariant()
    def memory_and_index_are_equal(self) -> None:
        self._shelf.sweep()
        assert self._index.ids() == set(self._live)
        assert self._shelf.stats()["entries"] == len(self._live)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)

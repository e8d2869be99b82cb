"""What the cache holds in memory, for the one thread that owns it: entries, their standing, the index, who goes first.

Decides what may be served, in this order: the index finds neighbours inside the scope; then, whatever it said, the
entry must still be here, of a scope that admits the request's, unexpired, not quarantined, and written by a tier at
least as strong as the one wanted. Collects what is to be written; knows no file and no event loop.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.cache.entries import Candidate, Entry, EntryId, Scope, Standing, stored_bytes
from router.cache.entry_store import Batch, Loaded, Which
from router.cache.eviction import GreedyDual
from router.cache.index import VectorIndex

_MOST_NEIGHBOURS: Final = 256
_MOST_OBSERVATIONS: Final = 200  # of one entry; the oldest go first


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of all entries together; `max_bytes` counts what the file holds, vectors included."""

    max_entries: int = 100_000
    max_bytes: int = 1024 * 1024 * 1024
    max_entry_bytes: int = 1024 * 1024


@dataclass(slots=True)
class _Held:
    entry: Entry  # without its body
    standing: Standing
    size_bytes: int


class Shelf:
    """tier_ranks: configured tiers, ascending in strength; an entry of a tier that is not among them is not served."""

    def __init__(
        self, index: VectorIndex, tier_ranks: Mapping[str, int], bounds: Bounds, now: Callable[[], float]
    ) -> None:
        self._index, self._ranks, self._bounds, self._now = index, tier_ranks, bounds, now
        self._held: dict[EntryId, _Held] = {}
        self._by_text: dict[tuple[bytes, str], EntryId] = {}
        self._expiries: list[tuple[float, EntryId]] = []
        self._worth = GreedyDual()
        self._bytes = 0
        self._pending = Batch()
        self._unsaved: dict[EntryId, bytes] = {}
        self._counts: Counter[str] = Counter()

    def load(self, rows: Iterable[Loaded]) -> None:
        for row in rows:
            size = stored_bytes(row.entry, self._index.dim) + row.body_bytes
            self._hold(_Held(row.entry, row.standing, size), row.vector)
        self._make_room()

    def lookup(self, vector: NDArray[np.float32], scope: Scope, wanted_tier: str, k: int) -> list[Candidate]:
        """Nearest first, at most k."""
        asked = k
        while True:
            found = self._index.search(vector, scope.key, asked)
            ids = [EntryId(i) for i in found.ids.tolist()]
            near = [(i, s) for i, s in zip(ids, found.similarities.tolist(), strict=True)]
            able = [(i, s) for i, s in near if self._may_serve(i, scope, wanted_tier)]
            # neighbours that may not be served must not hide one that may
            if len(able) >= k or len(found.ids) < asked or asked >= _MOST_NEIGHBOURS:
                return [self._candidate(i, similarity) for i, similarity in able[:k]]
            asked = min(asked * 4, _MOST_NEIGHBOURS)

    def entry(self, entry_id: EntryId, scope: Scope | None) -> tuple[Entry, bytes | None] | None:
        """A live entry and its body, the latter None when it is in the file. scope: whose request it would answer."""
        held = self._held.get(entry_id)
        if held is None or held.standing.quarantined or held.entry.expires_at_s <= self._now():
            return None
        if scope is not None and not scope.admits(held.entry.scope):
            return None
        return held.entry, self._unsaved.get(entry_id)

    def standing(self, entry_id: EntryId) -> Standing | None:
        held = self._held.get(entry_id)
        return held.standing if held else None

    def put(self, entry: Entry, vector: NDArray[np.float32]) -> bool:
        """False when it is too large, expired, or the same text has an answer of a stronger tier."""
        self.sweep()
        size = stored_bytes(entry, self._index.dim)
        if size > min(self._bounds.max_entry_bytes, self._bounds.max_bytes) or entry.expires_at_s <= self._now():
            return False
        before = self._by_text.get((entry.scope.key, entry.text))
        if before is not None:
            if self._rank(self._held[before].entry.tier) > self._rank(entry.tier) and self.entry(before, None):
                return False
            self._drop(before)
        rounded = vector.astype(np.float16)  # as the file keeps it, so that a restart changes no similarity
        self._unsaved[entry.id] = entry.body
        self._pending.puts[entry.id] = (entry, rounded)
        self._hold(_Held(replace(entry, body=b""), Standing(), size), rounded)
        self._counts["stored"] += 1
        self._make_room()
        return True

    def note_hit(self, entry_id: EntryId, saved_nusd: int) -> None:
        if (held := self._held.get(entry_id)) is None:
            return
        held.standing.hits += 1
        held.standing.saved_nusd += saved_nusd
        self._counts["hits"] += 1
        self._counts["saved_nusd"] += saved_nusd
        self._worth.use(entry_id, 1 + held.standing.hits, held.entry.cost_nusd, held.size_bytes)
        self._pending.standings[entry_id] = held.standing

    def observe(self, entry_id: EntryId, similarity: float, right: bool) -> Standing | None:
        """A labelled comparison: would this entry's answer have been right? Its standing; None when it has gone."""
        if (held := self._held.get(entry_id)) is None:
            return None
        held.standing.observations.append((similarity, right))
        del held.standing.observations[:-_MOST_OBSERVATIONS]
        self._pending.standings[entry_id] = held.standing
        return held.standing

    def quarantine(self, entry_id: EntryId) -> bool:
        if (held := self._held.get(entry_id)) is None:
            return False
        held.standing.quarantined = True
        self._pending.standings[entry_id] = held.standing
        return True

    def drop(self, which: Which) -> int:
        """Out of memory and index; the file follows."""
        if which.ids:
            doomed = [entry_id for entry_id in which.ids if entry_id in self._held]
        else:
            doomed = [i for i, held in self._held.items() if _is_meant(which, held.entry.scope)]
        for entry_id in doomed:
            self._drop(entry_id)
        return len(doomed)

    def sweep(self) -> None:
        now_s = self._now()
        while self._expiries and self._expiries[0][0] <= now_s:
            _, entry_id = heapq.heappop(self._expiries)
            if entry_id in self._held:
                self._counts["expired"] += 1
                self._drop(entry_id)

    def take(self) -> Batch:
        """What has happened since the last one, to be written; standings as they are now."""
        self.sweep()
        batch, self._pending = self._pending, Batch()
        for entry_id, standing in batch.standings.items():
            batch.standings[entry_id] = replace(standing, observations=list(standing.observations))
        return batch

    def written(self, batch: Batch) -> None:
        for entry_id in batch.puts:
            self._unsaved.pop(entry_id, None)

    def failed(self, batch: Batch) -> None:
        """What is not in the file is not served either: a deletion from another process could not reach it."""
        for entry_id in batch.puts:
            self._drop(entry_id)
        self._pending.gone |= batch.gone
        self._pending.standings = {**batch.standings, **self._pending.standings}
        self._counts["not_written"] += len(batch.puts)

    def stats(self) -> dict[str, int]:
        sizes = {"entries": len(self._held), "bytes": self._bytes, "index_bytes": self._index.memory_bytes()}
        quarantined = sum(held.standing.quarantined for held in self._held.values())
        return {**self._counts, **sizes, "quarantined": quarantined}

    def _may_serve(self, entry_id: EntryId, scope: Scope, wanted_tier: str) -> bool:
        found = self.entry(entry_id, scope)
        return found is not None and self._rank(found[0].tier) >= self._ranks[wanted_tier]

    def _rank(self, tier: str) -> int:
        return self._ranks.get(tier, -1)

    def _candidate(self, entry_id: EntryId, similarity: float) -> Candidate:
        held = self._held[entry_id]
        age_s = self._now() - held.entry.created_at_s
        return Candidate(held.entry, similarity, age_s, tuple(held.standing.observations))

    def _hold(self, held: _Held, vector: NDArray[np.float16]) -> None:
        entry = held.entry
        displaced = self._index.add(entry.id, vector.astype(np.float32), entry.scope.key)
        self._held[entry.id] = held
        self._by_text[entry.scope.key, entry.text] = entry.id
        self._bytes += held.size_bytes
        heapq.heappush(self._expiries, (entry.expires_at_s, entry.id))
        if len(self._expiries) > 2 * len(self._held) + 1000:  # mostly entries that have gone
            self._expiries = [(h.entry.expires_at_s, i) for i, h in self._held.items()]
            heapq.heapify(self._expiries)
        self._worth.use(entry.id, 1 + held.standing.hits, entry.cost_nusd, held.size_bytes)
        if displaced is not None:
            self._counts["evicted"] += 1
            self._drop(EntryId(displaced))

    def _make_room(self) -> None:
        while len(self._held) > self._bounds.max_entries or self._bytes > self._bounds.max_bytes:
            self._counts["evicted"] += 1
            self._drop(self._worth.worst())

    def _drop(self, entry_id: EntryId) -> None:
        held = self._held.pop(entry_id, None)
        if held is None:
            return
        self._index.remove(entry_id)
        self._worth.forget(entry_id)
        self._bytes -= held.size_bytes
        key = (held.entry.scope.key, held.entry.text)
        if self._by_text.get(key) == entry_id:
            del self._by_text[key]
        self._unsaved.pop(entry_id, None)
        self._pending.standings.pop(entry_id, None)
        if self._pending.puts.pop(entry_id, None) is None:
            self._pending.gone.add(entry_id)


def _is_meant(which: Which, scope: Scope) -> bool:
    return which.everything or which.tenant == scope.tenant or which.namespace == scope.namespace

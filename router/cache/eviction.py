"""Which entry goes when there is no room: the one that saves the least money per byte, given time.

GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
Policy", HP Laboratories HPL-98-69R1, 1998): priority = L + uses * cost / size, where L is the priority of what was last
evicted. L only grows, so an entry that was useful once and is no longer asked for is overtaken by newer ones.
"""

from __future__ import annotations

import heapq

from router.cache.entries import EntryId


class GreedyDual:
    """A heap with stale pairs in it: a pair counts only while it says what `_priority` says."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, EntryId]] = []
        self._priority: dict[EntryId, float] = {}
        self._age = 0.0  # the paper's L

    def __len__(self) -> int:
        return len(self._priority)

    def use(self, entry_id: EntryId, uses: int, cost_nusd: int, size_bytes: int) -> None:
        """When an entry is stored (uses = 1) and at each hit. A free answer still saves time: it counts as 1 nusd."""
        priority = self._age + uses * max(1, cost_nusd) / size_bytes
        self._priority[entry_id] = priority
        heapq.heappush(self._heap, (priority, entry_id))
        if len(self._heap) > 2 * len(self._priority) + 1000:
            self._heap = [(p, i) for i, p in self._priority.items()]
            heapq.heapify(self._heap)

    def forget(self, entry_id: EntryId) -> None:
        self._priority.pop(entry_id, None)

    def worst(self) -> EntryId:
        """The entry to evict; it is forgotten, and the age rises to its priority. Raises IndexError on nothing."""
        while True:
            priority, entry_id = heapq.heappop(self._heap)
            if self._priority.get(entry_id) == priority:
                del self._priority[entry_id]
                self._age = priority
                return entry_id

"""Is there a stored answer to this question? Eligibility, then one vector, near entries, and a verdict on each.

    find      before a model is asked: an answer to serve, one to compare with, or nothing
    remember  after it has answered: the answer under its question
    label     whether the compared answers agree; feeds the entry's threshold and the monitor

Knows no HTTP and no Ray; what a question may share an answer with (`Lookup`) and whether answers agree is told to it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from router.cache import verify
from router.cache.eligible import OptIns, why_not
from router.cache.entries import Candidate, Entry, EntryId, Scope, from_public, id_of, public
from router.cache.learner import EntryHistory, Label, fresh, learn
from router.cache.recent import Recent
from router.cache.semantic import SemanticCache
from router.cache.text import Reading, read
from router.cache.verify import Action, Decider, Verdict, WrongHitMonitor
from router.decision import Facts, Fresh, Lookup, Recalled
from router.embedding.batcher import Batcher

Mode = Literal["serve", "shadow"]
K = TypeVar("K")
V = TypeVar("V")

_NEIGHBOURS: Final = 8
_MOST_PENDING: Final = 4_096  # questions whose answer has not come back yet, or that may still be complained about
_MOST_KNOWN: Final = 20_000  # entries whose reading and history are kept ready


@dataclass(frozen=True, slots=True)
class RecallSettings:
    """`mode` shadow: everything as in `serve`, but a hit is compared instead of served."""

    mode: Mode = "serve"
    ttl_s: float = 86_400.0
    allowed: OptIns = field(default_factory=OptIns)


@dataclass(frozen=True, slots=True)
class Found:
    """`outcome`: a stable code, `why_not`'s or the verdict's; `refused` names what differed, for whoever asks why."""

    outcome: str
    serve: Recalled | None = None
    compare: Recalled | None = None
    remember: bool = False
    refused: str = ""


@dataclass(slots=True)
class _Asked:
    """A question on its way: its vector for when the answer comes, and the entry it was held against."""

    vector: NDArray[np.float32]
    text: str
    epoch: int
    near: tuple[EntryId, float, Verdict] | None = None
    served: bool = False


class Recall:
    """Belongs to one event loop. `tiers`: ascending in strength. `draw`: uniform in 0..1."""

    def __init__(
        self,
        encoder: Batcher,
        cache: SemanticCache,
        rules: Decider,
        monitor: WrongHitMonitor,
        settings: RecallSettings,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._encoder, self._cache, self._settings, self._draw = encoder, cache, settings, draw
        self.monitor = monitor
        self.second: Callable[[str, str], Awaitable[bool]] | None = None  # a model's opinion before a hit is served
        self._asked: Recent[str, _Asked] = Recent(_MOST_PENDING)
        self._complained: Recent[EntryId, None] = Recent(_MOST_PENDING)
        self._readings: Recent[EntryId, Reading] = Recent(_MOST_KNOWN)
        self._histories: Recent[EntryId, tuple[tuple[tuple[float, bool], ...], EntryHistory]] = Recent(_MOST_KNOWN)
        self.use(rules)

    def use(self, rules: Decider) -> None:
        """Decide by these from now on; what follows from the old ones is forgotten."""
        self.rules = rules
        self._start = fresh(rules.rules.max_wrong_hit_rate)
        self._histories.clear()

    async def find(self, facts: Facts, wanted_tier: str, vector: NDArray[np.float32] | None = None) -> Found:
        """The wanted tier bounds what may be served: never the answer of a weaker one.

        vector: the question's, (dim,), where somebody has made it already: one request is embedded once.
        """
        lookup = facts.lookup
        if lookup is None:
            return Found("off")
        if reason := why_not(facts, self._settings.allowed):
            return Found(reason)
        epoch = self._cache.epoch()
        if vector is None:
            vector = (await self._encoder.encode([facts.text]))[0]
        asked = _Asked(vector.copy(), facts.text, epoch)  # a row of a batch, which would be held whole
        self._asked[facts.request_id] = asked
        if not lookup.serve:
            return Found("bypass", remember=True)
        scope = _scope(facts.tenant, lookup)
        near = await self._cache.lookup(asked.vector, scope, wanted_tier, _NEIGHBOURS)
        found = await self._judged(asked, near, scope)
        if found.serve is not None:
            await self._cache.note_hit(_entry_id(found.serve), found.serve.cost_nusd)
        return found

    async def _judged(self, asked: _Asked, near: list[Candidate], scope: Scope) -> Found:
        """The first that may serve; else the first worth comparing; else why the nearest may not."""
        question = read(asked.text)
        compare: tuple[Candidate, Verdict] | None = None
        first: Verdict | None = None
        for candidate in near:
            verdict = self._verdict(question, candidate)
            first = first or verdict
            if verdict.action is Action.SERVE and not await self._seconded(asked.text, candidate):
                first = verdict = replace(verdict, action=Action.MISS, reason="verifier")
            if verdict.action is Action.SERVE:
                if (whole := await self._whole(candidate, verdict, scope)) is None:
                    continue
                asked.near = (candidate.entry.id, candidate.similarity, verdict)
                if self._settings.mode == "shadow":
                    return Found("shadow", compare=whole, remember=True)
                asked.served = True
                return Found("served", serve=whole)
            if verdict.action is Action.EXPLORE and compare is None:
                compare = (candidate, verdict)
        if compare is not None and (whole := await self._whole(*compare, scope)) is not None:
            asked.near = (compare[0].entry.id, compare[0].similarity, compare[1])
            return Found(compare[1].reason, compare=whole, remember=True)
        return Found(first.reason if first else "nothing_near", remember=True, refused=first.detail if first else "")

    async def _seconded(self, question: str, candidate: Candidate) -> bool:
        return self.second is None or await self.second(question, candidate.entry.text)

    def _verdict(self, question: Reading, candidate: Candidate) -> Verdict:
        entry_id = candidate.entry.id
        reading = self._readings.get(entry_id)
        if reading is None:
            reading = self._readings[entry_id] = read(candidate.entry.text)
        held = verify.Candidate(reading, candidate.similarity, self._history(candidate))
        return self.rules.decide(question, held, draw=self._draw(), tripped=self.monitor.tripped)

    def _history(self, candidate: Candidate) -> EntryHistory:
        """Fitted anew only when a label has come: a look-up is a comparison."""
        if not candidate.observations:
            return self._start
        known = self._histories.get(candidate.entry.id)
        if known is not None and known[0] == candidate.observations:
            return known[1]
        history = self._start
        for similarity, right in candidate.observations:
            # only pairs that pass the gates are ever compared, so the similarity is all the score follows from
            label = Label(self.rules.pooled.score((similarity, 1.0, 0.0)), right)
            history = learn(history, label, self.rules.rules.max_wrong_hit_rate)
        self._histories[candidate.entry.id] = (candidate.observations, history)
        return history

    async def _whole(self, candidate: Candidate, verdict: Verdict, scope: Scope) -> Recalled | None:
        """None when it has gone meanwhile."""
        entry = await self._cache.get(candidate.entry.id, scope)
        if entry is None:
            return None
        return Recalled(
            entry_id=public(entry.id),
            text=entry.text,
            tier=entry.tier,
            model=entry.model,
            body=entry.body,
            usage=entry.usage,
            cost_nusd=entry.cost_nusd,
            age_s=candidate.age_s,
            similarity=candidate.similarity,
            probability_right=verdict.probability_right,
        )

    async def remember(self, made: Fresh, now_s: float) -> bool:
        """False when it is not kept: it was asked elsewhere or too long ago, or something was deleted since."""
        asked = self._asked.get(made.request_id)
        if asked is None:
            return False
        entry = Entry(
            id=id_of(made.request_id),
            scope=_scope(made.tenant, made.lookup),
            requested_model=made.lookup.requested_model,
            tier=made.tier,
            model=made.model,
            text=asked.text,
            body=made.body,
            usage=made.usage,
            cost_nusd=made.cost_nusd,
            created_at_s=now_s,
            ttl_s=self._settings.ttl_s,
        )
        return await self._cache.put(entry, asked.vector, asked.epoch)

    async def label(self, request_id: str, right: bool) -> bool:
        """Whether the answer made for this request says the same as the entry it was compared with."""
        asked = self._asked.get(request_id)
        if asked is None or asked.near is None:
            return False
        entry_id, similarity, verdict = asked.near
        asked.near = None  # one label a request
        self.monitor.record(verdict, right)
        standing = await self._cache.observe(entry_id, similarity, right)
        if standing is not None and not right and verdict.would_serve:
            await self._cache.quarantine(entry_id)
        return standing is not None

    async def complain(self, request_id: str, entry_id: str) -> bool:
        """A caller says that what was served is wrong: it is gone when this returns, and counts as a wrong hit, once an
        entry, whoever of those who got it complain."""
        found = from_public(entry_id)
        if found is None:
            return False
        gone = bool(await self._cache.delete_entries(found))
        asked = self._asked.get(request_id)  # None: before a restart, too long ago, or one who shared another's flight
        known = asked is not None and asked.served  # and may have been evicted since
        if (gone or known) and found not in self._complained:
            self._complained[found] = None
            self.monitor.complained()
        return gone

    async def drop_answers_of(self, request_ids: Sequence[str]) -> bool:
        """What was remembered from these requests is not to be served again, nor what has yet to be."""
        return bool(await self._cache.delete_entries(*map(id_of, request_ids)))


def _scope(tenant: str, lookup: Lookup) -> Scope:
    return Scope(tenant, lookup.partition, lookup.namespace)


def _entry_id(recalled: Recalled) -> EntryId:
    found = from_public(recalled.entry_id)
    assert found is not None
    return found

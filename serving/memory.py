"""What is kept of an answer: the exact entry, and what the semantic cache may make of it.

Called before a flight ends. Knows how an answer is stored and judged, not how one is got: whoever calls it lends the
means to ask a question aside.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import orjson

from models.types import Deadline, Json
from router.decision import Fresh, Lookup
from serving.cache.exact import Entry
from serving.cache.key import prompt_fingerprint, storable
from serving.cache.remote import AnswerCache
from serving.job import Job, Outcome
from serving.ledger.row import Row
from serving.request_id import new_id
from serving.semantic import Semantics, ended_well
from serving.tiers import AUTO, Target, Tiers
from serving.wire.request import Limits, parse

JUDGE_DEADLINE_S = 60.0
_MAKESHIFT = ("degraded_", "router_", "explore")  # of answers that the policy did not want so, or was not asked about

AskAside = Callable[[str, str], Awaitable[str]]
"""(tier, prompt) to the text of the answer."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Both caches as an answer meets them."""

    tiers: Tiers
    cache: AnswerCache | None
    semantics: Semantics | None

    def remember(self, job: Job, outcome: Outcome, ask: AskAside) -> None:
        """Store a whole answer of the wanted tier, before the flight ends: no twin may start in between.

        An answer found by meaning is not stored anew: whoever deletes it must find all there is of it.
        """
        if job.cache_key is None or job.cache_use == "off" or outcome.opening.hit is not None:
            return
        decided = job.decision.reason if job.decision is not None else ""
        if outcome.opening.reason.startswith(_MAKESHIFT) or decided.startswith(_MAKESHIFT) or outcome.usage.estimated:
            return
        body = outcome.whole()
        if body is None or not storable(body):
            return
        self._learn(job, outcome, body, ask)
        job.row.cache_entry = job.cache_key.hex()
        if self.cache is None:
            return
        self.cache.put(
            Entry(
                key=job.cache_key,
                tenant=job.row.tenant,
                tier=outcome.opening.route,
                model=outcome.opening.model,
                endpoint=job.asked.endpoint,
                body=orjson.dumps(body),
                usage=outcome.usage,
                created_at_s=time.time(),
                cost_nusd=outcome.cost_nusd,
            ),
            job.epoch,
        )

    def _learn(self, job: Job, outcome: Outcome, body: Json, ask: AskAside) -> None:
        """Offer the answer to the semantic cache, and have it compared with the one that was near but not proven."""
        decision = job.decision
        if self.semantics is None or job.lookup is None or decision is None or not decision.remember:
            return
        if ended_well(body):
            made = _fresh(job, outcome, job.lookup, body)
            judge = self.semantics.judge
            compare = decision.compare if judge is None or self._may_judge(job, judge) else None
            self.semantics.learn(made, compare, body, job.asked.text, partial(ask, judge or ""))

    def _may_judge(self, job: Job, judge: str) -> bool:
        """The judge reads what the caller wrote and is paid by the caller's key: it is held to the limits of both.
        Whoever may ask for `auto` may come to any tier."""
        allowed = job.key.may_ask(judge) or job.key.may_ask(AUTO)
        return allowed and (self.tiers[judge].local or not job.asked.options.local_only)


def aside(job: Job, tier: str, prompt: str) -> Job:
    """One more request, of the same tenant and key, with a row of its own: the judge's."""
    body = {"model": tier, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8, "temperature": 0}
    body["farthing"] = {"keep_text": False}  # the question it is about is kept as its own, if at all
    asked = parse("chat/completions", orjson.dumps(body), Limits())
    row = Row(
        request_id=new_id(),
        at_ms=int(time.time() * 1000),
        tenant=job.row.tenant,
        key_id=job.row.key_id,
        requested_model=tier,
        cache="bypass",
        prompt_sha256=prompt_fingerprint(asked),
        policy_version=job.row.policy_version,
        tags=["judge"],
    )
    deadline = Deadline.after(JUDGE_DEADLINE_S)
    return Job(asked, row, deadline, Target(tier), time.monotonic(), job.key, cache_use="off")


def _fresh(job: Job, outcome: Outcome, lookup: Lookup, body: Json) -> Fresh:
    return Fresh(
        request_id=job.row.request_id,
        tenant=job.row.tenant,
        lookup=lookup,
        tier=outcome.opening.route,
        model=outcome.opening.model,
        body=orjson.dumps(body),
        usage=outcome.usage,
        cost_nusd=outcome.cost_nusd,
    )

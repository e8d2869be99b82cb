"""The gateway's side of answers found by meaning: what a request may share, and what its fresh answer teaches.

The router deployment owns vectors and verdicts; here a request is told where to look, a fresh answer is handed over,
and the comparison with a doubtful one is made. The latter two happen after the caller has been served: a failure is
logged and costs a later hit, never a request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson

from models.types import Json
from router.cache.answers import Comparison, agree, question_for_judge, verdict
from router.decision import Decision, Facts, Fresh, Lookup, Recalled
from serving.cache.key import meaning_scope
from serving.deciding import Refusal
from serving.wire.options import CacheMode
from serving.wire.request import Asked

log = logging.getLogger(__name__)

AskJudge = Callable[[str], Awaitable[str]]
MAX_LEARNING = 64  # answers on their way to the router; beyond it new ones are let go


@dataclass(frozen=True, slots=True)
class Embedded:
    """(n, dim) float32, row after row, and the tokens of all texts."""

    data: bytes
    dim: int
    tokens: int


class RouterCalls(Protocol):
    """The router deployment as the gateway calls it. Every call may fail."""

    async def decide(self, facts: Facts, deadline_s: float) -> Decision | Refusal: ...

    async def remember(self, made: Fresh) -> bool: ...

    async def label(self, request_id: str, right: bool) -> bool: ...

    async def complain(self, request_id: str, entry_id: str) -> bool: ...

    async def drop_answers_of(self, request_ids: list[str]) -> bool: ...

    async def delete(self, kind: str, name: str) -> int: ...

    async def embed(self, texts: list[str]) -> Embedded: ...


@dataclass(slots=True)
class Semantics:
    """One per gateway replica. `shared`: tenant to the namespace it shares; who has none finds only its own."""

    router: RouterCalls
    namespace: str
    shared: Mapping[str, str]
    compare: Literal["none", "exact", "normalised", "judge"] = "none"
    judge: str | None = None  # the tier that is asked where answers differ
    _learning: set[asyncio.Task[None]] = field(default_factory=set)

    def lookup(self, asked: Asked, tenant: str, mode: CacheMode, cacheable: bool) -> Lookup | None:
        """None where the request may neither take nor leave an answer by meaning."""
        if not cacheable or mode in ("exact", "off"):
            return None
        partition = meaning_scope(asked, self.namespace)
        if partition is None:
            return None
        return Lookup(partition, asked.model, self.shared.get(tenant, ""), serve=mode != "bypass")

    def learn(self, made: Fresh | None, compare: Recalled | None, body: Json, question: str, judge: AskJudge) -> None:
        """Hand a fresh answer to the router, and say whether it agrees with the doubtful one. Returns at once."""
        if len(self._learning) >= MAX_LEARNING or (made is None and compare is None):
            return
        task = asyncio.get_running_loop().create_task(self._learn(made, compare, body, question, judge))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def drain(self, timeout_s: float) -> None:
        if self._learning:
            _, late = await asyncio.wait(list(self._learning), timeout=timeout_s)
            for task in late:
                task.cancel()

    async def _learn(
        self, made: Fresh | None, compare: Recalled | None, body: Json, question: str, judge: AskJudge
    ) -> None:
        if compare is not None and made is not None and self.compare != "none":
            await _or_logged("compared", self._compare(made, compare, body, question, judge))
        if made is not None:
            await _or_logged("remembered", self.router.remember(made))

    async def _compare(self, made: Fresh, compare: Recalled, body: Json, question: str, judge: AskJudge) -> None:
        right = await self._agree(text_of(orjson.loads(compare.body)), text_of(body), question, judge)
        if right is not None:
            await self.router.label(made.request_id, right)

    async def _agree(self, cached: str, afresh: str, question: str, judge: AskJudge) -> bool | None:
        if (told := agree(cached, afresh, Comparison(self.compare))) is not None:
            return told
        return verdict(await judge(question_for_judge(question, cached, afresh)))


async def _or_logged(what: str, work: Awaitable[object]) -> None:
    try:
        await work
    except Exception as exc:  # noqa: BLE001 - the edge of a background task: the caller has the answer already
        log.warning("a fresh answer could not be %s: %s: %s", what, type(exc).__name__, exc)


def text_of(body: Json) -> str:
    """What the first choice says."""
    message: dict[str, Any] = body["choices"][0].get("message") or {}
    return message.get("content") or ""


def ended_well(body: Json) -> bool:
    """Only a single answer that ended by itself, in text alone, may answer another question."""
    choices = body.get("choices") or []
    return (
        len(choices) == 1
        and choices[0].get("finish_reason") == "stop"
        and bool(text_of(body))
        and not any((choices[0].get("message") or {}).get(name) for name in ("tool_calls", "function_call"))
    )

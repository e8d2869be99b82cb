"""One label run: ask both tiers, score both answers, until all prompts are done, the money is, or the gateway is gone.

Everything that was paid for goes through the work file first, so a run can end anywhere and be gone on with.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from models.types import Json
from router.grading import grade
from serving.label import code, judge
from serving.label.client import Client, Stopped
from serving.label.items import PYTHON, Item
from serving.label.work import WorkFile

TELL_EVERY_S: Final = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Tiers by name, and bounds. judge: None where every prompt has a reference."""

    small: str
    strong: str
    judge: str | None
    max_usd: float
    parallel: int


@dataclass(slots=True)
class Money:
    """What may be spent, over all runs with one work file. A call is let go while, with it and those in flight costing
    as much as the dearest so far of their kind, it stays within; the first ones of a kind are let go unseen."""

    max_usd: float
    work: WorkFile
    _dearest_usd: dict[str, float] = field(default_factory=dict)
    _held_usd: float = 0.0

    def __post_init__(self) -> None:
        for (_, what), entry in self.work.answers.items():
            self.settle(what, 0.0, entry["cost_usd"])

    def hold(self, what: str) -> float:
        """Raises Stopped when it might not be enough."""
        expected_usd = self._dearest_usd.get(what, 0.0)
        if self.work.spent_usd + self._held_usd + expected_usd >= self.max_usd:
            raise Stopped(
                f"${self.work.spent_usd:.4f} of ${self.max_usd:g} are spent and the next question may cost "
                f"${expected_usd:.4f}: raise --max-usd"
            )
        self._held_usd += expected_usd
        return expected_usd

    def settle(self, what: str, held_usd: float, cost_usd: float) -> None:
        self._held_usd -= held_usd
        self._dearest_usd[what] = max(self._dearest_usd.get(what, 0.0), cost_usd)


@dataclass(slots=True)
class Run:
    plan: Plan
    client: Client
    work: WorkFile
    say: Say
    rows: dict[str, Json] = field(default_factory=dict)  # by item id
    troubles: Counter[str] = field(default_factory=Counter)  # why there is no label
    done: int = 0
    _money: Money = field(init=False)
    _stopped: Stopped | None = None
    _told_s: float = 0.0

    def __post_init__(self) -> None:
        self._money = Money(self.plan.max_usd, self.work)

    async def label(self, items: Sequence[Item]) -> Stopped | None:
        """Fill `rows`. Returns why it ended early, if it did: then calls in flight are waited for, since they are paid
        for, and of the other prompts those are scored whose answers are there already."""
        waiting = list(reversed(items))

        async def work_off() -> None:
            while waiting:
                item = waiting.pop()
                try:
                    await self._one(item)
                except Stopped as exc:
                    self._stopped = self._stopped or exc
                    continue
                self.done += 1
                self._tell(len(items))

        await asyncio.gather(*(work_off() for _ in range(self.plan.parallel)))
        self._tell(len(items), last=True)
        return self._stopped

    async def _one(self, item: Item) -> None:
        answers: list[Json] = []
        for tier in (self.plan.small, self.plan.strong):
            answers.append(entry := await self._ask(item, tier, tier, item.messages))
            if "error" in entry:
                self._trouble(entry["kind"], item, entry["error"])
                return
        scored = await self._scores(item, *answers)
        if scored is not None:
            self.rows[item.id] = _row(item, self.plan, (answers[0], answers[1]), scored)

    async def _ask(
        self, item: Item, what: str, tier: str, messages: list[Json], says: Callable[[str], object] = str
    ) -> Json:
        """The entry of the work file, paid for now if it is not there yet, or if `says` made None of its text: then an
        earlier run has asked in vain."""
        known = self.work.answers.get((item.key, what))
        if known is not None and ("error" in known or says(known["text"]) is not None):
            return known
        if self._stopped is not None:
            raise self._stopped
        held_usd, cost_usd = self._money.hold(what), 0.0
        try:
            entry = {"key": item.key, "what": what, **await self.client.ask(tier, messages)}
            cost_usd = entry["cost_usd"]
            self.work.add(entry)
        finally:
            self._money.settle(what, held_usd, cost_usd)
        return entry

    async def _scores(self, item: Item, small: Json, strong: Json) -> Json | None:
        """`small`, `strong` in 0..1 and `by`; None where nothing could be said."""
        texts = small["text"], strong["text"]
        if item.reference is not None and item.checker == PYTHON:
            right = [await code.passes(text, item.reference) for text in texts]
            return {"small": float(right[0]), "strong": float(right[1]), "by": PYTHON}
        if item.reference is not None:
            right = [grade(text, item.reference, item.checker) for text in texts]
            return {"small": float(right[0]), "strong": float(right[1]), "by": item.checker}
        if not any(texts):
            self._trouble("empty", item, "both answers are empty")
            return None
        by = f"judge:{self.plan.judge}"
        if texts[0] == texts[1]:
            return {"small": 0.5, "strong": 0.5, "by": by}
        if not all(texts):  # an empty answer loses; nobody has to be asked
            return {"small": float(bool(texts[0])), "strong": float(bool(texts[1])), "by": by}
        return await self._judged(item, texts, by)

    async def _judged(self, item: Item, texts: tuple[str, str], by: str) -> Json | None:
        said: list[judge.Verdict] = []
        cost_usd = 0.0
        for order, pair in zip(judge.ORDERS, (texts, texts[::-1]), strict=True):
            messages = [{"role": "user", "content": judge.question(item.dialogue, *pair)}]
            entry = await self._ask(item, order, self.plan.judge or "", messages, judge.verdict)
            cost_usd += entry["cost_usd"]
            found = None if "error" in entry else judge.verdict(entry["text"])
            if found is None:
                self._trouble(entry.get("kind", "unjudged"), item, entry.get("error", "the judge gave no verdict"))
                return None
            said.append(found)
        small, strong = judge.scores(said[0], said[1])
        swapped = said[0] != "tie" and said[0] == said[1]  # the same place won both times, so a place won
        return {"small": small, "strong": strong, "by": by, "cost_usd": cost_usd, "swapped": swapped}

    def _trouble(self, kind: str, item: Item, why: str) -> None:
        self.troubles[kind] += 1
        self.say(f"no label for {item.id}: {why}")

    def _tell(self, of: int, *, last: bool = False) -> None:
        now_s = time.monotonic()
        if last or now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            told = f"{self.done} of {of} prompts, {len(self.rows)} labels, ${self.work.spent_usd:.4f}"
            self.say(told + "".join(f", {count} {kind}" for kind, count in sorted(self.troubles.items())))


def _row(item: Item, plan: Plan, answers: tuple[Json, Json], scored: Mapping[str, Any]) -> Json:
    """An outcome row with several models (docs/learned-routing.md)."""
    small, strong = answers
    row: Json = {"id": item.id, "task": item.task, "group": item.group, "prompt": item.prompt}
    if item.question != item.prompt:
        row["question"] = item.question
    if item.reference is not None:
        row["reference"] = item.reference
    row |= {"scored_by": scored["by"], "prompt_tokens": small["prompt_tokens"]}
    if "cost_usd" in scored:
        row |= {"judge_cost_usd": scored["cost_usd"], "judge_swapped": scored["swapped"]}
    row["models"] = {
        tier: {
            "correct": scored[name],
            "text": answer["text"],
            "completion_tokens": answer["completion_tokens"],
            "cost_usd": answer["cost_usd"],
            "finish_reason": answer["finish_reason"],
            "model": answer["model"],
        }
        for tier, name, answer in ((plan.small, "small", small), (plan.strong, "strong", strong))
    }
    return row

"""The same comparison with real backends: a configuration of the service, its own keys, real money.

    python -m benchmarks.cost --live [CONFIG] [--requests FILE] --max-usd 1 --journal FILE

Without a configuration the embedded model of this machine answers, so that it runs anywhere. Every reply is written to
the journal as it comes, and what is there already is not asked again: a run that was cut off, or came to the end of its
money, goes on where it stopped. The service itself refuses hosted calls beyond `--max-usd` (its daily budget).
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TextIO

from benchmarks import service
from benchmarks.child import BenchmarkError, Nursery, free_port, say
from benchmarks.cost.accounting import Driven, Judge, Scored
from benchmarks.cost.architectures import FRONTIER, SMALL, Architecture
from benchmarks.cost.configured import Config, Tier, services_of
from benchmarks.cost.drive import Reply, Target, drive
from benchmarks.cost.loads import Compared
from benchmarks.cost.replayed import keys_of, routed_as, tenant_of
from benchmarks.cost.results import Against, Figures
from benchmarks.cost.workload import Request, Workload
from models.prices import NUSD_PER_USD
from router.grading import grade


class Journal:
    """Replies by row, in a file that only grows; a line that was cut off is left out. Raises BenchmarkError."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = None
        self.replies: dict[str, dict[str, Reply]] = {}
        if path is None:
            return
        try:
            if path.is_file():
                self._read(path.read_text(encoding="utf-8").splitlines())
            self._file = path.open("a", encoding="utf-8")
        except (OSError, ValueError) as exc:
            raise BenchmarkError(f"{path} cannot be a journal: {exc}") from exc

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            try:
                entry = json.loads(line)
                reply = Reply(**entry["reply"])
            except (ValueError, KeyError, TypeError):
                continue
            if reply.route and not reply.error:  # what failed, or whose route nobody knew yet, is asked again
                self.replies.setdefault(entry["row"], {})[reply.id] = reply

    def keep(self, row: str, reply: Reply) -> None:
        self.replies.setdefault(row, {})[reply.id] = reply
        if self._file is not None:
            self._file.write(json.dumps({"row": row, "reply": asdict(reply)}, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class Live:
    """One live run. `spent_nusd` counts hosted answers alone, those of the journal among them."""

    workload: Workload
    tiers: Sequence[Tier]
    journal: Journal
    max_usd: float
    at: datetime.datetime
    spent_nusd: int = 0

    def run(self, nursery: Nursery, config: Config) -> list[Driven]:
        """All rows, or as many as the money allows; a row that could not be finished is left out, and said."""
        judge = self._judge(lambda *_: True)
        hosted = {tier.name for tier in self.tiers if tier.role != SMALL}
        for replies in self.journal.replies.values():
            paid = [
                r for r in replies.values() if r.route in hosted and r.cache not in ("exact", "semantic", "coalesced")
            ]
            self.spent_nusd += sum(judge.nusd(r) for r in paid)
        found: list[Driven] = []
        for served, rows in services_of(config, self.tiers):
            say(f"starting the service; {self.max_usd - self.spent_nusd / NUSD_PER_USD:.4f} USD left to spend")
            with service.running(nursery, self._config(served)) as ours:
                for row in rows:
                    driven = self._row(ours, row, judge, hosted)
                    if driven is None:
                        say(f"{row.label}: not finished within --max-usd; the journal has what there is")
                        return found
                    found.append(driven)
                say("stopping")
        return found

    def compared(self, found: Sequence[Figures]) -> Compared:
        """Break-even is of the first tier of one's own, against the cheapest hosted row and the last tier's."""
        hosted = {f"all-{tier.name}": tier for tier in self.tiers if tier.role != SMALL}
        rows = sorted((row for row in found if row.name in hosted), key=lambda row: row.total.value)
        against: dict[Against, str] = {}
        if rows and hosted[rows[0].name].role != FRONTIER:
            against["cheapest"] = rows[0].name
        if (last := next((name for name, tier in hosted.items() if tier.role == FRONTIER), None)) is not None:
            against["frontier"] = last
        own = next((tier.name for tier in self.tiers if tier.role == SMALL), "")
        return Compared(f"all-{own}", against)

    def _config(self, config: Config) -> dict[str, Any]:
        left = max(0.0, self.max_usd - self.spent_nusd / NUSD_PER_USD)
        ours = {"listen": {"host": "127.0.0.1", "port": free_port()}, "auth": {"required": True}}
        return {**config, **ours, "budget": {"frontier_usd_per_day": round(left, 6)}}

    def _row(self, ours: service.Service, row: Architecture, judge: Judge, hosted: set[str]) -> Driven | None:
        known = self.journal.replies.get(row.name, {})
        missing = [request for request in self.workload.requests if request.id not in known]
        resumed, elapsed_s = len(missing) < len(self.workload.requests), 0.0
        if missing:
            say(f"{row.label}: {len(missing):,} requests in {missing[-1].arrival_s - missing[0].arrival_s:.0f} s")
            target = Target(ours.v1, keys_of(ours, row, self.workload), row.model)

            def keep(reply: Reply) -> bool:
                if "insufficient_quota" in reply.error:  # the service's own word that the money is gone
                    return False
                self.journal.keep(row.name, reply)
                if reply.route in hosted and not reply.error:
                    self.spent_nusd += judge.nusd(reply)
                return self.spent_nusd < self.max_usd * NUSD_PER_USD or row.model not in hosted

            elapsed_s = asyncio.run(drive(missing, target, keep, say))
        replies = self.journal.replies.get(row.name, {})
        ledger = self._ledger(
            ours, row, [request for request in missing if request.id in replies and not replies[request.id].error]
        )
        for id, reply in routed_as(replies, ledger).items():
            if reply != replies[id] and not reply.error:
                self.journal.keep(row.name, reply)
        if any(request.id not in replies for request in self.workload.requests):
            return None
        ledger = [] if resumed else ledger
        owned = any(tier.role == SMALL and row.model in (tier.name, "auto") for tier in self.tiers)
        span_s = max(elapsed_s, self.workload.duration_s, 1e-3)
        return Driven(row.name, row.label, self.scored(replies), span_s, int(owned), ledger)

    def _ledger(self, ours: service.Service, row: Architecture, asked: Sequence[Request]) -> list[Mapping[str, Any]]:
        counts = Counter(request.tenant for request in asked)
        return [one for tenant, n in counts.items() for one in ours.ledger_rows(tenant_of(row, tenant), n)]

    def scored(self, replies: Mapping[str, Reply]) -> list[Scored]:
        """A hit belongs to its question when some model gave that text to it in this row; tiers by their roles."""
        question = {request.id: request.question for request in self.workload.requests}
        fresh = {(question[r.id], r.text) for r in replies.values() if r.id in question and r.cache not in _HITS}
        judge = self._judge(lambda asked, text: (asked, text) in fresh)
        role = {tier.name: tier.role for tier in self.tiers}
        scored = [judge.score(request, replies[request.id]) for request in self.workload.requests]
        return [replace(s, reply=replace(s.reply, route=role.get(s.reply.route, s.reply.route))) for s in scored]

    def _judge(self, belongs: Any) -> Judge:
        return Judge({tier.name: tier.price for tier in self.tiers}, grade, belongs, self.at)


_HITS: Final = frozenset({"exact", "semantic", "coalesced"})


def arithmetic(count: int, rps: float) -> Workload:
    """Questions of our own that a small model gets right now and then: for a run without files. Each tenth repeats."""
    requests: list[Request] = []
    for i in range(count):
        number = i - 1 if i % 10 == 9 else i
        a, b = 12 + number * 7 % 88, 3 + number * 5 % 60
        text = f"What is {a} + {b}? Answer with the number alone."
        repeated = "repeat" if number != i else "new"
        message = {"role": "user", "content": text}
        fields: dict[str, Any] = {"kind": repeated, "reference": str(a + b), "checker": "number", "max_tokens": 24}
        requests.append(Request(f"sum/{i}", round(i / rps, 3), [message], f"sum/{number}", **fields))
    facts = {"source": "sums of our own", "requests": count, "offered_rps": rps}
    return Workload("live", requests, (), facts)

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

import yaml

from benchmarks import service
from benchmarks.child import BenchmarkError, Nursery, free_port, say
from benchmarks.cost.accounting import Driven, Judge, Scored
from benchmarks.cost.architectures import CHEAP, FRONTIER, ROUTED, SMALL, Architecture, Gpu
from benchmarks.cost.drive import Reply, Target, drive
from benchmarks.cost.replayed import keys_of, routed_as, tenant_of
from benchmarks.cost.workload import Request, Workload
from models.local.fit import pick_profile
from models.local.gpus import detect_gpu
from models.local.profiles import catalogue, resolve
from models.prices import NUSD_PER_USD, Price, PriceBook, PriceOverride, RateCard
from router.grading import grade

EMBEDDED: Final[Mapping[str, Any]] = {"tiers": [{"name": SMALL, "backends": [{"kind": "engine"}]}]}


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier of the configuration. `role`: what the report calls it (`small`, `cheap` or `frontier`)."""

    name: str
    model: str
    price: Price
    role: str


def read_config(path: Path | None) -> dict[str, Any]:
    """Raises BenchmarkError."""
    if path is None:
        return dict(EMBEDDED)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as exc:
        raise BenchmarkError(f"cannot read {path}: {exc}") from exc
    if not isinstance(data, dict) or not data.get("tiers"):
        raise BenchmarkError(f"{path} is no configuration of the service: it has no tiers")
    return data


def tiers_of(config: Mapping[str, Any]) -> list[Tier]:
    """With the prices the service will use. Raises UnknownPrice or another FarthingError."""
    book = PriceBook(config.get("prices"))
    stated = config["tiers"]
    hosted = [tier["name"] for tier in stated if tier["backends"][0]["kind"] == "http"]
    found = []
    for tier in stated:
        backend = tier["backends"][0]
        if backend["kind"] == "http":
            role = FRONTIER if tier["name"] == hosted[-1] else CHEAP
            found.append(Tier(tier["name"], backend["model"], _hosted(tier, backend, book), role))
        else:
            model, card = _owned(tier, backend)
            found.append(Tier(tier["name"], model, card, SMALL))
    return found


def _hosted(tier: Mapping[str, Any], backend: Mapping[str, Any], book: PriceBook) -> Price:
    if "price" in tier:
        return PriceOverride.model_validate({"source": "the configuration", **tier["price"]})
    return book.price_of(tier.get("price_ref") or backend["model"], tier.get("price_provider"))


def _owned(tier: Mapping[str, Any], backend: Mapping[str, Any]) -> tuple[str, RateCard]:
    """Raises BenchmarkError for a model without a rate card, as the service does."""
    name, gpu = backend.get("profile", "auto"), detect_gpu()
    suited = catalogue()["embedded"] if gpu is None else pick_profile(gpu)
    profile = suited if name == "auto" else resolve(name)
    stated, card = tier.get("price") or {}, profile.rate_card
    fields = {} if card is None else card.model_dump()
    fields |= {"as_of": datetime.datetime.now(datetime.UTC).date(), "source": "the configuration"} if stated else {}
    try:
        return profile.name, RateCard.model_validate(fields | dict(stated))
    except ValueError as exc:
        raise BenchmarkError(f"tier '{tier['name']}' has no rate card: state its price in the configuration") from exc


def gpu_of(tiers: Sequence[Tier]) -> Gpu:
    """What is owned, for the idle part; without a tier of one's own nothing is."""
    card = next((tier.price for tier in tiers if isinstance(tier.price, RateCard)), None)
    if card is None:
        return Gpu(usd_per_hour=0.0)
    speeds = float(card.prefill_tokens_per_s), float(card.decode_tokens_per_s)
    return Gpu(float(card.usd_per_hour), *speeds, source=card.source)


def rows_of(config: Mapping[str, Any], tiers: Sequence[Tier]) -> list[Architecture]:
    """Each tier alone, then the choice as configured, without and with the caches that are on."""
    found = [Architecture(f"all-{tier.name}", f"all to {tier.name} ({tier.model})", tier.name) for tier in tiers]
    semantic = ((config.get("cache") or {}).get("semantic") or {}).get("mode") == "serve"
    as_configured = [replace(row, label=row.label.replace("routed", "auto, as configured")) for row in ROUTED]
    return found + [row for row in as_configured if semantic or row.cache != "semantic"]


class Journal:
    """Replies by row, in a file that only grows; a line that was cut off is left out."""

    def __init__(self, path: Path | None) -> None:
        self._file: TextIO | None = None
        self.replies: dict[str, dict[str, Reply]] = {}
        if path is None:
            return
        if path.is_file():
            self._read(path.read_text(encoding="utf-8").splitlines())
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            try:
                entry = json.loads(line)
                reply = Reply(**entry["reply"])
            except (ValueError, KeyError, TypeError):
                continue
            if not reply.error:  # what failed is asked again
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

    def run(self, nursery: Nursery, config: Mapping[str, Any]) -> list[Driven]:
        """All rows, or as many as the money allows; a row that could not be finished is left out, and said."""
        judge = self._judge(lambda *_: True)
        hosted = {tier.name for tier in self.tiers if tier.role != SMALL}
        for replies in self.journal.replies.values():
            paid = [
                r for r in replies.values() if r.route in hosted and r.cache not in ("exact", "semantic", "coalesced")
            ]
            self.spent_nusd += sum(judge.nusd(r) for r in paid)
        found: list[Driven] = []
        rows = rows_of(config, self.tiers)
        say(f"starting the service; {self.max_usd - self.spent_nusd / NUSD_PER_USD:.4f} USD left to spend")
        with service.running(nursery, self._config(config)) as ours:
            for row in rows:
                driven = self._row(ours, row, judge, hosted)
                if driven is None:
                    say(f"{row.label}: not finished within --max-usd; the journal has what there is")
                    break
                found.append(driven)
            say("stopping")
        return found

    def _config(self, config: Mapping[str, Any]) -> dict[str, Any]:
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

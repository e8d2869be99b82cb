"""Before anything is started: questions, what they cost and are worth at each tier, routers, and the workload.

The routers are learned on all questions of a half; driven is a part of them, drawn by the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.child import BenchmarkError, say
from benchmarks.cost import mixing, routers, zeroeval
from benchmarks.cost.architectures import CHEAP, FIXED, FRONTIER, ROUTED, SMALL, WITH_GPU, Gpu
from benchmarks.cost.breakeven import HourPrice
from benchmarks.cost.mixing import Mix
from benchmarks.cost.prices import Prices
from benchmarks.cost.replayed import Deployed, Service, Speeds
from benchmarks.cost.routers import Candidate, Learned, Table, Teaching
from benchmarks.cost.workload import Workload
from benchmarks.cost.zeroeval import Question
from router.embedding.minilm import load_default
from router.grading import grade

ALL: Final = (SMALL, CHEAP, FRONTIER)
OWN: Final = Candidate("small → frontier", (SMALL, FRONTIER))
CANDIDATES: Final = (
    Candidate("cheap → frontier", (CHEAP, FRONTIER)),
    Candidate("cheap → frontier, softened labels", (CHEAP, FRONTIER), softened=True),
    Candidate("cheap → frontier, softened labels, logistic", (CHEAP, FRONTIER), "logistic", softened=True),
    Candidate("small → cheap → frontier, softened labels, logistic", ALL, "logistic", softened=True),
    OWN,
)


@dataclass(frozen=True, slots=True)
class Taught:
    """Every candidate after learning, and the one that each half's training chose. `fold`: half of each question."""

    fold: NDArray[np.int64]
    learned: Mapping[str, Sequence[Learned]]
    chosen: Sequence[Learned]

    def plan(self, questions: Sequence[Question], root: Path) -> list[Service]:
        """A service with all tiers, routing between the owned GPU and the frontier, and one as training chose.

        In the first the cheap tier is named only: of strength 0 it is never worth its price.
        """
        own = deployed(self.learned[OWN.name], self.fold, questions, root)
        whole = replace(own, tiers=ALL, strengths={SMALL: 0.0, CHEAP: 0.0, FRONTIER: 1.0})
        best = deployed(self.chosen, self.fold, questions, root)
        return [(whole, (*FIXED, WITH_GPU)), (best, ROUTED)]


def best_of(rivals: Sequence[Sequence[Learned]]) -> list[Learned]:
    """For each half the candidate that was cheapest in that router's own training."""
    return [min(both, key=lambda r: r.around_usd) for both in zip(*rivals, strict=True)]


def deployed(
    routers: Sequence[Learned], fold: NDArray[np.int64], questions: Sequence[Question], root: Path
) -> Deployed:
    """Strengths are the mean of both halves' where they matter: one service has one set of them."""
    version = {half: router.folder.name for half, router in zip(np.unique(fold), routers, strict=True)}
    tiers = routers[0].candidate.tiers
    strengths = None
    if len(tiers) > 2:
        mean = np.mean([router.worths[:, 0] for router in routers], axis=0)
        strengths = {tier: round(float(s), 4) for tier, s in zip(tiers, mean, strict=True)}
    return Deployed(tiers, root, {q.id: version[h] for q, h in zip(questions, fold, strict=True)}, strengths)


def table_of(questions: Sequence[Question], models: Mapping[str, str], prices: Prices) -> Table:
    """Costs from recorded tokens and the price book; right or wrong by the same grader as the driven answers."""
    tiers = list(models)
    usd = [[_usd(q, models[t], t, prices) for t in tiers] for q in questions]
    right = [[float(grade(q.answers[models[t]].text, q.reference, q.checker)) for t in tiers] for q in questions]
    return Table([q.id for q in questions], tiers, np.array(usd), np.array(right))


def _usd(question: Question, model: str, tier: str, prices: Prices) -> float:
    said = question.answers[model]
    return prices.usd_per_1k(tier, said.input_tokens, said.output_tokens)


def teach(questions: Sequence[Question], table: Table, prices: Prices, folder: Path, embeddings: Path) -> Taught:
    """All candidates on both halves.

    Which tiers to route among is chosen by both halves' training scores, since one service has one set of tiers; among
    candidates of those tiers each half's own training chooses.
    """
    fold = routers.halves_of(questions)
    if len(np.unique(fold)) < 2:
        raise BenchmarkError("too few questions to learn on one half and drive the other")
    others = zeroeval.others(questions, list(prices.models.values()))
    to = Teaching(load_default(), folder, embeddings, FRONTIER, 0.97, prices.nominal_usd(), others, say)
    learned = {c.name: routers.learn(c, questions, table, fold, to) for c in CANDIDATES}
    best = min(learned.values(), key=lambda halves: sum(router.around_usd for router in halves))
    chosen = best_of([h for h in learned.values() if h[0].candidate.tiers == best[0].candidate.tiers])
    say(f"routed by: {', '.join(dict.fromkeys(router.candidate.name for router in chosen))}")
    return Taught(fold, learned, chosen)


def short(questions: Sequence[Question], max_answer_tokens: int) -> list[Question]:
    """Without those to which some tier's answer ran on and on: each such holds a row up by as long as it takes."""
    return [q for q in questions if all(a.output_tokens <= max_answer_tokens for a in q.answers.values())]


def workload(
    questions: Sequence[Question], fold: NDArray[np.int64], mix: Mix, count: int | None, asked: Sequence[Question]
) -> Workload:
    """`count` of those to be asked, each task in its proportion, with repeats and paraphrases mixed in."""
    driven = mixing.pick(asked, count, mix.seed)
    half = {q.id: int(f) for q, f in zip(questions, fold, strict=True)}
    requests = mixing.halves(driven, mix, {q.id: half[q.id] for q in driven})
    answers = [answer for q in driven for answer in q.answers.values()]
    facts: dict[str, Any] = {
        "questions": len(driven),
        "of": len(questions),
        "left_out_as_too_long": len(questions) - len(asked),
        "tasks": dict(Counter(q.task for q in driven)),
        "requests": len(requests),
        "repeats": sum(r.kind == "repeat" for r in requests) / len(requests),
        "paraphrases": sum(r.kind == "paraphrase" for r in requests) / len(requests),
        "offered_rps": mix.rps,
    }
    return Workload("replay", requests, answers, facts)


def low_loads(workload: Workload, loads_rps: Sequence[float], seconds: float) -> list[Workload]:
    """The workload's first requests again, stretched to each load, for so many seconds: two at least, which take longer
    where the load is low."""
    found = []
    for rps in loads_rps:
        scale = float(workload.facts["offered_rps"]) / rps
        requests = [replace(r, arrival_s=r.arrival_s * scale, phase=0) for r in workload.requests]
        few = [r for r in requests if r.arrival_s <= seconds]
        first = few if len(few) > 1 else sorted(requests, key=lambda r: r.arrival_s)[:2]
        found.append(Workload(f"{rps:g}-rps", first, workload.answers, {"offered_rps": rps}))
    return found


def read(path: Path, models: Mapping[str, str]) -> list[Question]:
    return zeroeval.read(path, list(models.values()))


@dataclass(frozen=True, slots=True)
class Known:
    """All questions with what each tier makes of them, and the routers learned on them."""

    questions: Sequence[Question]
    table: Table
    taught: Taught


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is fixed before the first request. `known` None: nothing to learn from or to grade.

    `hours`: what the GPU's hour is taken to cost where break-even is worked out.
    """

    known: Known | None
    workload: Workload
    prices: Prices
    gpu: Gpu
    speeds: Speeds
    hours: Sequence[HourPrice]

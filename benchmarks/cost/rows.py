"""The computed rows and the curves of a run: what follows from outcomes, put beside what was driven. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost import computed, routers
from benchmarks.cost.accounting import Bootstrap
from benchmarks.cost.architectures import CHEAP, FRONTIER, SMALL
from benchmarks.cost.computed import Curve
from benchmarks.cost.prepared import OWN, Known
from benchmarks.cost.results import Figures, Interval, Parts
from benchmarks.cost.routers import Candidate, Columns, Table
from benchmarks.cost.workload import Request
from router import baselines

KEPT: Final = 0.97
RESAMPLES: Final = 300
PAIR: Final = Candidate("", (CHEAP, FRONTIER))
ROUTED: Final = "routed"
RANDOM: Final = "random mix within task"
LENGTH: Final = "task + length"


def computed_rows(known: Known, requests: Sequence[Request], bootstrap: Bootstrap) -> list[Figures]:
    """Oracle, best single model, random mix and task + length, on the driven requests, nothing cached.

    Shares are chosen on all questions.
    """
    table, tasks = known.table, [q.task for q in known.questions]
    best, quality = computed.best_single(table), wanted_quality(table)
    always = np.full(len(table.ids), table.column(best), np.int64)
    choices = {
        "oracle": ("oracle: the cheapest tier that is right", computed.oracle(table)),
        "best-single": (f"best single model: {best}", always),
        "random-mix": (f"{RANDOM}, for {KEPT:.0%} kept", computed.mixed(table, tasks, quality, 0)),
    }
    by_length = computed.top_shares(_length_scores(known), known.taught.fold, PAIR, table)
    enough = next((choice for choice in by_length if table.at(choice)[1] >= quality), None)
    if enough is not None:
        choices["task-length"] = (f"{LENGTH}, for {KEPT:.0%} kept", enough)
    place = {id: i for i, id in enumerate(table.ids)}
    asked = np.array([place[request.question] for request in requests])
    return [_row(name, label, (c[asked], table.rows(asked)), bootstrap) for name, (label, c) in choices.items()]


def _row(name: str, label: str, chosen: tuple[Columns, Table], bootstrap: Bootstrap) -> Figures:
    choice, table = chosen
    places = np.arange(len(choice))
    usd, right = table.usd_per_1k[places, choice], table.correct[places, choice]
    ones, frontier = np.ones(len(choice)), table.correct[:, table.column(FRONTIER)]
    by_tier = {tier: float(usd[choice == table.column(tier)].sum()) / len(choice) for tier in table.tiers}
    parts = Parts(by_tier.get(FRONTIER, 0.0), by_tier.get(CHEAP, 0.0), by_tier.get(SMALL, 0.0))
    return Figures(
        name=name,
        label=label,
        requests=len(choice),
        failed=0,
        parts=parts,
        total=bootstrap.ratio(usd, ones),
        shares=computed.shares(choice, table),
        quality=bootstrap.ratio(right, ones),
        graded=len(choice),
        quality_kept=bootstrap.ratio(right, frontier),
        computed=True,
    )


def curves(known: Known) -> list[Curve]:
    """Quality against cost over all questions, each once: the routers' and their baselines'."""
    table, fold = known.table, known.taught.fold
    found = [computed.learned(ROUTED, known.taught.chosen, fold, table)]
    found.append(computed.learned(f"routed: {OWN.name}", known.taught.learned[OWN.name], fold, table))
    found.append(computed.random_mix(table, [q.task for q in known.questions]))
    found.append(_length(known))
    found.append(computed.ranked("oracle order", _gain(table), fold, PAIR, table))
    return found


def _gain(table: Table) -> NDArray[np.float64]:
    found: NDArray[np.float64] = table.correct[:, table.column(FRONTIER)] - table.correct[:, table.column(CHEAP)]
    return found


def _length(known: Known) -> Curve:
    return computed.ranked(LENGTH, _length_scores(known), known.taught.fold, PAIR, known.table)


def _length_scores(known: Known) -> NDArray[np.float64]:
    """Gain from task and length of the question, learned on the other half, as the routers are."""
    outcomes = routers.outcomes(PAIR, known.questions, known.table)
    return baselines.task_and_length(outcomes, known.taught.fold)


def intervals(known: Known, seed: int) -> dict[str, Interval]:
    """95 % bounds of the headline by curve, from resampled questions: the least cost at `KEPT`, part of all-frontier's.

    Routers and thresholds stay as learned; only the questions they are measured on vary.
    """
    table, fold, frontier = known.table, known.taught.fold, known.table.column(FRONTIER)
    tasks = np.array([q.task for q in known.questions])
    draws = np.random.default_rng(seed).multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), size=RESAMPLES)
    wholes, wanted = draws @ table.usd_per_1k[:, frontier], KEPT * (draws @ table.correct[:, frontier])
    by_length = computed.top_shares(_length_scores(known), fold, PAIR, table)
    found = {}
    for name, choices in ((ROUTED, computed.thresholds(known.taught.chosen, fold, table)), (LENGTH, by_length)):
        usd, right = (np.stack([part[np.arange(len(c)), c] for c in choices]) @ draws.T for part in table.both)
        found[name] = [computed.curve(name, list(zip(u, r, strict=True))) for u, r in zip(usd.T, right.T, strict=True)]
    each = [np.repeat(np.arange(len(tasks)), draw) for draw in draws]
    mixes = [computed.random_mix(table.rows(rows), tasks[rows].tolist()).times(len(rows)) for rows in each]
    found[RANDOM] = mixes
    return {name: _bounds(curves, wanted, wholes) for name, curves in found.items()}


def _bounds(curves: Sequence[Curve], wanted: NDArray[np.float64], wholes: NDArray[np.float64]) -> Interval:
    """Where a resample never reaches the quality, all-frontier does."""
    costs = [curve.usd_at(float(least)) for curve, least in zip(curves, wanted, strict=True)]
    parts = [1.0 if usd is None else usd / whole for usd, whole in zip(costs, wholes, strict=True)]
    low, middle, high = np.quantile(parts, [0.025, 0.5, 0.975])
    return Interval(float(middle), float(low), float(high))


def candidates(known: Known) -> dict[str, dict[str, float]]:
    """What every router would do on the half it was not learned on, at the threshold that training chose."""
    table, found = known.table, {}
    whole, best = all_frontier_usd(table), wanted_quality(table) / KEPT
    for name, halves in known.taught.learned.items():
        usd, quality = table.at(computed.at_chosen(halves, known.taught.fold, table))
        on_curve = computed.learned(name, halves, known.taught.fold, table).usd_at(wanted_quality(table))
        found[name] = {"part_of_all_frontier_cost": round(usd / whole, 4), "quality_kept": round(quality / best, 4)}
        if on_curve is not None:
            found[name]["part_at_97_percent_on_the_curve"] = round(on_curve / whole, 4)
    return found


def wanted_quality(table: Table) -> float:
    return KEPT * float(table.correct[:, table.column(FRONTIER)].mean())


def all_frontier_usd(table: Table) -> float:
    return float(table.usd_per_1k[:, table.column(FRONTIER)].mean())


def cost_at_kept(found: Sequence[Curve], table: Table) -> Mapping[str, float | None]:
    """For each curve the least cost that keeps `KEPT` of the frontier's quality, as a part of all-frontier's."""
    quality, whole = wanted_quality(table), all_frontier_usd(table)
    costs = {curve.name: curve.usd_at(quality) for curve in found}
    return {name: None if usd is None else usd / whole for name, usd in costs.items()}

"""From what was driven and what is known to one `Run`: rows, curves, loads, checks and everything that was assumed."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.cost import assumptions, loads, prices, rows
from benchmarks.cost.accounting import CENT_NUSD, HITS, Bootstrap, Driven, Scored, figures
from benchmarks.cost.architectures import FRONTIER, Gpu
from benchmarks.cost.computed import Curve
from benchmarks.cost.live import Live
from benchmarks.cost.loads import Simulated
from benchmarks.cost.owned import Owned
from benchmarks.cost.prepared import Known, Prepared
from benchmarks.cost.replayed import Driving
from benchmarks.cost.results import Check, Figures, Interval, LoadPoint, Run
from benchmarks.cost.rows import KEPT, LENGTH, RANDOM, ROUTED
from benchmarks.cost.workload import Request

REPLAYED: Final = ("texts and tokens", "model latency")
AIM: Final = {False: 0.30, True: 0.25}
"""Part of all-frontier's cost at which 97 % of its quality is to be kept: without repeats, and with a fifth of them."""


def driven_rows(driven: Sequence[Driven], gpu: Gpu, bootstrap: Bootstrap) -> list[Figures]:
    frontier = next((row.scored for row in driven if row.name == "all-frontier"), None)
    return [figures(row, gpu, frontier, bootstrap, REPLAYED) for row in driven]


def ledger_checks(found: Sequence[Figures]) -> list[Check]:
    """The service's books against ours, to the cent as promised; the note has it to the nano-dollar."""
    checks = []
    for one in found:
        if one.ledger_nusd is None or one.counted_nusd is None:
            continue
        difference = one.ledger_nusd - one.counted_nusd
        note = f"ledger {one.ledger_nusd:,} nUSD, counted {one.counted_nusd:,}"
        checks.append(
            Check(f"{one.name}: ledger less own count, USD", abs(difference) < CENT_NUSD, difference / 1e9, 0.0, note)
        )
    return checks


def service_checks(driven: Sequence[Driven], found: Sequence[Figures]) -> list[Check]:
    failed = sum(one.failed for one in found)
    wrong, hits = sum(one.wrong_cache_hits for one in found), sum(one.cache_hits for one in found)
    checks = [
        Check("requests that failed", failed == 0, failed, 0, "of all driven rows"),
        Check(
            "wrong cache hits", wrong == 0, wrong, 0, f"of {hits:,} hits: the answer was never given to that question"
        ),
    ]
    for row in driven:
        auto = [one for one in row.ledger if one["requested_model"] == "auto" and one["cache"] not in HITS]
        if any(one["score"] is not None for one in auto):  # without a learned router there is no score
            undecided = sum(one["score"] is None for one in auto)
            note = f"of {len(auto):,}: the encoder was late, the rules decided"
            checks.append(Check(f"{row.name}: decided without a score", undecided == 0, undecided, 0, note))
    return checks


def aim_checks(
    curves: Sequence[Curve], known: Known, found: Sequence[Figures], bounds: Mapping[str, Interval]
) -> list[Check]:
    """The headline: on the curves without repeats, and on the driven rows as they stand."""
    at = rows.cost_at_kept(curves, known.table)
    within = {name: f"95 % [{one.low:.3f}, {one.high:.3f}]" for name, one in bounds.items()}
    ours, mix, length = at[ROUTED], at[RANDOM], at[LENGTH]
    share = f"cost at {KEPT:.0%} of frontier quality, part of all-frontier"
    checks = [
        _reached(
            f"routed, no repeats: {share}", ours, AIM[False], f"{within[ROUTED]}; all questions, read off the curve"
        ),
        _reached(
            "routed, no repeats: below the random mix within task",
            ours,
            mix,
            f"the mix {within[RANDOM]}; it knows each task's outcomes",
        ),
        _reached(
            "routed, no repeats: below task + length",
            ours,
            length,
            f"that {within[LENGTH]}; learned on the other half too",
        ),
    ]
    whole = next((one.total.value for one in found if one.name == "all-frontier"), None)
    for one in found:
        if whole is None or not one.name.startswith(ROUTED) or one.quality_kept is None or one.computed:
            continue
        cached = one.cache_hits > 0
        kept = one.quality_kept
        note = f"kept {kept.value:.1%} [{kept.low:.1%}, {kept.high:.1%}]"
        part = one.total.value / whole
        wanted = AIM[cached]
        checks.append(
            Check(
                f"{one.name}, driven: part of all-frontier's cost",
                part <= wanted and kept.value >= KEPT,
                part,
                wanted,
                note,
            )
        )
    return checks


def _reached(name: str, value: float | None, wanted: float | None, note: str) -> Check:
    met = value is not None and wanted is not None and value <= wanted
    return Check(name, met, value, wanted, note if value is not None else f"never reached; {note}")


def first_times(scored: Sequence[Scored]) -> list[Scored]:
    """Each question's first request: what the row would be without repeats."""
    return [s for s in scored if s.request.kind == "new"]


def without_repeats(driven: Sequence[Driven], gpu: Gpu, seed: int) -> dict[str, Any]:
    """Of the rows without a cache: cost and quality kept over first requests alone, beside all-frontier's."""
    asked: list[Request] = [s.request for s in first_times(driven[0].scored)]
    bootstrap = Bootstrap(asked, seed)
    firsts = [
        Driven(d.name, d.label, first_times(d.scored), d.elapsed_s * len(asked) / len(d.scored), d.gpus, ())
        for d in driven
        if not d.name.startswith("routed-")
    ]
    return {
        one.name: {
            "usd_per_1k": round(one.total.value, 4),
            "quality_kept": None if one.quality_kept is None else round(one.quality_kept.value, 4),
        }
        for one in driven_rows(firsts, gpu, bootstrap)
    }


@dataclass(frozen=True, slots=True)
class Began:
    """When, where and with what a run began."""

    at: str
    machine: Mapping[str, Any]
    monotonic_s: float
    options: Mapping[str, Any]


def run(ready: Prepared, driving: Driving, began: Began) -> Run:
    """The whole run."""
    seed = int(began.options["seed"])
    bootstrap = Bootstrap(ready.workload.requests, seed)
    by = Simulated(ready.prices, ready.workload.recorded(), ready.gpu, ready.speeds)
    found = driven_rows(driving.rows, ready.gpu, bootstrap)
    curves = [] if ready.known is None else rows.curves(ready.known)
    aims, findings, computed = _known(ready, curves, (driving, found), bootstrap)
    broken, notes = loads.break_even(found, driving.rows, loads.REPLAYED, ready.gpu, ready.hours)
    real, checks = low_loads(driving.low, by, ready.gpu, seed)
    return Run(
        workload=ready.workload.name,
        seed=seed,
        prices=ready.prices.rows(),
        assumptions=assumptions.of(ready, notes),
        figures=[*found, *computed],
        loads=[*loads.points(driving.rows, by, seed), *real],
        break_even=broken,
        curves=[point for curve in curves for point in curve.points()],
        checks=[
            *aims,
            *ledger_checks(found),
            *service_checks(driving.rows, found),
            *checks,
        ],
        workload_facts=ready.workload.facts,
        findings=findings,
        **provenance(began),
    )


def _known(
    ready: Prepared, curves: Sequence[Curve], ran: tuple[Driving, Sequence[Figures]], bootstrap: Bootstrap
) -> tuple[list[Check], dict[str, Any], list[Figures]]:
    """Aims, findings and computed rows, of workloads whose questions can be graded."""
    if ready.known is None:
        return [], {}, []
    driving, found = ran
    findings: dict[str, Any] = {
        "part_of_all_frontier_cost_at_97_percent_quality": rows.cost_at_kept(curves, ready.known.table),
        "routers_as_chosen_in_training": rows.candidates(ready.known),
        "without_repeats": without_repeats(driving.rows, ready.gpu, 0),
    }
    bounds = rows.intervals(ready.known, 0)
    findings["bounds_of_that_part"] = {name: dataclasses.asdict(one) for name, one in bounds.items()}
    computed = rows.computed_rows(ready.known, ready.workload.requests, bootstrap)
    return aim_checks(curves, ready.known, found, bounds), findings, computed


def live(driven: Sequence[Driven], of: Live, began: Began, owned: Owned | None) -> Run:
    """A run with real backends: nothing replayed, nothing computed, and no load but its own. owned: None, no GPU is."""
    gpu = Gpu(usd_per_hour=0.0) if owned is None else owned.gpu
    bootstrap = Bootstrap(of.workload.requests, int(began.options["seed"]))
    best = {f"all-{tier.name}" for tier in of.tiers if tier.role == FRONTIER}  # none, where all is one's own
    frontier = next((row.scored for row in driven if row.name in best), None)
    found = [figures(row, gpu, frontier, bootstrap, ()) for row in driven]
    broken, notes = loads.break_even(found, driven, of.compared(found), gpu, owned.hours if owned else ())
    return Run(
        workload=of.workload.name,
        seed=int(began.options["seed"]),
        prices=[prices.row(tier.name, tier.model, tier.price, of.at) for tier in of.tiers],
        assumptions=[*assumptions.live(of.tiers, None if owned is None else gpu, of.workload.facts), *notes],
        figures=found,
        break_even=broken,
        checks=[*ledger_checks(found), *service_checks(driven, found)],
        workload_facts=of.workload.facts,
        **provenance(began),
    )


def low_loads(low: Sequence[Driven], by: Simulated, gpu: Gpu, seed: int) -> tuple[list[LoadPoint], list[Check]]:
    """The simulation against real time."""
    points: list[LoadPoint] = []
    checks: list[Check] = []
    for row in low:
        one = figures(row, gpu, None, Bootstrap([s.request for s in row.scored], seed), REPLAYED)
        point, compared = loads.checked(row, by, replace(one, name="all-small"))
        points.append(point)
        checks += compared
    return points, checks


def provenance(began: Began) -> dict[str, Any]:
    """The fields of a run that say where it comes from."""
    hardware = dict(began.machine)
    told = {k: v if isinstance(v, int | float | list) else _without_folder(str(v)) for k, v in began.options.items()}
    return {
        "versions": hardware.pop("versions"),
        "commit": hardware.pop("commit"),
        "hardware": hardware,
        "at": began.at,
        "command": f"python -m benchmarks.cost {shlex.join(map(_without_folder, sys.argv[1:]))}",
        "duration_s": round(time.monotonic() - began.monotonic_s, 1),
        "config": told,
    }


def _without_folder(argument: str) -> str:
    """A result is for others to read: where a file lay on this machine tells them nothing."""
    return Path(argument).name if argument.startswith("/") else argument

"""A run of `python -m benchmarks.cost`, from its options to its report."""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import machine
from benchmarks.child import ROOT, BenchmarkError, Nursery, say
from benchmarks.cost import (
    assembled,
    build_zeroeval,
    configured,
    filler,
    live,
    logged,
    mixing,
    owned,
    page,
    peer,
    prepared,
    results_io,
    tables,
)
from benchmarks.cost.accounting import Judge
from benchmarks.cost.architectures import CHEAP, FIXED, FRONTIER, ROUTED, SMALL, Gpu
from benchmarks.cost.assembled import Began
from benchmarks.cost.live import Journal, Live
from benchmarks.cost.mixing import Mix
from benchmarks.cost.owned import Owned
from benchmarks.cost.prepared import Known, Prepared
from benchmarks.cost.prices import Prices, rate_card
from benchmarks.cost.replayed import Deployed, Driving, Service, Stage, belongs_to, gpus_for
from benchmarks.cost.results import Run
from benchmarks.cost.workload import Workload, read_requests
from benchmarks.peers import litellm
from models.errors import FarthingError
from router.grading import grade

QUESTIONS, LIVE_QUESTIONS, TRACE_REQUESTS = 400, 40, 2000
RPS, LIVE_RPS = 16.0, 0.5
STATE: Final = ROOT / ".farthing" / "benchmarks"


def run(options: argparse.Namespace, folder: Path) -> int:
    """Returns the exit code: 1 when the books differ, a request failed or a process had to be killed."""
    if options.live is not None:
        return run_live(options, folder)
    began = Began(machine.now(), machine.describe(), time.monotonic(), vars(options))
    nursery = Nursery(folder)
    try:
        ready, plan = prepare(options, folder)
        driving = _drive(options, nursery, ready, plan)
    except FarthingError as exc:
        raise BenchmarkError(exc.message) from exc
    say("summing up")
    return report(assembled.run(ready, driving, began), options.out, nursery)


def run_live(options: argparse.Namespace, folder: Path) -> int:
    """Real backends. Exit code as `run`."""
    began = Began(machine.now(), machine.describe(), time.monotonic(), vars(options))
    nursery = Nursery(folder)
    journal = Journal(options.journal)
    try:
        config, gpu = _configured(options)
        tiers = configured.tiers_of(config)
        if gpu is not None:
            own = next(tier for tier in tiers if tier.role == SMALL)
            tiers = [replace(own, price=rate_card(gpu.gpu)) if tier is own else tier for tier in tiers]
        of = Live(_asked(options), tiers, journal, options.max_usd or 0.0, datetime.datetime.now(datetime.UTC))
        driven = of.run(nursery, config)
    except FarthingError as exc:
        raise BenchmarkError(exc.message) from exc
    finally:
        journal.close()
    if not driven:
        raise BenchmarkError("no row was finished; give --max-usd and --journal, and run it again")
    return report(assembled.live(driven, of, began, gpu), options.out, nursery)


def _configured(options: argparse.Namespace) -> tuple[Mapping[str, Any], Owned | None]:
    """What a live run serves, with the price and speeds it gives to what is owned; None: nothing is."""
    path = None if options.live is True else Path(options.live)
    config = configured.read_config(path)
    if missing := configured.absent(config):
        say(f"without its key, so left out: {', '.join(missing)}")
        config = {**config, "tiers": [tier for tier in config["tiers"] if tier["name"] not in missing]}
    if (card := configured.own_card(config)) is None:
        return config, None
    gpu = owned.of_options(options, card, "its profile's rate card" if path is None else path.name)
    return configured.priced(config, gpu.gpu), gpu


def _asked(options: argparse.Namespace) -> Workload:
    """The requests of a live run: a file of one's own, one's own log, recorded questions, or sums."""
    if options.from_ledger is not None:
        return logged.read(options.from_ledger, [], options.rps, _count(options, LIVE_QUESTIONS))
    if options.requests is not None:
        asked = read_requests(options.requests)
        facts = {"source": options.requests.name, "requests": len(asked)}
        return Workload("live", asked, (), facts)
    if options.zeroeval is None:
        return live.arithmetic(_count(options, LIVE_QUESTIONS) or LIVE_QUESTIONS, options.rps or LIVE_RPS)
    questions = prepared.read(options.zeroeval, {FRONTIER: options.frontier})
    mix = _mix(options, LIVE_RPS)
    chosen = mixing.pick(questions, _count(options, LIVE_QUESTIONS), options.seed)
    return replace(
        prepared.workload(chosen, np.zeros(len(chosen), np.int64), mix, None, chosen), name="live", answers=()
    )


def report(found: Run, out: Path | None, nursery: Nursery) -> int:
    """Print, keep, and say by the exit code whether it may be believed. What cannot be kept has been printed."""
    print(tables.render(found))
    print(results_io.one_line(found), flush=True)
    if out is not None:
        keep(found, out)
    for process in nursery.left_behind:
        say(f"had to be killed: {process}")
    broken = [c for c in found.checks if not c.met and ("ledger" in c.name or "failed" in c.name)]
    return 1 if nursery.left_behind or broken else 0


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Prepared, list[Service]]:
    """Prices, routers and the workload, and what will be driven. Raises BenchmarkError or FarthingError."""
    models = {SMALL: options.small, CHEAP: options.cheap, FRONTIER: options.frontier}
    gpu = _owned(options)
    prices = Prices.of(models, gpu.gpu)
    if (source := _filler(options, list(models.values()))) is not None:
        return _prepared(None, source, prices, gpu), [(Deployed(prepared.ALL), (*FIXED, *ROUTED))]
    questions = prepared.read(_outcomes(options), models)
    table = prepared.table_of(questions, models, prices)
    say(f"{len(questions):,} questions; learning routers on each half")
    taught = prepared.teach(questions, table, prices, folder / "artifacts", STATE / "embeddings")
    asked = prepared.short(questions, options.max_answer_tokens)
    workload = prepared.workload(questions, taught.fold, _mix(options, RPS), _count(options, QUESTIONS), asked)
    plan = taught.plan(questions, folder / "artifacts")
    return _prepared(Known(questions, table, taught), workload, prices, gpu), plan


def _mix(options: argparse.Namespace, rps: float) -> Mix:
    rates = options.repeat_rate, options.paraphrase_rate, options.deferrable
    return Mix(options.seed, options.rps or rps, *rates)


def _count(options: argparse.Namespace, usual: int) -> int | None:
    """None: all there are."""
    return usual if options.questions is None else options.questions or None


def _filler(options: argparse.Namespace, models: Sequence[str]) -> Workload | None:
    """The workloads that come without recorded answers; None: replay."""
    if options.trace is not None:
        mix, count = _mix(options, RPS), _count(options, TRACE_REQUESTS)
        return filler.traffic(options.trace, mix, count, models, options.max_input_tokens)
    if options.from_ledger is not None:
        return logged.read(options.from_ledger, models, options.rps, _count(options, TRACE_REQUESTS))
    return None


def _outcomes(options: argparse.Namespace) -> Path:
    if options.zeroeval is not None:
        return Path(options.zeroeval)
    return build_zeroeval.build(options.build_zeroeval or STATE / "zeroeval")


def _prepared(known: Known | None, workload: Workload, prices: Prices, gpu: Owned) -> Prepared:
    rps = float(workload.facts["offered_rps"])
    count = gpus_for(rps, _busy_s(workload, prices.models[SMALL], gpu.gpu))
    return Prepared(known, workload, prices, replace(gpu.gpu, count=count), gpu.speeds(), gpu.hours)


def _owned(options: argparse.Namespace) -> Owned:
    if options.config is None:
        return owned.of_options(options)
    card = configured.own_card(configured.read_config(options.config))
    if card is None:
        raise BenchmarkError(f"{options.config} has no tier of its own, only hosted ones: there is no GPU to price")
    return owned.of_options(options, card, options.config.name)


def _busy_s(workload: Workload, model: str, gpu: Gpu) -> float:
    said = workload.recorded()[model].values()
    seconds = [a.input_tokens / gpu.prefill_tokens_per_s + a.output_tokens / gpu.decode_tokens_per_s for a in said]
    return sum(seconds) / len(seconds)


def _drive(options: argparse.Namespace, nursery: Nursery, ready: Prepared, plan: Sequence[Service]) -> Driving:
    if options.peer:
        litellm.install(nursery.folder)
    judge = Judge(ready.prices.by_tier, grade, belongs_to(ready.workload), ready.prices.at)
    stage = Stage(nursery, ready.workload, ready.prices.models, ready.gpu, ready.speeds, judge)
    low = prepared.low_loads(ready.workload, options.check_rps, options.check_s)
    with stage.tiers() as setup:
        driving = stage.run(setup, plan, low)
        return replace(driving, rows=[*driving.rows, peer.run(stage, setup)]) if options.peer else driving


def keep(found: Run, folder: Path) -> None:
    path = folder / f"{found.at[:10]}-cost-{found.workload}-{found.commit}.json"
    results_io.dump(found, path)
    for written in (path, *page.write(found, folder)):
        say(f"kept in {written}")

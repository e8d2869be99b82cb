"""The command line of `python -m benchmarks.cost`, and the replay run from its options to its report."""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import machine
from benchmarks.child import ROOT, BenchmarkError, Nursery, say
from benchmarks.cost import assembled, build_zeroeval, filler, live, mixing, page, peer, prepared, results_io, tables
from benchmarks.cost.accounting import Judge
from benchmarks.cost.architectures import CHEAP, FIXED, FRONTIER, ROUTED, RTX_4090, SMALL, Gpu
from benchmarks.cost.assembled import Began
from benchmarks.cost.filler import TRACE_FORMATS
from benchmarks.cost.live import Journal, Live
from benchmarks.cost.mixing import Mix
from benchmarks.cost.prepared import Known, Prepared
from benchmarks.cost.prices import Prices
from benchmarks.cost.replayed import Deployed, Driving, Service, Speeds, Stage, belongs_to, gpus_for
from benchmarks.cost.results import Run
from benchmarks.cost.workload import Workload, read_requests
from benchmarks.peers import litellm
from models.errors import FarthingError
from router.grading import grade

QUESTIONS, LIVE_QUESTIONS, TRACE_REQUESTS = 400, 40, 2000
RPS, LIVE_RPS = 16.0, 0.5
STATE: Final = ROOT / ".farthing" / "benchmarks"
SMALL_MODEL, CHEAP_MODEL, FRONTIER_MODEL = "Llama-3.1-8B-Instruct", "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.cost", description="What do 1,000 requests cost?")
    add_replay(found)
    add_prices(found)
    found.add_argument(
        "--live", nargs="?", const=True, metavar="CONFIG", help="real backends (default: this machine's)"
    )
    found.add_argument("--requests", type=Path, metavar="FILE", help="live: requests of your own, JSONL")
    found.add_argument(
        "--max-usd", type=float, default=0.0, metavar="X", help="live: hosted calls end there (default 0)"
    )
    found.add_argument("--journal", type=Path, metavar="FILE", help="live: replies so far; a run goes on from there")
    found.add_argument("--peer", choices=["litellm"], help="one more row; installed the first time")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", type=Path, metavar="FOLDER", help="JSON, page and pictures go here")
    return found


def add_replay(found: argparse.ArgumentParser) -> None:
    found.add_argument("--zeroeval", type=Path, metavar="FILE", help="outcome rows with texts (default: made, once)")
    found.add_argument(
        "--build-zeroeval", type=Path, metavar="DIR", help="make them here from their source's own files"
    )
    found.add_argument("--trace", type=Path, metavar="FILE", help=f"arrivals and lengths instead: {TRACE_FORMATS}")
    found.add_argument("--max-input-tokens", type=int, default=6000, help="leave longer requests of a trace out")
    found.add_argument("--from-ledger", type=Path, metavar="FILE", help="your own: what `serving export` wrote")
    found.add_argument("--small", default=SMALL_MODEL, metavar="MODEL", help="on the owned GPU")
    found.add_argument("--cheap", default=CHEAP_MODEL, metavar="MODEL", help="the cheapest hosted one")
    found.add_argument("--frontier", default=FRONTIER_MODEL, metavar="MODEL")
    found.add_argument("--questions", type=int, metavar="N", help="so many, 0: all (default 400; live 40; trace 2000)")
    found.add_argument("--repeat-rate", type=float, default=0.2, help="part of requests asked before, word for word")
    found.add_argument("--paraphrase-rate", type=float, default=0.05, help="part asked before in other words")
    found.add_argument("--deferrable", type=float, default=0.0, metavar="X", help="part that may wait")
    found.add_argument("--rps", type=float, help="offered requests a second (default 16; live 0.5)")
    found.add_argument("--check-rps", type=float, nargs="*", default=[0.5, 2.0], help="check the simulation at these")
    found.add_argument("--check-s", type=float, default=25.0, help="seconds of each (default 25)")
    found.add_argument("--max-answer-tokens", type=int, default=1000, help="do not drive questions with longer answers")


def add_prices(found: argparse.ArgumentParser) -> None:
    found.add_argument("--gpu-usd-per-hour", type=float, default=RTX_4090.usd_per_hour)
    found.add_argument("--gpu-prefill-tokens-per-s", type=float, default=RTX_4090.prefill_tokens_per_s)
    found.add_argument("--gpu-decode-tokens-per-s", type=float, default=RTX_4090.decode_tokens_per_s)


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
        config = live.read_config(None if options.live is True else Path(options.live))
        of = Live(_asked(options), live.tiers_of(config), journal, options.max_usd, datetime.datetime.now(datetime.UTC))
        driven = of.run(nursery, config)
    except FarthingError as exc:
        raise BenchmarkError(exc.message) from exc
    finally:
        journal.close()
    if not driven:
        raise BenchmarkError("no row was finished; give --max-usd and --journal, and run it again")
    return report(assembled.live(driven, of, began, live.gpu_of(of.tiers)), options.out, nursery)


def _asked(options: argparse.Namespace) -> Workload:
    """The requests of a live run: a file of one's own, recorded questions, or sums."""
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
    """Print, keep, and say by the exit code whether it may be believed."""
    print(tables.render(found))
    if out is not None:
        keep(found, out)
    print(results_io.one_line(found))
    for process in nursery.left_behind:
        say(f"had to be killed: {process}")
    broken = [c for c in found.checks if not c.met and ("ledger" in c.name or "failed" in c.name)]
    return 1 if nursery.left_behind or broken else 0


def prepare(options: argparse.Namespace, folder: Path) -> tuple[Prepared, list[Service]]:
    """Prices, routers and the workload, and what will be driven. Raises BenchmarkError or FarthingError."""
    models = {SMALL: options.small, CHEAP: options.cheap, FRONTIER: options.frontier}
    gpu = _gpu(options)
    prices = Prices.of(models, gpu)
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
        return filler.from_ledger(options.from_ledger, models, options.rps, _count(options, TRACE_REQUESTS))
    return None


def _outcomes(options: argparse.Namespace) -> Path:
    if options.zeroeval is not None:
        return Path(options.zeroeval)
    return build_zeroeval.build(options.build_zeroeval or STATE / "zeroeval")


def _prepared(known: Known | None, workload: Workload, prices: Prices, gpu: Gpu) -> Prepared:
    rps = float(workload.facts["offered_rps"])
    count = gpus_for(rps, _busy_s(workload, prices.models[SMALL], gpu))
    return Prepared(known, workload, prices, replace(gpu, count=count), Speeds.usual())


def _gpu(options: argparse.Namespace) -> Gpu:
    stated = (options.gpu_usd_per_hour, options.gpu_prefill_tokens_per_s, options.gpu_decode_tokens_per_s)
    usual = (RTX_4090.usd_per_hour, RTX_4090.prefill_tokens_per_s, RTX_4090.decode_tokens_per_s)
    return RTX_4090 if stated == usual else Gpu(*stated, source="stated on the command line")


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

"""The command line of `python -m benchmarks.cost`: its options, what they may be, and which go together."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.cost.filler import TRACE_FORMATS
from benchmarks.cost.market import FORMATS
from benchmarks.load import positive

SMALL_MODEL, CHEAP_MODEL, FRONTIER_MODEL = "Llama-3.1-8B-Instruct", "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"
WORKLOADS: Final = ("zeroeval", "build_zeroeval", "trace", "from_ledger", "requests")
ONLY_LIVE: Final = ("requests", "max_usd", "journal")
ONLY_REPLAY: Final = ("build_zeroeval", "trace", "peer", "config")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Ends with the parser's own message for what cannot be meant."""
    found = parser()
    options = found.parse_args(argv)
    given = [name for name in WORKLOADS if getattr(options, name) is not None]
    if len(given) > 1:
        found.error(f"one workload at a time: {' or '.join(map(_flag, given))}")
    live = options.live is not None
    wrong = [name for name in (ONLY_REPLAY if live else ONLY_LIVE) if getattr(options, name) is not None]
    if wrong:
        found.error(f"{_flag(wrong[0])} {'does not go' if live else 'goes'} with --live")
    if options.repeat_rate + options.paraphrase_rate >= 1:
        found.error("--repeat-rate and --paraphrase-rate are parts of all requests: together they stay below 1")
    for name, folder in (("out", options.out), ("build_zeroeval", options.build_zeroeval)):
        _make(folder, _flag(name), found)
    _make(options.journal and options.journal.parent, "--journal", found)
    return options


def _make(folder: Path | None, flag: str, found: argparse.ArgumentParser) -> None:
    """Now, and not after a run of minutes."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        found.error(f"{flag}: {folder} is no folder and cannot be made one ({exc.strerror})")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m benchmarks.cost", description="What do 1,000 requests cost?")
    add_workload(found.add_argument_group("the workload", "one of the first five"))
    add_models(found.add_argument_group("the models"))
    add_gpu(found.add_argument_group("the owned GPU", "the first that says so counts: docs/cost-benchmark.md"))
    found.add_argument("--peer", choices=["litellm"], help="one more row; installed the first time")
    found.add_argument(
        "--check-rps", type=above(0), nargs="*", default=[0.5, 2.0], help="check the simulation at these"
    )
    found.add_argument("--check-s", type=above(0), default=25.0, help="seconds of each (default 25)")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", type=Path, metavar="FOLDER", help="JSON, page and pictures go here")
    return found


def add_workload(found: argparse._ArgumentGroup) -> None:
    found.add_argument("--zeroeval", type=Path, metavar="FILE", help="outcome rows with texts (default: made, once)")
    found.add_argument("--build-zeroeval", type=Path, metavar="DIR", help="make them here from their source's files")
    found.add_argument("--trace", type=Path, metavar="FILE", help=f"arrivals and lengths instead: {TRACE_FORMATS}")
    found.add_argument("--from-ledger", type=Path, metavar="FILE", help="your own: what `serving export` wrote")
    found.add_argument("--requests", type=Path, metavar="FILE", help="live: requests of your own, JSONL")
    found.add_argument(
        "--questions", type=count, metavar="N", help="so many, 0: all (default 400; live 40; trace 2000)"
    )
    found.add_argument("--rps", type=above(0), help="offered requests a second (default 16; live 0.5; a log's own)")
    found.add_argument("--repeat-rate", type=share, default=0.2, help="part of requests asked before, word for word")
    found.add_argument("--paraphrase-rate", type=share, default=0.05, help="part asked before in other words")
    found.add_argument("--deferrable", type=share, default=0.0, metavar="X", help="part that may wait")
    found.add_argument("--max-input-tokens", type=positive, default=6000, help="leave longer requests of a trace out")
    found.add_argument(
        "--max-answer-tokens", type=positive, default=1000, help="leave questions with longer answers out"
    )


def add_models(found: argparse._ArgumentGroup) -> None:
    found.add_argument("--small", default=SMALL_MODEL, metavar="MODEL", help="on the owned GPU")
    found.add_argument("--cheap", default=CHEAP_MODEL, metavar="MODEL", help="the cheapest hosted one")
    found.add_argument("--frontier", default=FRONTIER_MODEL, metavar="MODEL")
    found.add_argument(
        "--live", nargs="?", const=True, metavar="CONFIG", help="real backends instead (default: this machine's)"
    )
    found.add_argument(
        "--max-usd", type=above(0, itself=True), metavar="X", help="live: hosted calls end there (default 0)"
    )
    found.add_argument("--journal", type=Path, metavar="FILE", help="live: replies so far; a run goes on from there")


def add_gpu(found: argparse._ArgumentGroup) -> None:
    found.add_argument("--gpu-usd-per-hour", type=above(0, itself=True), metavar="X")
    found.add_argument("--gpu-prefill-tokens-per-s", type=above(0), metavar="X", help="of prompts, at full load")
    found.add_argument("--gpu-decode-tokens-per-s", type=above(0), metavar="X", help="of answers, at full load")
    found.add_argument("--gpu", metavar="NAME", help="which card it is, where nothing else says (rtx4090)")
    found.add_argument("--market", type=Path, metavar="FILE", help=f"what it costs to rent: {FORMATS}")
    found.add_argument("--engine", type=Path, metavar="FILE", help="how fast it is: a result of `benchmarks.engine`")
    found.add_argument("--config", type=Path, metavar="FILE", help="price and speeds as its own tier has them")


def above(least: float, itself: bool = False) -> Callable[[str], float]:
    """A finite number above `least`, or from it on."""

    def number(text: str) -> float:
        found = float(text)
        if not (found > least or (itself and found == least)) or math.isinf(found):
            raise argparse.ArgumentTypeError(f"{text} is not {'at least' if itself else 'above'} {least:g}")
        return found

    return number


def share(text: str) -> float:
    found = float(text)
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a part from 0 to 1")
    return found


def count(text: str) -> int:
    found = int(text)
    if found < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return found

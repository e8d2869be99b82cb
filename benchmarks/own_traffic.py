"""How many labelled rows of a user's own traffic it takes to beat a prior that has never seen its kind.

    python -m benchmarks.own_traffic --prior FILE... --workload FILE... [--pair WEAK,STRONG] [--cache DIR] [--png FILE]

A router is trained on the prior's files; the workload, of other groups, is halved by a hash of its ids. Routers trained
on N rows drawn from one half are measured on the other, beside the prior and length. The shift is simulated: public
exam items stand in for a user's traffic. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.routing import BROKEN_LABELS
from models.errors import ConfigError, FarthingError
from router import baselines, folds, plots, tables
from router.embedding.minilm import load_default
from router.estimators.base import Floats
from router.estimators.stack import Stack
from router.evaluation import Figures, compare, difference, setting
from router.outcomes import Pair, read
from router.training import ESTIMATORS, Samples, fit_stack, out_of_fold, sample

SIZES: Final = (50, 100, 200, 400, 800, 1600, 3200)
DRAWS: Final = 5  # samples of each size; the figures are of the median one


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.own_traffic", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--prior", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--workload", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--pair", type=Pair.parse, help="WEAK,STRONG of a multi-model file")
    parser.add_argument("--cache", type=Path, help="keep embeddings here between runs")
    parser.add_argument("--png", type=Path)
    try:
        return _run(parser.parse_args(argv))
    except FarthingError as exc:
        print(f"farthing: {exc.message}", file=sys.stderr)
        return 2
    except OSError as exc:  # a picture's folder that is not there, a full disk
        print(f"farthing: {exc}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    encoder = load_default()
    theirs = read(arguments.prior, arguments.pair, mixed=True).without_groups(BROKEN_LABELS)
    ours = read(arguments.workload, arguments.pair, mixed=True).without_groups(BROKEN_LABELS)
    if shared := set(theirs.texts) & set(ours.texts) - {""}:
        raise ConfigError(f"{len(shared)} prompts are in the prior's files and in the workload: that would be no shift")
    prior = train(sample(theirs, encoder, arguments.cache, _say), unseen=True)
    workload = sample(ours, encoder, arguments.cache, _say)
    learns = np.array([hashlib.sha256(row_id.encode()).digest()[0] % 2 == 0 for row_id in workload.outcomes.ids])
    pool, test = part(workload, learns), part(workload, ~learns)
    ranked: dict[str, Floats] = {"length": baselines.length(test.outcomes), "prior": prior.gain(test.inputs)}
    for size in (size for size in SIZES if size <= len(pool.inputs)):
        ranked[f"{size} rows"] = _median_draw(pool, test, size)
    figures = compare(test.outcomes, ranked | {"oracle": baselines.oracle(test.outcomes)})
    return _report(arguments, test, figures)


def train(samples: Samples, *, unseen: bool = False) -> Stack:
    """Raises ConfigError where all rows have one prompt."""
    fold = (folds.unseen if unseen else folds.seen)(samples.outcomes)
    if len(np.unique(fold)) < 2:  # one group: the weights for groups never seen hang on no fold
        fold = folds.seen(samples.outcomes)
    if len(np.unique(fold)) < 2:
        raise ConfigError("all rows have one prompt: nothing can be held out")
    return fit_stack(ESTIMATORS, samples, out_of_fold(ESTIMATORS, samples, fold, _quiet), _quiet, seen=not unseen)


def part(samples: Samples, rows: np.ndarray[Any, Any]) -> Samples:
    return Samples(samples.outcomes.take(rows), samples.inputs.take(rows), samples.labels.take(rows))


def _median_draw(pool: Samples, test: Samples, size: int) -> Floats:
    """Scores of the router whose APGR is the middle one of the draws."""
    found = []
    for seed in range(DRAWS):
        rows = np.random.default_rng(seed).choice(len(pool.inputs), size, replace=False)
        scores = train(part(pool, np.sort(rows))).gain(test.inputs)
        found.append((compare(test.outcomes, {"it": scores}, count=0)["it"].apgr, seed, scores))
    _say(f"{size} rows: APGR {', '.join(f'{apgr:.3f}' for apgr, _, _ in sorted(found))}")
    return sorted(found)[DRAWS // 2][2]


def _report(arguments: argparse.Namespace, test: Samples, figures: dict[str, Figures]) -> int:
    found = setting(test.outcomes)
    print(tables.setting_line("the workload's other half", found))
    print(tables.rankings_table(figures, of="prior"))
    sizes = [name for name in figures if name.endswith("rows")]
    beats = {name: difference(figures[name], figures["prior"]) for name in sizes}
    won = [name for name, one in beats.items() if one.verdict == "better"]
    print(f"the prior is beaten from {won[0]} on" if won else "no sample beat the prior beyond the interval")
    if arguments.png is not None:
        _draw(figures, sizes, arguments.png)
    less = {name: one.to_json() for name, one in beats.items()}
    rankings = {name: one.to_json() for name, one in figures.items()}
    print(json.dumps({"benchmark": "own_traffic", **found, "draws": DRAWS, "rankings": rankings, "less_prior": less}))
    return 0


def _draw(figures: dict[str, Figures], sizes: Sequence[str], path: Path) -> None:
    drawn, (axes,) = plots.figure(1)
    counts = [int(name.split()[0]) for name in sizes]
    ours = [figures[name] for name in sizes]
    axes.errorbar(
        counts,
        [one.apgr for one in ours],
        yerr=[[one.apgr - one.interval.low for one in ours], [one.interval.high - one.apgr for one in ours]],
        marker="o",
        capsize=3,
        label="trained on own rows",
    )
    for name, style in (("prior", "--"), ("length", ":")):
        axes.axhline(figures[name].apgr, linestyle=style, color="black", label=name)
    axes.set(xscale="log", xlabel="labelled rows", ylabel="APGR", title="own traffic against a prior")
    axes.legend()
    plots.save_png(drawn, path)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _quiet(_: str) -> None: ...


if __name__ == "__main__":
    sys.exit(main())

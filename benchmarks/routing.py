"""How much of the gap between two models each way of routing recovers, on real outcomes.

    python -m benchmarks.routing --outcomes FILE... [--pair WEAK,STRONG] [--artifact DIR] [--cache DIR] [--png FILE]

Every learned ranking is cross-validated, twice: over prompts of groups seen in training, and over groups never seen.
An artifact is measured as it is, on all rows. Figures per task and pooled, each beside the baselines on the same rows,
with paired bootstrap intervals clustered by group, or by prompt where there are fewer than ten groups. Rankings are
made within each test fold, and the folds' curves averaged. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.load import positive
from models.errors import ConfigError, FarthingError
from router import baselines, folds, plots, tables
from router.deployed import PRIOR, Deployed
from router.embedding.minilm import load_default
from router.estimators.base import Floats
from router.evaluation import RESAMPLES, Figures, compare, difference, rounded, setting
from router.folds import Folds
from router.outcomes import Outcomes, Pair, data_sha256, pairs_in, read
from router.training import ESTIMATORS, Samples, out_of_fold, sample, scores, stacked

BROKEN_LABELS: Final = ("high_school_mathematics",)
SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
RANDOM_DRAWS: Final = 200


@dataclass(frozen=True, slots=True)
class Measured:
    """One set of rows under one split."""

    name: str
    split: str
    setting: dict[str, Any]
    random: tuple[float, float]  # mean and standard deviation of APGR over random rankings
    figures: dict[str, Figures]

    def to_json(self) -> dict[str, Any]:
        ours = self.figures.get("router") or self.figures["artifact"]
        others = {n: f for n, f in self.figures.items() if f is not ours and n != "oracle"}
        curves = {n: [round(f.curve.at(s), 4) for s in SHARES] for n, f in self.figures.items()}
        return {
            "set": self.name,
            "split": self.split,
            **self.setting,
            "random_apgr": [rounded(x) for x in self.random],
            "rankings": {name: figures.to_json() for name, figures in self.figures.items()},
            "router_less": {name: difference(ours, figures).to_json() for name, figures in others.items()},
            "quality_at_share": {"shares": SHARES, **curves},
        }


def main(argv: list[str] | None = None) -> int:
    try:
        return _run(_parser().parse_args(argv))
    except FarthingError as exc:
        print(f"farthing: {exc.message}", file=sys.stderr)
        return 2
    except OSError as exc:  # a picture's folder that is not there, a full disk
        print(f"farthing: {exc}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--outcomes", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--pair", type=Pair.parse, help="WEAK,STRONG of a multi-model file")
    parser.add_argument(
        "--artifact", type=_artifact, help="a trained artifact's folder (or `prior`), measured as it is"
    )
    parser.add_argument("--only-artifact", action="store_true", help="no cross-validation")
    parser.add_argument("--cache", type=Path, help="keep embeddings here between runs")
    parser.add_argument("--png", type=Path, help="draw the curves of the pooled sets")
    parser.add_argument("--keep-broken", action="store_true", help=f"also use {', '.join(BROKEN_LABELS)}")
    parser.add_argument("--resamples", type=positive, default=RESAMPLES)
    return parser


def _artifact(text: str) -> Path:
    return PRIOR if text == "prior" else Path(text)


def _run(arguments: argparse.Namespace) -> int:
    encoder = load_default()
    found: list[Measured] = []
    for outcomes in _pools(arguments):
        samples = sample(outcomes, encoder, arguments.cache, _say)
        if arguments.artifact is not None:
            deployed = Deployed.load(arguments.artifact, encoder.identity.sha256)
            ranked = {"length": baselines.length(samples.outcomes), "artifact": deployed.stack.gain(samples.inputs)}
            ranked["oracle"] = baselines.oracle(samples.outcomes)
            found += _show(
                samples.outcomes, ranked, None, f"as trained: {deployed.manifest.version}", arguments.resamples
            )
        if not arguments.only_artifact:
            found += _cross_validated(samples, arguments.resamples)
    if not found:
        raise ConfigError("nothing could be measured: label more prompts, or measure an artifact with --artifact")
    header = {
        "benchmark": "routing",
        "encoder_sha256": encoder.identity.sha256,
        "data_sha256": data_sha256(arguments.outcomes),
    }
    print(json.dumps(header | {"resamples": arguments.resamples, "results": [m.to_json() for m in found]}), flush=True)
    if arguments.png is not None:  # last: what cannot be drawn has been measured all the same
        _draw(found, arguments.png)
    return 0


def _pools(arguments: argparse.Namespace) -> Iterator[Outcomes]:
    """Rows of the same pair together, each pair by itself; a file without `--pair` keeps the pairs of its rows."""
    by_pair: dict[Pair, list[Path]] = {}
    for path in arguments.outcomes:
        for pair in pairs_in(path, arguments.pair):
            by_pair.setdefault(pair, []).append(path)
    for pair, paths in by_pair.items():
        outcomes = read(paths, pair)
        yield outcomes if arguments.keep_broken else _without_broken(outcomes)


def _without_broken(outcomes: Outcomes) -> Outcomes:
    """Told, since nobody asked for it. Raises ConfigError where that leaves none."""
    kept = outcomes.without_groups(BROKEN_LABELS)
    told = f"{len(outcomes) - len(kept):,} rows of {', '.join(BROKEN_LABELS)} are left out: their labels are broken"
    if not len(kept):
        raise ConfigError(f"{told}; --keep-broken measures them all the same")
    if len(kept) < len(outcomes):
        _say(told)
    return kept


def _cross_validated(samples: Samples, resamples: int) -> list[Measured]:
    found = []
    for split, make in (("seen", folds.seen), ("unseen", folds.unseen)):
        fold = make(samples.outcomes)
        if len(np.unique(fold)) < 2:
            what = "prompt" if split == "seen" else "group, or of groups that share prompts"
            _say(f"{split}: all rows are of one {what}, so nothing can be held out")
            continue
        predictions = out_of_fold(ESTIMATORS, samples, fold, _say)
        stack = stacked(predictions, samples.labels, fold, seen=split == "seen")
        ranked = scores(predictions, stack, samples, fold, seen=split == "seen")
        found += _show(samples.outcomes, ranked, fold, split, resamples)
    return found


def _show(
    outcomes: Outcomes, ranked: dict[str, Floats], fold: Folds | None, split: str, resamples: int
) -> list[Measured]:
    tasks = sorted(set(outcomes.tasks.tolist()))
    sets = [(task, outcomes.tasks == task) for task in tasks]
    sets += [("pooled", np.ones(len(outcomes), bool))] if len(tasks) > 1 else []
    found = []
    for name, rows in sets:
        part, part_fold = outcomes.take(rows), None if fold is None else fold[rows]
        figures = compare(part, {n: s[rows] for n, s in ranked.items()}, part_fold, count=resamples)
        measured = Measured(name, split, setting(part), _random(part, part_fold), figures)
        print(f"\n{tables.setting_line(f'{name}, groups {split}', measured.setting)}")
        print(tables.rankings_table(figures, "router" if "router" in figures else "artifact"))
        mean, spread = measured.random
        print(f"random mix: APGR {mean:.3f} ± {spread:.3f}; best single model: {_best(measured)}")
        print(tables.curve_table({n: f.curve for n, f in figures.items()}, SHARES), flush=True)
        found.append(measured)
    return found


def _random(outcomes: Outcomes, fold: Folds | None) -> tuple[float, float]:
    drawn = [
        compare(outcomes, {"r": baselines.random(outcomes, i)}, fold, count=0)["r"].apgr for i in range(RANDOM_DRAWS)
    ]
    return float(np.mean(drawn)), float(np.std(drawn))


def _best(measured: Measured) -> str:
    weak, strong = measured.setting["always_weak"], measured.setting["always_strong"]
    share, pair = (1, measured.setting["pair"]["strong"]) if strong > weak else (0, measured.setting["pair"]["weak"])
    return f"{pair}, quality {max(weak, strong):.4f} at {share:.0%} strong calls"


def _draw(found: Sequence[Measured], path: Path) -> None:
    whole = [
        m
        for m in found
        if m.name == "pooled" or len({o.name for o in found if o.setting["pair"] == m.setting["pair"]}) == 1
    ]
    drawn, axes = plots.figure(len(whole))
    for place, measured in zip(axes, whole, strict=True):
        shown = {n: f.curve for n, f in measured.figures.items()}
        plots.draw_curves(
            place, shown, f"{measured.name}, groups {measured.split}\n{measured.setting['pair']['strong']}"
        )
    plots.save_png(drawn, path)
    _say(f"curves drawn in {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

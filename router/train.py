"""`python -m router train`: outcomes to an artifact, every estimator printed beside the baselines."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import ConfigError
from router import folds, tables
from router.artifacts import Manifest
from router.deployed import KIND, Deployed, Policy, score_edges, today, topics_of
from router.embedding.encoder import TextEncoder
from router.embedding.minilm import load_default
from router.estimators.base import Floats
from router.estimators.clusters import nearest, spherical_kmeans
from router.evaluation import RESAMPLES, Figures, compare, difference, setting
from router.outcomes import Outcomes, Pair, data_sha256, read
from router.training import ESTIMATORS, Samples, fit_stack, gain, out_of_fold, sample, scores, stacked

TOPICS: Final = 24
MIN_ROWS: Final = 50
FIRST_SHARE: Final = 0.3
"""Until it is calibrated an artifact sends this share of prompts like its training prompts to the stronger model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--outcomes", type=Path, nargs="+", required=True, metavar="FILE", help="outcome rows, JSONL or gzip"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="artifacts live here; the new one becomes current"
    )
    parser.add_argument("--pair", type=Pair.parse, help="WEAK,STRONG of a multi-model file")
    parser.add_argument(
        "--mixed", action="store_true", help="rows of several pairs, as one small and one frontier model"
    )
    parser.add_argument(
        "--leave-out", nargs="*", default=[], metavar="GROUP", help="groups not to train on (broken labels)"
    )
    parser.add_argument(
        "--without",
        nargs="*",
        default=[],
        metavar="ESTIMATOR",
        choices=[e.name for e in ESTIMATORS],
        help="e.g. knn, which keeps every vector",
    )
    parser.add_argument(
        "--split", choices=["seen", "unseen"], default="seen",
        help="seen: traffic will be of the same groups; unseen: of others (what a prior is for)",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep embeddings here between runs")
    parser.add_argument("--note", default="", help="a sentence for the card: where the data is from, its licence")
    parser.add_argument("--resamples", type=positive, default=RESAMPLES, help=f"of the bootstrap (default {RESAMPLES})")


def run(arguments: argparse.Namespace) -> int:
    began_s = time.monotonic()
    outcomes = read(arguments.outcomes, arguments.pair, mixed=arguments.mixed)
    if unknown := sorted({*arguments.leave_out} - set(outcomes.groups.tolist())):
        raise ConfigError(f"--leave-out: no row is of group {', '.join(unknown)}")
    outcomes = outcomes.without_groups(arguments.leave_out)
    encoder = load_default()
    samples = sample(outcomes, encoder, arguments.cache, say)
    check_enough(samples.outcomes)
    estimators = [e for e in ESTIMATORS if e.name not in arguments.without]
    if not estimators:
        raise ConfigError("--without leaves no estimator")
    seen = arguments.split == "seen"
    fold = (folds.seen if seen else folds.unseen)(samples.outcomes)
    if len(np.unique(fold)) < 2:
        raise ConfigError(
            "all rows have one prompt: nothing can be held out"
            if seen
            else "one group only, or groups that share prompts: nothing can be held out as unseen; use --split seen"
        )
    predictions = out_of_fold(estimators, samples, fold, say)
    stack_scores = stacked(predictions, samples.labels, fold, seen=seen)
    ranked = scores(predictions, stack_scores, samples, fold, seen=seen)
    say(f"bootstrap: {arguments.resamples} resamples")
    figures = compare(samples.outcomes, ranked, fold, count=arguments.resamples)
    found = setting(samples.outcomes)
    print(tables.setting_line(f"cross-validated over {arguments.split} groups", found))
    print(tables.rankings_table(figures))
    stack = fit_stack(estimators, samples, predictions, say, seen=seen)
    centroids = spherical_kmeans(samples.inputs.vectors, TOPICS)
    policy = first_policy(samples, gain(stack_scores), centroids)
    manifest = Manifest(
        kind=KIND, version="", created=today(), encoder_sha256=encoder.identity.sha256,
        data_sha256=data_sha256(arguments.outcomes), metrics=metrics(found, figures, arguments.split),
    )  # fmt: skip
    card = write_card(arguments, manifest, stack.weights, encoder)
    folder = Deployed(manifest, stack, policy, centroids, card).write(arguments.out)
    print(f"weights: {', '.join(f'{name} {weight:.2f}' for name, weight in stack.weights.items())}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder} is current: {size / 1e6:.2f} MB, {time.monotonic() - began_s:.0f} s")
    return 0


def check_enough(outcomes: Outcomes) -> None:
    if len(outcomes) < MIN_ROWS:
        raise ConfigError(f"{len(outcomes)} rows with a text are too few to learn from; label at least {MIN_ROWS}")
    if not outcomes.gain.any():
        raise ConfigError("both models do equally well on every row: there is no gain to learn")


def first_policy(samples: Samples, gains: Floats, centroids: np.ndarray[Any, Any]) -> Policy:
    member = nearest(samples.inputs.vectors, centroids)
    topics = topics_of(samples.outcomes.groups, member, samples.labels.correct, len(centroids))
    threshold = round(float(np.quantile(gains, 1 - FIRST_SHARE)), 6)
    chosen = {"by": "default", "frontier_share": FIRST_SHARE, "note": "not calibrated: out-of-fold scores in training"}
    return Policy(threshold, chosen, score_edges(gains), topics)


def metrics(found: dict[str, Any], figures: dict[str, Figures], split: str) -> dict[str, Any]:
    ours = figures["router"]
    return {
        "setting": found,
        "split": split,
        "rankings": {name: one.to_json() for name, one in figures.items()},
        "router_less": {
            n: difference(ours, one).to_json() for n, one in figures.items() if n not in ("router", "oracle")
        },
    }


def write_card(arguments: argparse.Namespace, manifest: Manifest, weights: Any, encoder: TextEncoder) -> str:
    found, ours = manifest.metrics["setting"], manifest.metrics["rankings"]["router"]
    left_out = f"Left out: {', '.join(arguments.leave_out)}.\n" if arguments.leave_out else ""
    return (
        f"# A router trained {manifest.created}\n\n"
        "It estimates how likely a small and a frontier model are to answer a prompt right; the difference is its "
        "score.\n\n"
        f"Data: {found['rows']} rows, {found['groups']} groups, {' against '.join(found['pair'].values())}; "
        f"files {', '.join(p.name for p in arguments.outcomes)}.\n{left_out}{arguments.note}\n\n"
        f"Estimators: {json.dumps(weights)}, embedding of at most {encoder.identity.max_tokens} tokens.\n\n"
        f"Cross-validated over {manifest.metrics['split']} groups: APGR {ours['apgr']}, 95 % {ours['ci95']}.\n"
    )


def positive(text: str) -> int:
    """For argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not at least 1")
    return number


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""`python -m router tune-cache --pairs FILE [--pairs FILE] --out DIR [--max-wrong-hit-rate 0.02]`

From labelled pairs to the threshold artifact of the semantic cache: prints the trade-off between hits and wrong hits,
draws it to curve.png in the artifact, and makes the artifact current, which a running service takes up without a
restart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from models.errors import ConfigError
from router.cache import pairs, plot, tune
from router.cache.tune import Tuning
from router.cache.verify import Rules
from router.embedding.minilm import load_default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", type=Path, action="append", required=True, help="JSON lines {a, b, same}, or .gz")
    parser.add_argument("--out", type=Path, required=True, help="the artifact folder the service watches")
    target = Rules().max_wrong_hit_rate
    parser.add_argument("--max-wrong-hit-rate", type=float, default=target, help="wrong answers per hit, e.g. 0.02")


def run(arguments: argparse.Namespace) -> int:
    try:
        return tune_cache(arguments.pairs, arguments.out, arguments.max_wrong_hit_rate)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


def tune_cache(files: list[Path], out: Path, max_wrong_hit_rate: float) -> int:
    """0 where the target is met with its bound, 3 where the artifact was written but the pairs cannot show that."""
    known = pairs.load(files)
    encoder = load_default()
    tuning = tune.tune(known, encoder, Rules(max_wrong_hit_rate=max_wrong_hit_rate))
    print("\n".join([*tune.table(tuning.cosine, "cosine"), "", *tune.table(tuning.curve, "P(right)"), ""]))
    folder = tune.write(out, tuning, encoder.identity.sha256)
    print(_conclusion(tuning))
    print(f"artifact: {folder}")
    try:
        plot.draw(tuning, folder / "curve.png")
    except ImportError:
        print("no curve.png: matplotlib is not installed (pip install matplotlib)")
    return 0 if tuning.verified else 3


def _conclusion(tuning: Tuning) -> str:
    tally, target = tuning.chosen.tally, tuning.rules.max_wrong_hit_rate
    found = (
        f"P(right) >= {tuning.chosen.threshold:.5f}: {tally.hits} hits, {tally.wrong} wrong, at most "
        f"{tally.wrong_hit_bound:.2%} wrong per hit (95 % confidence)"
    )
    if tuning.verified:
        return f"{found}; the target of {target:.2%} is met."
    return (
        f"{found}; that does not show the target of {target:.2%}: about {round(3 / target)} right hits, none wrong, "
        "would. Until explored pairs of its own have shown it, the service will answer nothing from this artifact."
    )

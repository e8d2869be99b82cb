"""`python -m router calibrate`: the threshold, from the user's own sample, the whole curve beside the baselines."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from models.errors import ConfigError
from router import baselines, calibration, plots, tables
from router.calibration import Point, by_cost, by_quality, by_share
from router.costs import read_prices, row_costs
from router.curves import Curve
from router.deployed import PRIOR, Deployed, Policy, score_edges, topics_of
from router.embedding.minilm import load_default
from router.estimators.base import Floats
from router.evaluation import clusters_of, compare, setting
from router.outcomes import Pair, data_sha256, read
from router.train import positive, say
from router.training import Samples, sample

MIN_ROWS: Final = 100
ROWS_SHOWN: Final = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--outcomes", type=Path, nargs="+", required=True, metavar="FILE", help="rows not trained on")
    parser.add_argument("--pair", type=Pair.parse, help="WEAK,STRONG of a multi-model file")
    parser.add_argument("--artifact", type=Path, default=PRIOR, metavar="DIR", help="default: the shipped prior")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the new version goes (default: --artifact)")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--frontier-share", type=float, metavar="X", help="at most this part of requests goes up")
    target.add_argument("--quality", type=float, metavar="X", help="keep this part of frontier quality, 97.5 %% sure")
    target.add_argument("--usd-per-1k", type=float, metavar="X", help="at most this many USD for 1,000 requests")
    target.add_argument("--check", action="store_true", help="write nothing: what does the present threshold do here?")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="YAML of prices by model, for those not listed")
    parser.add_argument("--answer-tokens", type=positive, help="length of an answer, for rows that do not state it")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep embeddings here between runs")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curve")


def run(arguments: argparse.Namespace) -> int:
    out = arguments.out or arguments.artifact
    if not arguments.check and out.resolve() == PRIOR.resolve():
        raise ConfigError("the prior is shipped as it is: give --out DIR for the calibrated router")
    encoder = load_default()
    deployed = Deployed.load(arguments.artifact, encoder.identity.sha256)
    samples = sample(read(arguments.outcomes, arguments.pair), encoder, arguments.cache, say)
    if len(samples.outcomes) < MIN_ROWS:
        raise ConfigError(f"{len(samples.outcomes)} rows are too few to calibrate on; label at least {MIN_ROWS}")
    if not samples.outcomes.strong.any():
        raise ConfigError(f"{samples.outcomes.pair.strong} is right on no row: there is no quality to keep a part of")
    data = data_sha256(arguments.outcomes)
    if data == deployed.manifest.data_sha256:
        say("warning: the router was trained on these very rows, so its threshold will look better than it is")
    rows = _sample(arguments, samples, deployed)
    found = calibration.points(rows)
    chosen = calibration.at(rows, deployed.policy.threshold) if arguments.check else _choose(arguments, found)
    _show(arguments, samples, deployed, found, chosen)
    if arguments.quality is not None and chosen.share == 1.0:
        say("nothing can be sent down with so much promised: keep less, or label more rows")
    if arguments.check:
        return 0
    policy = _policy(arguments, samples, deployed, chosen)
    calibrated = {"calibration": {"data_sha256": data, "rows": len(samples.outcomes), **chosen.to_json()}}
    folder = deployed.with_policy(policy, calibrated).write(out)
    print(f"{folder} is current")
    return 0


def _sample(arguments: argparse.Namespace, samples: Samples, deployed: Deployed) -> calibration.Sample:
    outcomes = samples.outcomes
    wants_costs = arguments.usd_per_1k is not None or arguments.prices is not None
    costs = row_costs(outcomes, read_prices(arguments.prices), arguments.answer_tokens) if wants_costs else None
    gains = deployed.gain(samples.inputs)
    return calibration.Sample(gains, outcomes.weak, outcomes.strong, clusters_of(outcomes), costs)


def _choose(arguments: argparse.Namespace, found: list[Point]) -> Point:
    if arguments.frontier_share is not None:
        return by_share(found, arguments.frontier_share)
    if arguments.quality is not None:
        return by_quality(found, arguments.quality)
    return by_cost(found, arguments.usd_per_1k)


def _policy(arguments: argparse.Namespace, samples: Samples, deployed: Deployed, chosen: Point) -> Policy:
    gains = deployed.gain(samples.inputs)
    asked = {name: getattr(arguments, name) for name in ("frontier_share", "quality", "usd_per_1k")}
    target = {name: value for name, value in asked.items() if value is not None}
    member = deployed.topic_of(samples.inputs.vectors)
    topics = topics_of(samples.outcomes.groups, member, samples.labels.correct, len(deployed.centroids))
    kept = tuple(new if new.label else old for new, old in zip(topics, deployed.policy.topics, strict=True))
    return replace(
        deployed.policy,
        threshold=chosen.threshold,
        chosen={"by": "calibration", "target": target, "rows": len(gains), **chosen.to_json()},
        score_edges=score_edges(gains),
        topics=kept,
    )


def _show(
    arguments: argparse.Namespace, samples: Samples, deployed: Deployed, found: list[Point], chosen: Point
) -> None:
    outcomes = samples.outcomes
    ranked: Mapping[str, Floats] = {
        "length": baselines.length(outcomes),
        "router": deployed.gain(samples.inputs),
        "oracle": baselines.oracle(outcomes),
    }
    figures = compare(outcomes, ranked)
    print(tables.setting_line("sample", setting(outcomes)))
    print(tables.rankings_table(figures))
    length = figures["length"].curve
    step = max(1, len(found) // ROWS_SHOWN)
    shown = sorted({*found[::step], found[-1], chosen}, key=lambda point: point.threshold)
    head = ["threshold", "frontier", "quality", "kept", "95 %", "length alone", "random", "$/1k"]
    rows = [head, *(_line(point, length.at(point.share), figures["router"].curve, point == chosen) for point in shown)]
    print(tables.text_table(rows))
    if arguments.png is not None:
        drawn, axes = plots.figure(1)
        plots.draw_curves(axes[0], {n: f.curve for n, f in figures.items()}, f"threshold {chosen.threshold:.4f}")
        axes[0].plot([chosen.share], [chosen.quality], "o", color="#b3261e")
        plots.save_png(drawn, arguments.png)


def _line(point: Point, by_length: float, curve: Curve, is_chosen: bool) -> list[str]:
    return [
        f"{point.threshold:+.4f}" + (" ◄" if is_chosen else ""),
        f"{point.share:.1%}",
        f"{point.quality:.4f}",
        f"{point.kept:.1%}",
        f"[{point.kept_interval.low:.1%}, {point.kept_interval.high:.1%}]",
        f"{by_length:.4f}",
        f"{curve.weak + point.share * (curve.strong - curve.weak):.4f}",
        "-" if point.usd_per_1k is None else f"{point.usd_per_1k:.4f}",
    ]

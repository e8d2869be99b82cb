"""From labelled pairs to a prior, a threshold and what they are worth; and the artifact that carries them.

The figures are out of fold: each pair is scored by a prior that saw no pair of its test type, so that a kind of
difference nobody thought of is what is measured. Knows no encoder but by its vectors and its hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ConfigError
from router import artifacts
from router.artifacts import Manifest
from router.cache import pairs as labelled
from router.cache import replay
from router.cache.learner import fresh
from router.cache.pairs import Pair
from router.cache.prior import Prior, fit, probability
from router.cache.replay import Case, Encodes, Tally
from router.cache.verify import Decider, Rules

KIND = "semantic-cache"
_SHIPPED = Path(__file__).parent / "default_prior.json"
_FOLDS = 10
_MIN_TYPES = 5
_POINTS = 24


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold of a rule and what it lets through."""

    threshold: float
    tally: Tally

    def figures(self) -> dict[str, Any]:
        pairs = self.tally.positives + self.tally.negatives
        return {
            "threshold": round(self.threshold, 5),
            "hit_rate": round(self.tally.hits / pairs, 5),
            "wrong_hit_rate": round(self.tally.wrong / self.tally.hits, 5) if self.tally.hits else None,
            "wrong_hit_rate_bound": round(self.tally.wrong_hit_bound, 5) if self.tally.hits else None,
            **self.tally.figures(),
        }


@dataclass(frozen=True, slots=True)
class Tuning:
    """`curve`: thresholds on P(right) behind the gates. `cosine`: thresholds on cosine alone, for comparison.
    `chosen`: the point the rules stand for; `verified`: whether its 95 % bound keeps to the target."""

    pooled: Prior
    rules: Rules
    curve: tuple[Point, ...]
    cosine: tuple[Point, ...]
    chosen: Point
    verified: bool
    data_sha256: str


def tune(pairs: Sequence[Pair], encoder: Encodes, rules: Rules) -> Tuning:
    """Raises ConfigError where there is not at least one pair of each label to fit on."""
    known = replay.cases(pairs, encoder)
    fitted = [case for case in known if not case.pair.heldout]
    if len({case.pair.same for case in fitted}) < 2:
        raise ConfigError(
            "tuning needs pairs that are the same and pairs that are not (rows with split: heldout are not counted)"
        )
    extra = replay.foreign_neighbours(fitted, encoder)
    pooled = _fit([*fitted, *extra])
    scored = _out_of_fold(fitted, extra) + [(case, pooled.score(case.features)) for case in known if case.pair.heldout]
    start = fresh(rules.max_wrong_hit_rate).threshold
    curve = _curve(scored, start, rules.cosine_floor)
    chosen, verified = _choose(curve, rules.max_wrong_hit_rate)
    floor = _logit(chosen.threshold)
    tuned = Rules(rules.max_wrong_hit_rate, rules.cosine_floor, max(start, floor), rules.explore_rate)
    cosine = tuple(_point(known, threshold) for threshold in (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99))
    return Tuning(pooled, tuned, curve, cosine, chosen, verified, labelled.digest(pairs))


def _fit(known: Sequence[Case]) -> Prior:
    rows = np.array([case.features for case in known], dtype=np.float64)
    return fit(rows, np.array([float(case.pair.same) for case in known]))


def _out_of_fold(fitted: Sequence[Case], extra: Sequence[Case]) -> list[tuple[Case, float]]:
    """Folds of whole test types, or of rows where there are too few types."""
    labels = ({case.pair.group for case in fitted if case.pair.same is same} for same in (True, False))
    by_type = all(len(groups) >= _MIN_TYPES for groups in labels)  # else leaving one out leaves a label out
    groups = sorted({case.pair.group for case in fitted})
    place = {group: at % _FOLDS for at, group in enumerate(groups)}
    fold_of = [place[case.pair.group] if by_type else at % _FOLDS for at, case in enumerate(fitted)]
    scored: list[tuple[Case, float]] = []
    for fold in range(_FOLDS):
        training = [case for case, its in zip(fitted, fold_of, strict=True) if its != fold]
        if len({case.pair.same for case in training}) < 2:
            continue
        model = _fit([*training, *extra])
        scored.extend(
            (case, model.score(case.features)) for case, its in zip(fitted, fold_of, strict=True) if its == fold
        )
    return scored


def _curve(scored: Sequence[tuple[Case, float]], start: float, cosine_floor: float) -> tuple[Point, ...]:
    """Thresholds from where a fresh entry serves up to where nothing is served."""
    passing = [score for case, score in scored if not case.refused and case.similarity >= cosine_floor]
    if not passing:
        raise ConfigError("no pair passes the gates: there is nothing to choose a threshold from")
    steps = sorted({start, *(float(q) for q in np.quantile(passing, np.linspace(0, 1, _POINTS)) if q > start)})
    points = []
    for step in steps:
        served = {id(case) for case, score in scored if score >= step}

        def serves(case: Case, served: set[int] = served) -> bool:
            return id(case) in served and not case.refused and case.similarity >= cosine_floor

        points.append(Point(probability(step), replay.tally((case for case, _ in scored), serves)))
    return tuple(points)


def _choose(curve: Sequence[Point], target: float) -> tuple[Point, bool]:
    """The most hits whose bound keeps to the target; failing that, the point with the lowest bound."""
    keeping = [point for point in curve if point.tally.hits and point.tally.wrong_hit_bound <= target]
    if keeping:
        return max(keeping, key=lambda point: point.tally.hits), True
    return min(curve, key=lambda point: (point.tally.wrong_hit_bound, point.threshold)), False


def _point(known: Sequence[Case], threshold: float) -> Point:
    return Point(threshold, replay.tally(known, lambda case: case.similarity >= threshold))


def _logit(chance: float) -> float:
    return math.log(chance / max(1.0 - chance, 1e-12))


def write(root: Path, tuning: Tuning, encoder_sha256: str) -> Path:
    """The artifact, made current: whoever watches `root` takes it up without a restart."""
    now = datetime.now(UTC)
    found = tuning.chosen.figures()
    manifest = Manifest(
        kind=KIND,
        version=f"{now:%Y%m%dT%H%M%S}-{tuning.data_sha256[:8]}",
        created=now.isoformat(timespec="seconds"),
        encoder_sha256=encoder_sha256,
        data_sha256=tuning.data_sha256,
        metrics=found | {"verified": tuning.verified},
    )
    curves = {"gated": [p.figures() for p in tuning.curve], "cosine": [p.figures() for p in tuning.cosine]}
    files = {
        "prior.json": tuning.pooled.to_json(),
        "rules.json": json.dumps(asdict(tuning.rules), indent=1).encode(),
        "curve.json": json.dumps(curves, indent=1).encode(),
    }
    return artifacts.write(root, manifest, files)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A decider, and the replay that speaks for it: hits and wrong hits, for the monitor to start from."""

    decider: Decider
    evidence_hits: int
    evidence_wrong: int
    version: str


def load(root: Path, encoder_sha256: str) -> Loaded:
    """The current artifact. Raises ConfigError on damage, another kind, or another encoder."""
    manifest, folder = artifacts.load(root, encoder_sha256=encoder_sha256)
    if manifest.kind != KIND:
        raise ConfigError(f"{folder}: holds {manifest.kind}, not {KIND}")
    try:
        rules = Rules(**json.loads((folder / "rules.json").read_text(encoding="utf-8")))
        hits, wrong = int(manifest.metrics["hits"]), int(manifest.metrics["wrong_hits"])
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise ConfigError(f"{folder}: not the rules of a semantic cache ({exc!r})") from exc
    pooled = Prior.from_json((folder / "prior.json").read_bytes())
    return Loaded(Decider(rules, pooled), hits, wrong, manifest.version)


def shipped(encoder_sha256: str) -> Loaded:
    """What holds without an artifact: fitted on this project's own pairs, as the card in the file says.

    Raises ConfigError for any encoder but the default one: its cosines would mean something else.
    """
    data = _SHIPPED.read_bytes()
    card = json.loads(data)["card"]
    if card["encoder_sha256"] != encoder_sha256:
        raise ConfigError("the shipped thresholds hold for the default encoder only; run tune-cache with this one")
    return Loaded(Decider(Rules(), Prior.from_json(data)), int(card["hits"]), int(card["wrong_hits"]), "shipped")


def table(points: Sequence[Point], name: str) -> list[str]:
    """The trade-off as lines of text."""
    lines = [f"{name:>10}  hit rate  wrong/hit  95% bound     hits  wrong  recall"]
    for point in points:
        tally = point.tally
        rate = f"{tally.wrong / tally.hits:9.4f}" if tally.hits else "        -"
        pairs = tally.positives + tally.negatives
        lines.append(
            f"{point.threshold:10.5f}  {tally.hits / pairs:8.4f}  {rate}  {tally.wrong_hit_bound:9.4f}"
            f"  {tally.hits:7d}  {tally.wrong:5d}  {tally.recall:6.3f}"
        )
    return lines

"""Routers for the benchmark: each learned on one half of the questions and used on the other.

Candidates differ in the tiers they choose among and in what they are made of. Which one is deployed, and at which
threshold, is decided by out-of-fold scores *inside the training half*, so that no figure of the run has had a say in
it. The rest is `python -m router train`'s own code. Knows no service; gives an artifact's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.cost.zeroeval import Question
from router import folds, train
from router.artifacts import Manifest
from router.deployed import KIND, Deployed, today
from router.embedding.encoder import Encoder
from router.estimators.clusters import spherical_kmeans
from router.estimators.linear import Logistic
from router.outcomes import Outcomes, Pair
from router.training import ESTIMATORS, Samples, fit_stack, gain, out_of_fold, sample, softened, stacked

Floats = NDArray[np.float64]
Columns = NDArray[np.int64]
Say = Callable[[str], None]
CUTS: Final = 400  # thresholds looked at
AROUND: Final = (0.95, 0.96, 0.97, 0.98, 0.99)  # parts of the frontier's quality by which candidates are compared


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to route. `tiers` weakest first; the artifact learns the gain of the last over the first.

    A tier between them is worth its strength of that gain, as in the service's `routing.learned.strengths`. softened:
    each of the two is taught by its own verdicts half and half with those of the other recorded models that are near
    it.
    """

    name: str
    tiers: tuple[str, ...]
    estimators: Literal["stack", "logistic"] = "stack"
    softened: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of each question (rows) at each tier (columns): USD per 1,000 such requests, and right or not."""

    ids: Sequence[str]
    tiers: Sequence[str]
    usd_per_1k: Floats
    correct: Floats

    def take(self, rows: NDArray[np.bool_]) -> Table:
        return self.rows(np.flatnonzero(rows))

    def rows(self, places: Columns) -> Table:
        """In that order, as often as they are named."""
        ids = [self.ids[i] for i in places]
        return Table(ids, self.tiers, self.usd_per_1k[places], self.correct[places])

    @property
    def both(self) -> tuple[Floats, Floats]:
        return self.usd_per_1k, self.correct

    def column(self, tier: str) -> int:
        return list(self.tiers).index(tier)

    def at(self, choice: Columns) -> tuple[float, float]:
        """Mean USD per 1,000 and quality when row i goes to tier `choice[i]`."""
        rows = np.arange(len(self.ids))
        return float(self.usd_per_1k[rows, choice].mean()), float(self.correct[rows, choice].mean())


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold: what it costs and keeps of the last tier's quality."""

    threshold: float
    usd_per_1k: float
    quality: float
    kept: float


@dataclass(frozen=True, slots=True)
class Learned:
    """A candidate after training on one half: scores for the other half's questions, by id, and the choice made.

    `around_usd` is the mean cost at `AROUND` in training: one target's cost hangs on a handful of questions.
    """

    candidate: Candidate
    folder: Path
    worths: Floats
    chosen: Point  # out of fold, on the half it was trained on
    around_usd: float
    scores: Mapping[str, float]


def worths_of(candidate: Candidate, table: Table, nominal_usd: Mapping[str, float]) -> Floats:
    """(tiers, 2): the part of the gap that each closes on `table`, and its part of the extra price; as
    `router.learned.wanted_tier` uses them. nominal_usd: of one request of usual size, by tier."""
    means = [float(table.correct[:, table.column(tier)].mean()) for tier in candidate.tiers]
    prices = np.maximum.accumulate([nominal_usd[tier] for tier in candidate.tiers])
    strengths = np.clip((np.array(means) - means[0]) / max(1e-9, means[-1] - means[0]), 0.0, 1.0)
    extra = (prices - prices[0]) / max(1e-12, prices[-1] - prices[0])
    return np.stack([np.maximum.accumulate(strengths), extra], axis=1)


def route(scores: Floats, threshold: float, candidate: Candidate, worths: Floats, table: Table) -> Columns:
    """Column of `table` for each row: the tier of the highest worth, of equal ones the stronger."""
    utilities = scores[:, None] * worths[None, :, 0] - threshold * worths[None, :, 1]
    last_best = len(worths) - 1 - np.argmax(utilities[:, ::-1], axis=1)
    columns = np.array([table.column(tier) for tier in candidate.tiers], np.int64)
    return np.asarray(columns[last_best], np.int64)


def curve(scores: Floats, candidate: Candidate, worths: Floats, table: Table, frontier: str) -> list[Point]:
    """From all-strong to all-weak, by rising threshold: between any two tiers the share of the stronger one falls."""
    ratios = np.unique(np.diff(worths[:, 0]) / np.maximum(np.diff(worths[:, 1]), 1e-12))
    crossings = np.unique(np.concatenate([scores * ratio for ratio in ratios]))
    middles = (crossings[1:] + crossings[:-1]) / 2
    cuts = [crossings[0] - 1e-6, *middles[:: max(1, len(middles) // CUTS)], crossings[-1] + 1e-6]
    best = float(table.correct[:, table.column(frontier)].mean())
    found = []
    for threshold in cuts:
        usd, quality = table.at(route(scores, float(threshold), candidate, worths, table))
        found.append(Point(float(threshold), usd, quality, quality / best))
    return found


def cheapest(points: Sequence[Point], kept: float) -> Point:
    """The highest threshold that keeps so much, as do all below it: further up one may pass by luck."""
    chosen = points[0]
    for point in points:
        if point.kept < kept:
            break
        chosen = point
    return chosen


def learn(
    candidate: Candidate, questions: Sequence[Question], table: Table, fold: NDArray[np.int64], to: Teaching
) -> list[Learned]:
    """For each half the router that was learned on the other one."""
    samples = sample(outcomes(candidate, questions, table), to.encoder, to.embeddings, to.say)
    estimators = ESTIMATORS if candidate.estimators == "stack" else (Logistic(),)
    found = []
    for half in np.unique(fold):
        seen, held = fold != half, fold == half
        training = Samples.of(samples.outcomes.take(seen), samples.inputs.vectors[seen])
        if candidate.softened:
            training = replace(training, labels=softened(training.labels, to.others[seen]))
        inner = folds.seen(training.outcomes)
        predictions = out_of_fold(estimators, training, inner, lambda _: None)
        scores = gain(stacked(predictions, training.labels, inner, seen=True))
        worths = worths_of(candidate, table.take(seen), to.nominal_usd)
        points = curve(scores, candidate, worths, table.take(seen), to.frontier)
        chosen = cheapest(points, to.kept)
        around_usd = sum(cheapest(points, kept).usd_per_1k for kept in AROUND) / len(AROUND)
        stack = fit_stack(estimators, training, predictions, lambda _: None, seen=True)
        centroids = spherical_kmeans(training.inputs.vectors, train.TOPICS)
        policy = replace(
            train.first_policy(training, scores, centroids),
            threshold=chosen.threshold,
            chosen={"by": "benchmarks.cost", "quality": to.kept, "note": "out-of-fold scores of the training half"},
        )
        manifest = Manifest(KIND, "", today(), encoder_sha256=to.encoder.identity.sha256)
        deployed = Deployed(manifest, stack, policy, centroids, f"# {candidate.name}: learned for a benchmark\n")
        folder = deployed.write(to.folder)
        ids = [q.id for q, kept in zip(questions, held, strict=True) if kept]
        gains = deployed.gain(samples.inputs.take(held)).tolist()
        found.append(Learned(candidate, folder, worths, chosen, around_usd, dict(zip(ids, gains, strict=True))))
        to.say(
            f"{candidate.name}: learned on {int(seen.sum()):,} questions; there, out of fold, "
            f"${chosen.usd_per_1k:.3f}/1k keeps {chosen.kept:.1%} (${around_usd:.3f} around there)"
        )
    return found


@dataclass(frozen=True, slots=True)
class Teaching:
    """What all candidates are learned with. `kept`: of the frontier tier's quality, wanted on the training half.

    `others`: (questions, models), verdicts on all recorded models but the tiers' own.
    """

    encoder: Encoder
    folder: Path
    embeddings: Path | None
    frontier: str
    kept: float
    nominal_usd: Mapping[str, float]
    others: Floats
    say: Say


def halves_of(questions: Sequence[Question]) -> NDArray[np.int64]:
    """0 or 1 for each, the same on every machine; one text is never in both."""
    return folds.seen(_blank(questions, np.zeros((len(questions), 2)), Pair("a", "b")), 2)


def outcomes(candidate: Candidate, questions: Sequence[Question], table: Table) -> Outcomes:
    columns = [table.column(candidate.tiers[0]), table.column(candidate.tiers[-1])]
    return _blank(questions, table.correct[:, columns], Pair(candidate.tiers[0], candidate.tiers[-1]))


def _blank(questions: Sequence[Question], correct: Floats, pair: Pair) -> Outcomes:
    numbers: dict[str, int] = {}
    unknown: Any = np.full(len(questions), np.nan)
    return Outcomes(
        ids=[q.id for q in questions],
        tasks=np.array([q.task for q in questions]),
        groups=np.array([q.task for q in questions]),
        texts=[q.text for q in questions],
        prompts=np.array([numbers.setdefault(q.text, len(numbers)) for q in questions], np.int64),
        chars=np.array([len(q.text) for q in questions], float),
        weak=correct[:, 0],
        strong=correct[:, 1],
        pair=pair,
        prompt_tokens=unknown,
        weak_tokens=unknown,
        strong_tokens=unknown,
    )

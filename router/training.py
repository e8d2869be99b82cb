"""From outcomes to a fitted stack: cross-validation without leaks, weights from it, then a fit on everything.

Knows no file and prints nothing: `train.py` is the command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router import features
from router.baselines import length, oracle, task_and_length, task_mean
from router.embedding.encoder import Encoder
from router.estimators.base import Estimator, Fitted, Floats, Inputs, Labels
from router.estimators.clusters import Clusters
from router.estimators.forest import Forest
from router.estimators.groups import Groups
from router.estimators.kernel import Kernel
from router.estimators.length import Line
from router.estimators.linear import Logistic, Ridge
from router.estimators.neighbours import Neighbours
from router.estimators.stack import Stack, stack_weights
from router.folds import Folds
from router.outcomes import Outcomes
from router.vectors import Say, embed

ESTIMATORS: Final[tuple[Estimator, ...]] = (
    Ridge(), Logistic(), Neighbours(), Clusters(), Groups(), Kernel(), Forest(), Line(),
)  # fmt: skip
LOOKUPS: Final = frozenset({"knn", "clusters", "groups"})
LEAST_WEIGHT: Final = 0.02  # a member that counts for less is left out of the artifact


@dataclass(frozen=True, slots=True)
class Samples:
    """Outcomes with what an estimator sees of them."""

    outcomes: Outcomes
    inputs: Inputs
    labels: Labels

    @classmethod
    def of(cls, outcomes: Outcomes, vectors: NDArray[np.float32]) -> Samples:
        groups = np.unique(outcomes.groups, return_inverse=True)[1].astype(np.int64)
        labels = Labels(np.stack([outcomes.weak, outcomes.strong], axis=1), groups)
        return cls(outcomes, Inputs(vectors, features.of_texts(outcomes.texts)), labels)

    def teaching(self, rows: NDArray[np.bool_]) -> tuple[Inputs, Labels]:
        """What an estimator learns these rows from."""
        labels, others = self.labels.take(rows), self.outcomes.others
        return self.inputs.take(rows), labels if others is None else softened(labels, others[rows])


def softened(labels: Labels, others: Floats) -> Labels:
    """One verdict of one model on one question is a coin that fell once; what its like made of the question says more.

    Half its own verdict, half the mean of the like. others: (n, models), right or not, NaN where one was not asked.
    Each goes to the one of the pair whose share of right answers on the same rows is nearer to its own.
    """
    known = ~np.isnan(others)
    near = [
        int(np.abs(labels.correct[rows].mean(axis=0) - others[rows, model].mean()).argmin()) if rows.any() else -1
        for model, rows in enumerate(known.T)
    ]
    columns = []
    for side in (0, 1):
        like = others[:, np.array(near, int) == side]
        count = (~np.isnan(like)).sum(axis=1)
        own = labels.correct[:, side]
        columns.append(np.where(count > 0, (own + np.nansum(like, axis=1) / np.maximum(count, 1)) / 2, own))
    return Labels(np.stack(columns, axis=1), labels.groups)


def sample(outcomes: Outcomes, encoder: Encoder, cache: Path | None, say: Say) -> Samples:
    """Embeds the texts; rows whose text is withheld are left out, since nothing can be read from them.

    Raises ConfigError where that leaves none.
    """
    kept = outcomes.take(outcomes.has_text)
    if left_out := len(outcomes) - len(kept):
        say(f"{left_out:,} rows without a text are left out")
    if not len(kept):
        raise ConfigError("no row has a text, so there is nothing to learn from or to rank")
    if kept.gain.mean() < 0:
        say(f"warning: {kept.pair.strong} is right less often than {kept.pair.weak}; is --pair WEAK,STRONG?")
    return Samples.of(kept, embed(kept.texts, encoder, cache, say))


def out_of_fold(estimators: Sequence[Estimator], samples: Samples, folds: Folds, say: Say) -> dict[str, Floats]:
    """For each estimator (n, 2): every row predicted by a fit that has seen neither it nor its fold."""
    found = {estimator.name: np.empty((len(folds), 2)) for estimator in estimators}
    numbers = np.unique(folds)
    for done, fold in enumerate(numbers, 1):
        test = folds == fold
        for estimator in estimators:
            fitted = estimator.fit(*samples.teaching(~test))
            found[estimator.name][test] = fitted.predict(samples.inputs.take(test))
        say(f"cross-validation: fold {done} of {len(numbers)}")
    return found


def stacked(predictions: Mapping[str, Floats], labels: Labels, folds: Folds, *, seen: bool) -> Floats:
    """(n, 2) of the stack, the weights for each fold coming from the other folds' rows alone."""
    members = members_of(predictions, seen=seen)
    found = np.zeros_like(labels.correct)
    for fold in np.unique(folds):
        test = folds == fold
        weights = weights_of({name: predictions[name][~test] for name in members}, labels.correct[~test], seen=seen)
        for name in members:
            found[test] += weights[name] * predictions[name][test]
    return found


def members_of(names: Iterable[str], *, seen: bool) -> list[str]:
    """For groups never seen, without those that look prompts up among the training prompts; they know no others."""
    kept = [name for name in names if seen or name not in LOOKUPS]
    if not kept:
        raise ConfigError(f"for groups never seen, {', '.join(sorted(LOOKUPS))} alone are of no use")
    return kept


def weights_of(predictions: Mapping[str, Floats], correct: Floats, *, seen: bool) -> dict[str, float]:
    """Fitted where groups are seen; a handful of held-out groups is too few to fit weights to, so: the plain mean."""
    if not seen:
        return dict.fromkeys(predictions, 1.0 / len(predictions))
    fitted = stack_weights(list(predictions.values()), correct)
    return dict(zip(predictions, fitted.tolist(), strict=True))


def fit_stack(
    estimators: Sequence[Estimator], samples: Samples, predictions: Mapping[str, Floats], say: Say, *, seen: bool
) -> Stack:
    """Weights from the out-of-fold predictions, members fitted on all rows."""
    names = members_of(predictions, seen=seen)
    weights = weights_of({name: predictions[name] for name in names}, samples.labels.correct, seen=seen)
    kept = {name: weight for name, weight in weights.items() if weight >= LEAST_WEIGHT}
    members: dict[str, tuple[Estimator, Fitted]] = {}
    inputs, labels = samples.teaching(np.ones(len(samples.inputs), bool))
    for estimator in estimators:
        if estimator.name in kept:
            say(f"fitting {estimator.name} on {len(samples.inputs):,} rows")
            members[estimator.name] = (estimator, estimator.fit(inputs, labels))
    total = sum(kept.values())
    return Stack(members, {name: kept[name] / total for name in members}, samples.inputs.vectors.shape[1])


def gain(correct: Floats) -> Floats:
    return correct[:, 1] - correct[:, 0]


def scores(
    predictions: Mapping[str, Floats], stack: Floats, samples: Samples, folds: Folds, *, seen: bool
) -> dict[str, Floats]:
    """All rankings to print side by side: baselines, every estimator alone, and the stack, as `router`.

    Task means exist only where the groups were seen in training.
    """
    outcomes = samples.outcomes
    found = {"length": length(outcomes)}
    if seen and len(np.unique(outcomes.groups)) > 1:
        found["task mean (weak wrong)"] = task_mean(outcomes, folds, 1.0 - outcomes.weak)
        found["task mean (gain)"] = task_mean(outcomes, folds, outcomes.gain)
        found["task + length"] = task_and_length(outcomes, folds)
    found |= {name: gain(predicted) for name, predicted in predictions.items()}
    return found | {"router": gain(stack), "oracle": oracle(outcomes)}

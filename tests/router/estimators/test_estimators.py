"""One contract for every estimator, and what the stack makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.errors import ConfigError
from router import features, folds
from router.curves import curve
from router.estimators.base import Arrays, Estimator, Floats, Inputs, Labels
from router.estimators.stack import ARRAYS, KINDS, SPEC, Stack, stack_weights
from router.training import ESTIMATORS, Samples, fit_stack, gain, members_of, out_of_fold, softened, stacked

by_name = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.name)


def quiet(_: str) -> None: ...


@by_name
def test_it_finds_the_gain_in_prompts_it_has_not_seen(estimator: Estimator, samples: Samples, fresh: Samples) -> None:
    predicted = estimator.fit(samples.inputs, samples.labels).predict(fresh.inputs)
    assert predicted.shape == (len(fresh.inputs), 2)
    found = curve(gain(predicted), fresh.outcomes.weak, fresh.outcomes.strong)
    # knowing the group gives about 0.67 here; the forest and the line see the length alone
    assert found.apgr() > (0.53 if estimator.name in ("forest", "line") else 0.6)


@by_name
def test_what_was_stored_predicts_the_same(estimator: Estimator, samples: Samples, fresh: Samples) -> None:
    fitted = estimator.fit(samples.inputs, samples.labels)
    restored = estimator.restore(fitted.arrays())
    assert np.allclose(restored.predict(fresh.inputs), fitted.predict(fresh.inputs), atol=1e-6)
    assert type(estimator) is KINDS[estimator.name]


@by_name
def test_rows_are_predicted_alone(estimator: Estimator, samples: Samples) -> None:
    fitted = estimator.fit(samples.inputs, samples.labels)
    together = fitted.predict(samples.inputs.take(np.arange(5)))
    alone = [fitted.predict(samples.inputs.take(np.array([i])))[0] for i in range(5)]
    assert np.allclose(together, alone, atol=1e-5)
    assert fitted.predict(samples.inputs.take(np.array([], int))).shape == (0, 2)


def test_ridge_heads_differ_by_the_ridge_regression_of_the_gain(samples: Samples) -> None:
    estimator = KINDS["ridge"]()
    labels = samples.labels
    of_gain = type(labels)(np.stack([np.zeros(len(labels.correct)), gain(labels.correct)], axis=1), labels.groups)
    both = estimator.fit(samples.inputs, labels).predict(samples.inputs)
    direct = estimator.fit(samples.inputs, of_gain).predict(samples.inputs)
    assert np.allclose(gain(both), gain(direct), atol=1e-5)


def test_weights_are_convex_and_find_the_member_that_knows() -> None:
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 2, (500, 2)).astype(float)
    knows, guesses = 0.8 * correct, rng.random((500, 2))
    weights = stack_weights([guesses, knows, guesses], correct)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all() and weights[1] > 0.7


class Memory:
    """Estimator and fit in one: knows the rows it was fitted on by heart, and nothing else (-1)."""

    name = "memory"

    def __init__(self) -> None:
        self.groups: list[set[int]] = []
        self._known: dict[bytes, list[float]] = {}

    def fit(self, inputs: Inputs, labels: Labels) -> Memory:
        self.groups.append(set(labels.groups.tolist()))
        self._known = {row.tobytes(): value.tolist() for row, value in zip(inputs.vectors, labels.correct, strict=True)}
        return self

    def predict(self, inputs: Inputs) -> Floats:
        return np.array([self._known.get(row.tobytes(), [-1.0, -1.0]) for row in inputs.vectors])

    def arrays(self) -> Arrays:
        return {}

    def restore(self, arrays: Arrays) -> Memory:
        return self


def test_no_row_is_predicted_by_a_fit_that_saw_it(samples: Samples) -> None:
    predicted = out_of_fold([Memory()], samples, folds.seen(samples.outcomes), quiet)["memory"]
    assert (predicted == -1.0).all()


def test_held_out_groups_are_not_in_training(samples: Samples) -> None:
    memory, fold = Memory(), folds.unseen(samples.outcomes)
    out_of_fold([memory], samples, fold, quiet)
    for number, trained in zip(np.unique(fold), memory.groups, strict=True):
        assert trained and not trained & set(samples.labels.groups[fold == number].tolist())


def test_a_stack_is_stored_and_restored(samples: Samples, fresh: Samples) -> None:
    predictions = out_of_fold(ESTIMATORS, samples, folds.seen(samples.outcomes), quiet)
    stack = fit_stack(ESTIMATORS, samples, predictions, quiet, seen=True)
    assert sum(stack.weights.values()) == pytest.approx(1.0)
    files = stack.files()
    restored = Stack.restore(files[SPEC], files[ARRAYS])
    assert np.allclose(restored.gain(fresh.inputs), stack.gain(fresh.inputs), atol=2e-3)  # float16
    chances = restored.predict(fresh.inputs)
    assert ((chances >= 0) & (chances <= 1)).all()
    parts = restored.parts(fresh.inputs)
    assert np.allclose(sum(parts.values()), restored.gain(fresh.inputs))


def test_for_groups_never_seen_nothing_is_looked_up_and_nothing_weighed(samples: Samples) -> None:
    predictions = out_of_fold(ESTIMATORS, samples, folds.unseen(samples.outcomes), quiet)
    stack = fit_stack(ESTIMATORS, samples, predictions, quiet, seen=False)
    assert stack.weights == dict.fromkeys(("ridge", "logistic", "kernel", "forest", "line"), 0.2)
    with pytest.raises(ConfigError, match="of no use"):
        members_of(["knn"], seen=False)


def test_the_stack_beats_length_where_groups_matter(samples: Samples) -> None:
    fold = folds.seen(samples.outcomes)
    predictions = out_of_fold(ESTIMATORS, samples, fold, quiet)
    outcomes = samples.outcomes
    ours = curve(gain(stacked(predictions, samples.labels, fold, seen=True)), outcomes.weak, outcomes.strong).apgr()
    assert ours > curve(outcomes.chars, outcomes.weak, outcomes.strong).apgr() + 0.03


def test_an_artifact_goes_on_with_the_features_it_was_fitted_on(samples: Samples, fresh: Samples) -> None:
    names = features.NAMES[:10]
    old = [Inputs(one.inputs.vectors, one.inputs.features[:, :10]) for one in (samples, fresh)]
    estimator = KINDS["ridge"]()
    fitted = estimator.fit(old[0], samples.labels)
    files = Stack({"ridge": (estimator, fitted)}, {"ridge": 1.0}, 12, names).files()
    restored = Stack.restore(files[SPEC], files[ARRAYS])
    assert np.allclose(restored.gain(fresh.inputs), gain(fitted.predict(old[1])), atol=1e-6)
    assert np.allclose(gain(restored.predict(fresh.inputs)), np.diff(np.clip(fitted.predict(old[1]), 0, 1))[:, 0])
    found = restored.feature_effects(fresh.inputs)
    assert found is not None and len(found[0]) == len(restored.names) == 10


def test_length_is_the_first_feature() -> None:
    assert features.NAMES[0] == "log_chars"  # the line reads it by its place


def test_labels_are_softened_by_the_models_nearest_to_each_side() -> None:
    labels = Labels(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]]), np.zeros(4, np.int64))
    weak_like, strong_like = [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0]
    found = softened(labels, np.array([weak_like, strong_like]).T)
    assert found.correct[:, 0].tolist() == [0.5, 0.0, 0.5, 0.0]
    assert found.correct[:, 1].tolist() == [1.0, 1.0, 0.5, 1.0]
    assert (softened(labels, np.zeros((4, 0))).correct == labels.correct).all()


def test_a_row_that_no_other_model_was_asked_keeps_its_verdict() -> None:
    labels = Labels(np.array([[0.0, 1.0], [0.0, 1.0]]), np.zeros(2, np.int64))
    found = softened(labels, np.array([[0.25], [np.nan]]))
    assert found.correct.tolist() == [[0.125, 1.0], [0.0, 1.0]]


def test_other_models_teach_and_never_judge(samples: Samples, fresh: Samples) -> None:
    """The softened labels reach the fit alone: what is measured, and the weights of the stack, are the pair's own."""
    like = samples.outcomes.weak[:, None] * 0.0
    taught = replace(samples, outcomes=replace(samples.outcomes, others=like))
    inputs, labels = taught.teaching(np.ones(len(samples.inputs), bool))
    assert len(inputs) == len(samples.inputs)
    assert np.allclose(labels.correct[:, 0], samples.outcomes.weak / 2)
    assert (taught.labels.correct == samples.labels.correct).all()
    rows = np.arange(len(samples.inputs)) < 100
    assert (taught.outcomes.take(rows).others == like[:100]).all()


def test_other_features_and_damage_are_refused(samples: Samples) -> None:
    estimator = KINDS["ridge"]()
    fitted = estimator.fit(samples.inputs, samples.labels)
    files = Stack({"ridge": (estimator, fitted)}, {"ridge": 1.0}, 12).files()
    with pytest.raises(ConfigError, match="features that this version lacks"):
        Stack.restore(files[SPEC].replace(b"log_chars", b"log_char"), files[ARRAYS])
    with pytest.raises(ConfigError, match="cannot be read"):
        Stack.restore(files[SPEC], files[ARRAYS][:100])
    with pytest.raises(ConfigError, match="cannot be read"):
        Stack.restore(files[SPEC].replace(b'"ridge": {', b'"newer": {'), files[ARRAYS])


def test_a_linear_probe_names_the_features_that_move_it(samples: Samples) -> None:
    estimator = KINDS["ridge"]()
    stack = Stack({"ridge": (estimator, estimator.fit(samples.inputs, samples.labels))}, {"ridge": 1.0}, 12)
    longest = samples.inputs.take(np.array([int(samples.outcomes.chars.argmax())]))
    found = stack.feature_effects(longest)
    assert found is not None
    deviations, adds = (dict(zip(features.NAMES, column, strict=True)) for column in found)
    assert deviations["log_chars"] > 1.0
    assert adds["tools"] == 0.0  # never varied in training
    assert adds["log_chars"] + adds["log_words"] > 0.0  # longer prompts gain more here

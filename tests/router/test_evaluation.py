"""Figures of scores between 0 and 1, which judges and partial credit give, beside those of verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router.baselines import oracle
from router.evaluation import compare, setting
from router.training import Samples


def test_an_oracle_of_graded_scores_asks_the_strong_model_wherever_it_does_better(samples: Samples) -> None:
    """Half the credit is the same ranking of the same rows: all but the size of the gap is as it was."""
    verdicts = samples.outcomes
    graded = replace(verdicts, weak=verdicts.weak / 2, strong=verdicts.strong / 2)
    scores = {"oracle": oracle(verdicts), "length": verdicts.chars}
    for name, whole in compare(verdicts, scores, count=10).items():
        half = compare(graded, scores, count=10)[name]
        assert (half.apgr, half.auroc, half.aiq * 2) == pytest.approx((whole.apgr, whole.auroc, whole.aiq))
    same = ("only_weak_right", "only_strong_right", "oracle_share")
    assert [setting(graded)[name] for name in same] == [setting(verdicts)[name] for name in same]
    at_oracle = np.where(graded.gain > 0, graded.strong, graded.weak).mean()
    assert setting(graded)["oracle_quality"] == pytest.approx(at_oracle, abs=1e-4)

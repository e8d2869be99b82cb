"""No prompt and, where groups are held out, no group is ever on both sides of a split."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router import folds
from router.outcomes import Outcomes, Pair

cells = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 15)), min_size=1, max_size=40)


def outcomes(groups: list[int], prompts: list[int]) -> Outcomes:
    n = len(groups)
    numbers = np.unique(prompts, return_inverse=True)[1].astype(np.int64)
    nothing = np.zeros(n)
    return Outcomes(
        ids=[f"row/{i}" for i in range(n)],
        tasks=np.array(["t"] * n),
        groups=np.array([f"g{g}" for g in groups]),
        texts=[f"prompt {p}" for p in prompts],
        prompts=numbers,
        chars=nothing,
        weak=nothing,
        strong=nothing,
        prompt_tokens=nothing,
        weak_tokens=nothing,
        strong_tokens=nothing,
        pair=Pair("w", "s"),
    )


@given(cells)
def test_a_prompt_is_in_one_fold(rows: list[tuple[int, int]]) -> None:
    made = outcomes([g for g, _ in rows], [p for _, p in rows])
    for split in (folds.seen, folds.unseen):
        fold = split(made)
        for prompt in np.unique(made.prompts):
            assert len(set(fold[made.prompts == prompt].tolist())) == 1


@given(cells)
def test_a_group_is_in_one_fold(rows: list[tuple[int, int]]) -> None:
    made = outcomes([g for g, _ in rows], [p for _, p in rows])
    fold = folds.unseen(made)
    for group in np.unique(made.groups):
        assert len(set(fold[made.groups == group].tolist())) == 1


def test_held_out_groups_make_even_folds() -> None:
    made = outcomes([i % 10 for i in range(200)], list(range(200)))
    assert np.bincount(folds.unseen(made, 5)).tolist() == [40] * 5


def test_a_shared_prompt_joins_its_groups_and_theirs() -> None:
    made = outcomes([0, 1, 1, 2, 3], [7, 7, 8, 8, 9])
    fold = folds.unseen(made, 2)
    assert len(set(fold[:4].tolist())) == 1 and fold[4] != fold[0]

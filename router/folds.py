"""Splits for cross-validation, the same on every machine. Knows no estimator.

Two questions, two splits: *seen* groups (a user's own traffic: every fold has rows of every group) and *unseen* ones
(whole groups are held out). Neither ever puts one prompt on both sides.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from router.outcomes import Outcomes

Folds = NDArray[np.int64]


def seen(outcomes: Outcomes, count: int = 5) -> Folds:
    """Fold number of each row: by hash of the id under which its prompt first appears."""
    first: dict[int, str] = {}
    for prompt, row_id in zip(outcomes.prompts.tolist(), outcomes.ids, strict=True):
        first.setdefault(prompt, row_id)
    return np.array([_hash(first[prompt]) % count for prompt in outcomes.prompts.tolist()], np.int64)


def unseen(outcomes: Outcomes, count: int = 5) -> Folds:
    """Fold number of each row: whole groups, the largest first, each into the fold with fewest rows so far.

    Groups that share a prompt go together. With fewer groups than folds some folds stay empty.
    """
    component = _components(outcomes)
    names, sizes = np.unique(component, return_counts=True)
    rows = np.zeros(count, np.int64)
    fold_of: dict[int, int] = {}
    for i in sorted(range(len(names)), key=lambda i: (-sizes[i], names[i])):
        fold = int(rows.argmin())
        fold_of[int(names[i])] = fold
        rows[fold] += sizes[i]
    return np.array([fold_of[c] for c in component.tolist()], np.int64)


def _components(outcomes: Outcomes) -> NDArray[np.int64]:
    """Groups joined by shared prompts, each named by its least member."""
    groups: NDArray[np.int64] = np.unique(outcomes.groups, return_inverse=True)[1].astype(np.int64)
    while True:
        least_of_prompt = np.full(int(outcomes.prompts.max()) + 1, len(groups), np.int64)
        np.minimum.at(least_of_prompt, outcomes.prompts, groups)
        least_of_group = np.arange(int(groups.max()) + 1)
        np.minimum.at(least_of_group, groups, least_of_prompt[outcomes.prompts])
        joined = least_of_group[groups]
        if np.array_equal(joined, groups):
            return groups
        groups = joined


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)

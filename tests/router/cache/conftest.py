"""Entries and vectors to put into a cache, and a clock to be set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.types import Usage
from router.cache.entries import Entry, Scope, new_id

DIM = 16
NOW_S = 1_800_000_000.0
SCOPE = Scope("acme", b"partition")


def vector(seed: int) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return made / np.linalg.norm(made)


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "semantic.sqlite"


MakeEntry = Callable[..., Entry]


@pytest.fixture
def entry(clock: Clock) -> MakeEntry:
    def make(
        text: str = "what is a farthing?",
        scope: Scope = SCOPE,
        tier: str = "small",
        body: bytes = b'{"answer": 1}',
        cost_nusd: int = 1000,
        ttl_s: float = 3600.0,
    ) -> Entry:
        usage = Usage(input_tokens=7, output_tokens=5)
        return Entry(new_id(), scope, "auto", tier, "some-model", text, body, usage, cost_nusd, clock(), ttl_s)

    return make

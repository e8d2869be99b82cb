"""What the cascade's tests share: a small model that is sure or unsure of its words, and what was decided of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from models.fake import FakeBackend, Step
from router.cascade import NAMES, Cascade, Head
from serving.cascade import Cascading
from tests.serving.conftest import Running, Setup

SURE, UNSURE = -0.05, -3.0
SECRET = "mumble jumble bungle dangle fumble garble haggle juggle rumble tumble wobble"
GOOD = "a farthing is a quarter of a penny and no more than that"
EASY, HARD = (0.0, 0.4), (0.5, 1.0)  # bands: of the rules' score, below and above their threshold
HARD_TEXT = "Prove step by step that sqrt(2) is irrational. You must give at least two proofs."


def head() -> Head:
    """Certain above a mean log-probability of -1, and against below."""
    weights = np.zeros(len(NAMES))
    weights[NAMES.index("mean")] = 10.0
    return Head(np.zeros(len(NAMES)), np.ones(len(NAMES)), weights, 10.0)


class Seen(list[tuple[str, float | None]]):
    """What was counted."""

    @property
    def outcomes(self) -> list[str]:
        return [outcome for outcome, _ in self]


def arrange(setup: Setup, counted: Seen, mode: Any = "act", full: bool = False, tokens: int = 4) -> None:
    cascade = Cascade(tokens, 0.5, head(), head(), "rules", "v1")
    setup.cascade = Cascading(mode, full, lambda: cascade, lambda *what: counted.append(what))
    setup.band = EASY


def small(setup: Setup, *steps: Step) -> FakeBackend:
    setup.small = FakeBackend("small/0", "tiny", script=steps)
    return setup.small


def text(stream: bytes) -> str:
    events = [json.loads(e[6:]) for e in stream.decode().split("\n\n") if e.startswith("data: {")]
    return "".join(c["delta"].get("content") or "" for e in events for c in e.get("choices", []))


async def one_row(service: Running) -> dict[str, Any]:
    return (await service.rows(1))[0]

"""A provider with four good machines, boxes that answer, and cluster files that point at them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.__main__ import main
from tests.cluster.fake_boxes import FakeBoxes
from tests.cluster.fake_vast import KEY, FakeVast, offer
from tests.conftest import FAULT

ROOT = Path(__file__).parents[2]
Book = Callable[[str, int], None]
QUICK = {
    "poll_s": 0.05,
    "boot_s": 20,
    "model_s": 20,
    "settle_s": 0.3,
    "missing_s": 0.2,
    "unhealthy_s": 0.2,
    "drain_s": 0,
}


@pytest.fixture
def boxes() -> Iterator[FakeBoxes]:
    running = FakeBoxes()
    yield running
    running.close()


@pytest.fixture
def fake(boxes: FakeBoxes) -> Iterator[FakeVast]:
    with FakeVast(boxes=boxes) as server:
        server.add(*[offer(n, usd=0.30 + n / 100) for n in range(1, 9)])
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAST_API_KEY", KEY)


@pytest.fixture
def document(fake: FakeVast, tmp_path: Path) -> dict[str, Any]:
    """A cluster file's content; change it, then `written`."""
    return {
        "name": "test",
        "boxes": 1,
        "profile": "qwen3-8b-awq",
        "max_usd_per_hour": 0.60,
        "budget_usd_per_day": 40,
        "image": {"source": {"url": "http://127.0.0.1:9/farthing.tar.gz", "sha256": "0" * 64}},
        "speed": {"requests": 4, "output_tokens": 64, "min_share": 0.01},
        "timing": dict(QUICK),
        "provider": {"url": fake.url, "spacing": 0},
        "state_dir": str(tmp_path / "state"),
    }


def written(document: dict[str, Any], folder: Path) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "cluster", *args]


def recover(fake: FakeVast, file: Path, boxes: int = 1) -> int:
    """`up` until it is up, then `down`. Returns what is left over beyond the wish, at both ends."""
    fake.on_call = lambda *_: None
    assert main(["up", str(file)]) == 0
    too_many = len(fake.standing()) - boxes
    assert main(["down", str(file)]) == 0
    return too_many + len(fake.standing())


@pytest.fixture
def book(record_property: Callable[[str, object], None]) -> Book:
    """`book(fault, leaked)` adds a run to the table."""
    return lambda fault, leaked: record_property(FAULT, (fault, leaked))

"""What the label tests share: a file of prompts with references, and the command run against a gateway."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.errors import ConfigError
from models.fake import FakeBackend, Step
from models.types import Call, Completion
from serving.label import cli
from tests.serving.conftest import Setup

TOPICS = ["rivers", "metals", "verbs", "stars"]


class Pupil(FakeBackend):
    """Answers sums: always right, or only where the numbers are small."""

    def __init__(self, name: str, model: str, right_below: int) -> None:
        super().__init__(name, model)
        self._right_below = right_below

    async def complete(self, call: Call) -> Completion:
        left, _, right = call.body["messages"][-1]["content"].split("What is ")[-1].rstrip("?").partition(" + ")
        total = int(left) + int(right)
        self.script = [Step(text=f"The answer is {total if total < self._right_below else total + 1}.")]
        return await super().complete(call)


def sums(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"sum/{i}",
            "prompt": f"About {TOPICS[i % 4]}: What is {i} + {i + 1}?",
            "reference": str(2 * i + 1),
            "checker": "number",
            "group": TOPICS[i % 4],
            "task": "sums",
        }
        for i in range(count)
    ]


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def classroom(setup: Setup) -> Setup:
    """A small tier that gets large sums wrong and a frontier that gets all right."""
    setup.small = Pupil("small/0", "tiny", right_below=41)
    setup.frontier = Pupil("frontier/0", "huge", right_below=10_000)
    return setup


@pytest.fixture
def label(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command, in a thread: (exit code, what it said)."""

    async def run(*words: str) -> tuple[int, str]:
        told: list[str] = []
        monkeypatch.setattr(cli, "say", told.append)
        parser = argparse.ArgumentParser()
        cli.add_arguments(parser)
        try:
            code = await asyncio.to_thread(cli.run, parser.parse_args(words))
        except ConfigError as exc:
            return 2, exc.message
        return code, "\n".join(told)

    return run

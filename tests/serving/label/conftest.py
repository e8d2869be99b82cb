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
from serving.label.arguments import add_arguments
from tests.serving.conftest import Setup

TOPICS = ["rivers", "metals", "verbs", "stars"]


class Pupil(FakeBackend):
    """Answers sums: always right, or only where the numbers are small."""

    def __init__(self, name: str, model: str, right_below: int) -> None:
        super().__init__(name, model)
        self._right_below = right_below

    async def complete(self, call: Call) -> Completion:
        text = call.body["messages"][-1]["content"]
        self.script = [Step(text=self._verdict(text) if "<answer_1>" in text else self._sum(text))]
        return await super().complete(call)

    def _sum(self, text: str) -> str:
        total = _total(text)
        return f"The answer is {total if total < self._right_below else total + 1}."

    def _verdict(self, text: str) -> str:
        """As a judge: for the answer that is right."""
        right = f"The answer is {_total(text.split('</request>')[0])}."
        first = right in text.split("</answer_1>")[0]
        return f"Verdict: {'tie' if first == (right in text.split('<answer_2>')[1]) else 1 if first else 2}"


def _total(text: str) -> int:
    left, _, right = text.split("What is ")[-1].partition("?")[0].partition(" + ")
    return int(left) + int(right)


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
        add_arguments(parser)
        try:
            code = await asyncio.to_thread(cli.run, parser.parse_args(words))
        except ConfigError as exc:
            return 2, exc.message
        return code, "\n".join(told)

    return run

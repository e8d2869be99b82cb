"""A gateway before rented boxes that come, are lost and go: real service, commands, doors; scripted engines behind.

`python -m tests.cluster.transcript` plays the same with vLLM.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.cluster.fake_boxes import FakeBoxes
from tests.cluster.fake_vast import KEY, FakeVast, offer
from tests.cluster.load import Load, outcomes
from tests.stack.conftest import ROOT, Service, free_port, serving, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]
CALLERS = 6


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVast]:
    monkeypatch.setenv("VAST_API_KEY", KEY)
    boxes = FakeBoxes([{"seconds_per_answer": 0.3}] * 9)
    with FakeVast(boxes=boxes) as server:
        server.add(*[offer(n, usd=0.30 + n / 100) for n in range(1, 9)])
        yield server
    boxes.close()


@pytest.fixture
def cluster(fake: FakeVast, tmp_path: Path) -> Path:
    document = {
        "name": "test",
        "boxes": 2,
        "profile": "embedded",
        "max_usd_per_hour": 0.60,
        "budget_usd_per_day": 40,
        "image": {"source": {"url": "http://127.0.0.1:9/farthing.tar.gz", "sha256": "0" * 64}},
        "speed": {"requests": 4, "output_tokens": 8, "min_share": 0.01},
        "timing": {"poll_s": 0.3, "boot_s": 30, "model_s": 30, "missing_s": 1, "unhealthy_s": 1, "drain_s": 1},
        "provider": {"url": fake.url, "spacing": 0},
        "state_dir": str(tmp_path),
    }
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def config(cluster: Path) -> Path:
    """configs/boxes.yaml, with the members of the test's cluster."""
    folder = cluster.parent
    shipped = yaml.safe_load((ROOT / "configs" / "boxes.yaml").read_text())
    shipped["listen"]["port"] = free_port()
    shipped["state_dir"] = str(folder / "service")
    shipped["tiers"][0]["backends"][0] |= {"file": str(folder / "test" / "members.json"), "profile": "embedded"}
    shipped["cache"] = {"exact": {"enabled": False}}
    path = folder / "boxes.yaml"
    path.write_text(yaml.safe_dump(shipped))
    return path


def command(*args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "cluster", *args], cwd=ROOT, env=dict(os.environ))


def members(cluster: Path) -> list[dict[str, Any]]:
    return list(json.loads((cluster.parent / "test" / "members.json").read_text())["members"])


def ask(service: Service, question: str) -> httpx2.Response:
    return service.chat(question, max_tokens=4)


@contextlib.contextmanager
def watching(cluster: Path) -> Iterator[None]:
    watch = command("watch", str(cluster))
    try:
        yield
    finally:
        watch.terminate()
        assert watch.wait(60) == 0


def test_boxes_come_are_lost_under_load_and_go_before_one_gateway_and_the_next(
    fake: FakeVast, cluster: Path, config: Path
) -> None:
    with serving(config) as service:
        assert "waits for its boxes" in service.log.read_text()
        alone = ask(service, "Is anybody there?")
        assert alone.status_code == 503 and "small" in alone.text  # no file of members yet: no tier can answer
        assert command("up", str(cluster)).wait(100) == 0
        until(lambda: ask(service, "And now?").status_code == 200, 10, "the boxes taken up")
        with watching(cluster):
            asked = lose_one_under_load(service, fake, cluster)
        counted = outcomes(asked)
        failed = counted.total() - counted["answered"] - counted["cut"]
        assert failed == 0 and counted["cut"] <= CALLERS // 2, counted
        until(lambda: answered(service) > counted["answered"], 20, "a row for each answer, and for the first one")
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(10)
    with serving(config) as service, watching(cluster):  # another one, before the same boxes
        until(lambda: ask(service, "Still there?").status_code == 200, 10, "the boxes taken up again")
        assert len(fake.standing()) == 2
        assert command("down", str(cluster)).wait(100) == 0
        assert fake.standing() == []
        until(lambda: ask(service, "Nobody left?").status_code == 503, 10, "the boxes gone")


def answered(service: Service) -> int:
    return sum(row["status"] == "answered" for row in service.rows())


def lose_one_under_load(service: Service, fake: FakeVast, cluster: Path) -> list[Any]:
    load = Load(service.url, CALLERS, 20, "boxes")
    until(lambda: len(load.asked) > 3 * CALLERS, 60, "some answers")
    fake.lose(fake.standing()[0].id)
    until(lambda: len(members(cluster)) == 1, 30, "the loss noticed")
    until(lambda: len(members(cluster)) == 2, 60, "the replacement")
    seen = len(load.asked)
    until(lambda: len(load.asked) > seen + 3 * CALLERS, 60, "answers of both")
    load.stop()
    return load.asked

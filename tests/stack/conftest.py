"""One real service for all stack tests: Ray Serve, HAProxy, two gateways, vLLM on the CPU, and a scripted frontier."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psutil
import pytest
import yaml

from serving.config import load
from serving.ledger.export import lines
from serving.ledger.store import Store

ROOT = Path(__file__).parents[2]
SECRET = "sk-a-key-that-must-stay-where-it-is"
START_LIMIT_S = 720.0  # no promise: two services that start at once on two cores take more than 240 s


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The one service has the machine to itself until the tests that kill it; then what starts services of its own."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    ordered = iter(sorted(here, key=_turn))
    items[:] = [next(ordered) if Path(__file__).parent in item.path.parents else item for item in items]


def _turn(item: pytest.Item) -> int:
    if "service" not in getattr(item, "fixturenames", ()):
        return 2
    return 1 if item.path.name == "test_survival.py" else 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], limit_s: float, what: str) -> Any:
    """Wait for something that is true within `limit_s`; returns it."""
    end_s = time.monotonic() + limit_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end_s, f"{what}: not within {limit_s} s"
        time.sleep(0.1)


def exported(config: Path) -> list[dict[str, Any]]:
    """What `python -m serving export` gives, parsed; without the start of a process, for it is asked over and over."""
    store = Store.open(load(config).ledger_url)
    try:
        return [orjson.loads(line) for line in lines(store)]
    finally:
        store.close()


def still(rows: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows once none has come for a second, in which the ledger looks five times: of all that was answered."""
    found = rows()
    while True:
        time.sleep(1)
        before, found = len(found), rows()
        if len(found) == before:
            return found


@dataclass
class Service:
    """A running `python -m serving run` and what a test wants to know of it."""

    url: str
    process: subprocess.Popen[str]
    config: Path
    state: Path
    log: Path

    def chat(self, content: str, **fields: Any) -> httpx2.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": content}], "max_tokens": 8, **fields}
        return httpx2.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)

    def engine_load(self) -> dict[str, Any]:
        token = (self.state / "run" / "engine.token").read_text()
        headers = {"authorization": f"Bearer {token}"}
        answer: dict[str, Any] = httpx2.get(f"{self.url}/engine/small/load", headers=headers, timeout=10).json()
        return answer

    def tier_ready(self, tier: str) -> bool:
        try:
            return bool(httpx2.get(f"{self.url}/ready", timeout=5).json()["tiers"][tier]["ready"])
        except (httpx2.HTTPError, ValueError, KeyError):
            return False

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes of this instance whose title holds `name`."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in " ".join(child.cmdline()) or name in child.name():
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def rows(self) -> list[dict[str, Any]]:
        return exported(self.config)

    def settled(self, count: int) -> list[dict[str, Any]]:
        """The rows once there are at least so many."""
        return list(until(lambda: (lambda r: r if len(r) >= count else None)(self.rows()), 20, f"{count} rows"))


@pytest.fixture(scope="session")
def frontier() -> Iterator[int]:
    """A scripted frontier on a port of its own, in a process of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("scripted_frontier.py")), str(port)])
    until(lambda: _listens(port), 15, "the scripted frontier")
    yield port
    process.terminate()
    process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, frontier: int) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    prepared = ROOT / ".farthing" / "models" / "embedded"
    engine: dict[str, Any] = {"kind": "engine", "profile": "embedded"}
    if prepared.is_dir():
        engine["weights"] = str(prepared)
    hosted = {
        "kind": "http",
        "url": f"http://127.0.0.1:{frontier}/v1",
        "model": "gpt-6.1-sol",
        "key_env": "TEST_API_KEY",
    }
    config = {
        "listen": {"port": free_port()},
        "state_dir": str(folder / "state"),
        "tiers": [{"name": "small", "backends": [engine]}, {"name": "frontier", "backends": [hosted]}],
        "gateway": {"replicas": 2},
        "breaker": {"open_s": 1},
        "cache": {"semantic": {"mode": "serve", "explore_rate": 0}},
        "routing": {"deadline_ms": 2000},  # the embedder shares two cores with vLLM, which takes both
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with serving(path, TEST_API_KEY=SECRET) as running:
        yield running


@contextlib.contextmanager
def serving(path: Path, **environ: str) -> Iterator[Service]:
    """The service of a configuration with port and state folder of its own, ready; ended as an operator ends it."""
    config = yaml.safe_load(path.read_text())
    log = path.with_suffix(".log")
    with log.open("w") as out:
        command = [sys.executable, "-m", "serving", "run", "--config", str(path)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environ}
        )
    url = f"http://127.0.0.1:{config['listen']['port']}"
    running = Service(url, process, path, Path(config["state_dir"]), log)
    try:
        until(lambda: "ready http" in log.read_text() or process.poll() is not None, START_LIMIT_S, "ready")
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(90)

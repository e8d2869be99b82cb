"""Every panel and alert of the monitoring boards, asked of a real Prometheus that scrapes the running service."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from cluster.exposition import Exposition, render, samples
from tests.cluster.test_monitoring import a_state, queries, values_of
from tests.stack.conftest import Service, free_port, until
from tests.stack.scripted_frontier import BREAK

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]
NOT_HERE = (
    "farthing_gpu_",
    'part="wasted"',
    "farthing_cascade_",
    "farthing_texts_",
    "farthing_feedback_",
    "farthing_streams_resumed_",
    "farthing_router_drift_",
    "farthing_router_acting_",
    "farthing_router_escalation_",
    "farthing_router_unscored",
)
"""An NVIDIA GPU is not here; the cascade, whose dropped answers are the wasted ones, the learned router and kept texts
are off; nobody complains, and no stream breaks off."""
PROOF = "Prove step by step that sqrt(3) is irrational. You must give at least two proofs."


@pytest.fixture
def prometheus(service: Service, tmp_path: Path) -> Iterator[int]:
    """The port of one that scrapes the service, and the cluster's metrics as `watch` shows them, each second."""
    boxes, port = Exposition(0), free_port()
    boxes.text = render(samples(*a_state(), now_s=time.time()))
    targets = {"farthing": service.url.removeprefix("http://"), "farthing-cluster": f"127.0.0.1:{boxes.port}"}
    jobs = [{"job_name": name, "static_configs": [{"targets": [at]}]} for name, at in targets.items()]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"])
    try:
        until(lambda: _scraped(port) == len(targets), 30, "both targets scraped")
        yield port
    finally:
        process.terminate()
        process.wait(30)
        boxes.close()


def _scraped(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5) as answer:
            active = json.load(answer)["data"]["activeTargets"]
    except OSError:
        return 0
    return sum(target["health"] == "up" for target in active)


def test_every_panel_shows_data_of_the_running_service(service: Service, prometheus: int) -> None:
    use(service)
    use(service)  # a rate needs a counter to be seen twice
    asked = [(where, expr) for where, expr, _ in queries() if ": " in where]
    here = [(where, expr) for where, expr in asked if not any(part in expr for part in NOT_HERE)]
    empty = [where for where, expr in here if not values_of(prometheus, expr)]
    print(*empty, sep="\n")
    print(f"{len(here) - len(empty)} of {len(here)} panel queries have data; {len(asked) - len(here)} cannot here")
    assert empty == []


def use(service: Service) -> None:
    """Everything that a board shows happens. No question is another test's: that would find its answer cached."""
    word = str(time.time_ns())
    for question in (
        "Name a fruit.",
        f"Name {word} things.",
        f"{PROOF} Number {word}.",
        "How do I change my email address?",
    ):
        service.chat(question)
    service.chat("How can I change my email address?", model="frontier")
    service.chat("How do I change my email address?", model="frontier")
    service.chat("Hello?", model="no-such-model")
    asked = {"model": "auto", "messages": [{"role": "user", "content": word}]}
    stranger = {"authorization": "Bearer fk-nobodys"}
    assert httpx2.post(f"{service.url}/v1/chat/completions", json=asked, headers=stranger).status_code == 401
    for number in range(6):  # until its breaker opens
        service.chat(f"{BREAK} {word} {number}", model="frontier")
    assert service.chat(f"{PROOF} {BREAK} {word}").headers["x-farthing-route"] == "small"
    (router,) = service.processes("ray::ServeReplica:gateway:Router")
    router.kill()
    service.chat(f"Who decides this? {word}")
    until(lambda: decided(service), 60, "a router again")


def decided(service: Service) -> bool:
    return not service.chat(f"Again? {time.time_ns()}").headers["x-farthing-reason"].startswith("router_")

"""Metrics: every one is documented, and processes add up."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from router.watch import Report
from serving.telemetry import RouterMetrics, exposition, forget_dead, in_flight

ROOT = Path(__file__).parents[2]
WRITER = """
from models.errors import Unavailable
from serving.ledger.row import Row
from serving.telemetry import GatewayMetrics
metrics = GatewayMetrics()
metrics.started()
metrics.settled(Row(request_id="r", at_ms=0, status="answered", route="small", reason="easy", model="tiny",
    input_tokens=10, cached_input_tokens=4, output_tokens=5, cost_input_nusd=7, cost_output_nusd=3, cost_nusd=10,
    all_frontier_nusd=1010, all_cheapest_nusd=5, latency_ms=20.0, ttft_ms=10.0))
metrics.upstream_error("small/0", Unavailable("x"))
metrics.breaker_changed("small/0", "open")
import os; os._exit(0)  # killed, as it were
"""


def names_in_code() -> set[str]:
    """Every metric's name as the classes make them, from the source: no process has to be started."""
    source = (ROOT / "serving" / "telemetry.py").read_text()
    made = re.findall(r'_(?:counter|gauge|histogram)\(\s*"([a-z_]+)"', source)
    engine = source[source.index("class EngineMetrics") :]
    inner = re.findall(r'\b(?:counter|gauge)\(\s*"([a-z_]+)"', engine)
    node = source[source.index("class NodeMetrics") : source.index("class EngineMetrics")]
    router = source[source.index("class RouterMetrics") : source.index("class GpuReading")]
    whole = re.findall(r'"farthing_([a-z_]+)"', node + router) + re.findall(r'\bgauge\(\s*"([a-z_]+)"', node)
    semantic = re.findall(r'\bgauge\("([a-z_]+)"', router)
    watch = re.findall(r'\bwatch\("([a-z_]+)"', router)
    found = {f"farthing_{n}" for n in made + whole} | {f"farthing_engine_{n}" for n in inner}
    return found | {f"farthing_semantic_{n}" for n in semantic} | {f"farthing_router_{n}" for n in watch}


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    documented = set(re.findall(r"`(farthing_[a-z_]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    assert names_in_code() == documented
    assert len(documented) > 25


def test_unscored_requests_are_a_counter_from_nothing_on() -> None:
    made, report = RouterMetrics(), Report(0, math.nan, math.nan, 0.0, {})
    for counted in (0, 3, 3, 5):
        made.router(report, 1.0, {"no_vector": counted})
        shown = {s.name: s.value for s in made._unscored.collect()[0].samples}
        assert shown["farthing_router_unscored_total"] == counted


def test_processes_add_up_and_the_dead_ones_counts_stay(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WRITER], env=environment, check=True)
    text = exposition(tmp_path).decode()
    found = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    route = ("route", "small")
    assert found["farthing_requests_total", (("reason", "easy"), route, ("status", "answered"))] == 2
    assert found["farthing_tokens_total", (("kind", "input"), ("model", "tiny"), route)] == 12
    assert found["farthing_tokens_total", (("kind", "cached_input"), ("model", "tiny"), route)] == 8
    assert found["farthing_saved_usd_total", (("baseline", "all_frontier"),)] == 2e-6
    assert ("farthing_saved_usd_total", (("baseline", "all_cheapest"),)) not in found
    assert found["farthing_breaker_state", (("backend", "small/0"),)] == 2
    assert in_flight(tmp_path) == 2
    alive = next(tmp_path.glob("gauge_livesum_*.db"))
    alive.rename(alive.with_name(f"gauge_livesum_{os.getpid()}.db"))
    forget_dead(tmp_path)
    assert in_flight(tmp_path) == 1
    assert b'farthing_requests_total{reason="easy",route="small",status="answered"} 2.0' in exposition(tmp_path)


def test_two_processes_may_forget_a_dead_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("gauge_livesum", "gauge_livemax"):
        (tmp_path / f"{kind}_{2**22 + 1}.db").touch()  # no process has so high a number
    remove = os.remove

    def remove_twice(path: str) -> None:
        remove(path)
        remove(path)

    monkeypatch.setattr("prometheus_client.multiprocess.os.remove", remove_twice)
    for _ in range(2):
        forget_dead(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_registered_globally() -> None:
    assert isinstance(REGISTRY, CollectorRegistry)
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("farthing")]

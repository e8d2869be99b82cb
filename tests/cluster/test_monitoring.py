"""Boards and alerts ask only for metrics and labels that exist; promtool, where it is installed, reads their syntax."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from cluster.box.engine import free_port
from cluster.config import ClusterConfig
from cluster.exposition import HELP, Exposition, render, samples
from cluster.state import Rental, State
from serving.telemetry import EngineMetrics, GatewayMetrics, NodeMetrics, RouterMetrics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "monitoring"
BOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
Labels = dict[str, set[str]]


def wrappers(holder: Any) -> Iterator[MetricWrapperBase]:
    for value in vars(holder).values():
        for each in value.values() if isinstance(value, dict) else [value]:
            if isinstance(each, MetricWrapperBase):
                yield each


def of_the_service() -> Labels:
    found: Labels = {}
    for metric in [
        m for holder in (GatewayMetrics(), NodeMetrics(), EngineMetrics(), RouterMetrics()) for m in wrappers(holder)
    ]:
        labels, name = set(metric._labelnames), metric._name
        if metric._type == "counter":
            found[f"{name}_total"] = labels
        elif metric._type == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name] = labels
    return found


def a_state() -> tuple[ClusterConfig, State, list[Any]]:
    config = ClusterConfig(profile="embedded", max_usd_per_hour=1, budget_usd_per_day=2)
    times = {"since_s": 0.0, "created_s": 0.0, "accrued_until_s": 0.0}
    rental = Rental(
        label="farthing:default:0:a",
        slot=0,
        phase="ready",
        offer_id=1,
        machine_id=1,
        gpu='A "quoted" card',
        expected_usd_per_hour=0.4,
        contract_id=5,
        tokens_per_s=99.0,
        **times,
    )
    instance = type("Listed", (), {"contract_id": 5, "gpu_util": 50.0})()
    return config, State(rentals=[rental]), [instance]


def of_the_cluster() -> Labels:
    return {name: set(labels) for name, labels, _ in samples(*a_state(), now_s=1.0)}


KNOWN = of_the_service() | of_the_cluster() | {"up": {"job", "instance"}}


def queries() -> list[tuple[str, str, str]]:
    """Where, the expression, its legend."""
    found = []
    for board in BOARDS:
        for panel in json.loads(board.read_text())["panels"]:
            found += [(f"{board.stem}: {panel['title']}", t["expr"], t["legendFormat"]) for t in panel["targets"]]
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        found += [(rule["alert"], rule["expr"], rule["annotations"]["summary"]) for rule in group["rules"]]
    return found


def test_all_four_boards_and_the_alerts_are_read() -> None:
    assert len(BOARDS) == 4 and len(queries()) > 60


@pytest.mark.parametrize(("where", "expr", "legend"), queries(), ids=lambda v: v[:40])
def test_a_query_names_only_what_exists(where: str, expr: str, legend: str) -> None:
    used = re.findall(r"\b(farthing_\w+|up)\b(?:\{([^}]*)\})?", expr)
    assert used, where
    allowed: set[str] = set()
    for name, matchers in used:
        assert name in KNOWN, f"{where}: {name}"
        allowed |= KNOWN[name]
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= KNOWN[name], f"{where}: {matchers}"
    for clause in re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", expr):
        assert {label.strip() for label in clause.split(",")} <= allowed, f"{where}: {clause}"
    assert set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", legend)) <= allowed, where


def test_every_metric_of_the_service_is_on_a_board() -> None:
    """Histograms by their buckets; what nobody looks at need not be counted."""
    shown = " ".join(expr for _, expr, _ in queries())
    histograms = {name.removesuffix("_bucket") for name in KNOWN if name.endswith("_bucket")}
    wanted = {name for name in KNOWN if name != "up" and re.sub(r"_(sum|count)$", "", name) not in histograms}
    assert {name for name in wanted if name not in shown} == set()


def test_the_clusters_metrics_are_documented() -> None:
    documented = set(re.findall(r"`(farthing_(?:box|cluster)_\w+)`", (ROOT / "docs" / "cluster.md").read_text()))
    assert documented == set(HELP) == set(of_the_cluster())


def test_the_text_is_what_prometheus_reads() -> None:
    text = render(samples(*a_state(), now_s=1.0))
    found = {s.name: s for family in text_string_to_metric_families(text) for s in family.samples}
    assert found["farthing_box_serving"].labels["gpu"] == 'A "quoted" card'
    assert found["farthing_box_gpu_utilisation_ratio"].value == 0.5


def test_metrics_are_served_on_loopback() -> None:
    shown = Exposition(0)
    try:
        shown.text = "farthing_x 1\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{shown.port}/metrics", timeout=5) as answer:
            assert answer.read() == b"farthing_x 1\n"
    finally:
        shown.close()


def test_nothing_of_the_monitoring_listens_beyond_this_machine() -> None:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert "--web.listen-address=127.0.0.1:9090" in compose["prometheus"]["command"]
    assert compose["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert all(":" in service["image"].rsplit("/", 1)[1] for service in compose.values())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_rules_and_queries(tmp_path: Path) -> None:
    records = [{"record": f"panel:{n}", "expr": expr} for n, (_, expr, _) in enumerate(queries())]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    for args in (["check", "config", "prometheus.yml"], ["check", "rules", str(tmp_path / "panels.yml")]):
        done = subprocess.run(["promtool", *args], cwd=FOLDER, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    ("ratio", "highest", "minutes", "alarmed"),
    [
        ("0.3+0x4320", "0.95+0x4320", 4310, True),  # one among many
        ("0.3+0x4200 0.93+0x120", "0.4+0x4200 0.95+0x120", 4310, True),  # one who is most of the traffic
        ("0.8+0x4320", "0.85+0x4320", 4310, False),  # calibrated so that much goes up
        ("0.8+0x300", "0.85+0x300", 290, False),  # the same on the first day
        ("0+0x4320", "0+0x4320", 4310, False),
        ("_x4320", "_x4320", 4310, False),  # no learned router
    ],
)
def test_who_forces_the_dear_tier_is_alarmed(
    tmp_path: Path, ratio: str, highest: str, minutes: int, alarmed: bool
) -> None:
    group = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    rule = next(rule for one in group for rule in one["rules"] if rule["alert"] == "SomebodyForcesTheDearTier")
    fired = [{"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}] if alarmed else []
    name = "farthing_router_escalation_ratio"
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": ratio}, {"series": f"{name}_max", "values": highest}],
        "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": rule["alert"], "exp_alerts": fired}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": [case]}))
    command = ["promtool", "test", "rules", "test.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SAMPLE = {
    "route": ["small", "frontier"],
    "status": ["answered", "failed"],
    "reason": ["easy", "fallback_overloaded"],
    "part": ["input", "wasted"],
    "baseline": ["all_frontier", "all_cheapest"],
    "event": ["exact", "miss"],
}


def drive(metrics: list[MetricWrapperBase]) -> None:
    """Something happens everywhere: every label combination of the sample moves by one."""
    for metric in metrics:
        for values in itertools.product(*(SAMPLE.get(label, ["x"]) for label in metric._labelnames)):
            child: Any = metric.labels(*values) if values else metric
            move = {"histogram": "observe", "gauge": "set", "counter": "inc"}[metric._type]
            getattr(child, move)(1.0)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_every_panel_shows_data_from_a_real_prometheus(tmp_path: Path) -> None:
    metrics = [
        m for holder in (GatewayMetrics(), NodeMetrics(), EngineMetrics(), RouterMetrics()) for m in wrappers(holder)
    ]
    registry = CollectorRegistry()
    for metric in metrics:
        registry.register(metric)
    shown, port = Exposition(0), free_port()
    scrape = {"job_name": "farthing", "static_configs": [{"targets": [f"127.0.0.1:{shown.port}"]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    arguments = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    listen = [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(["prometheus", *arguments, *listen])
    try:
        for _ in range(12):
            drive(metrics)
            shown.text = generate_latest(registry).decode() + render(samples(*a_state(), now_s=time.time()))
            time.sleep(1.0)
        panels = [(where, expr) for where, expr, _ in queries() if ": " in where]
        empty = [where for where, expr in panels if not values_of(port, expr)]
        assert empty == [] and len(panels) > 50
    finally:
        process.terminate()
        process.wait(30)
        shown.close()


def values_of(port: int, expr: str) -> list[Any]:
    query = urllib.parse.urlencode({"query": expr})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=20) as answer:
        found: list[Any] = json.load(answer)["data"]["result"]
    return [row for row in found if row["value"][1] != "NaN"]

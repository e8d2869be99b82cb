"""What a thousand requests cost on the boxes: money of this side, requests of the service's ledger."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.__main__ import main
from cluster.cost import _per_1k
from cluster.errors import ClusterError
from cluster.served import tiers_of
from cluster.state import Store as State
from cluster.state import day_of
from serving.ledger.row import Row
from serving.ledger.store import Store
from tests.cluster.conftest import written
from tests.cluster.fake_vast import FakeVast


def a_service(folder: Path, members: Path) -> Path:
    path = folder / "service.yaml"
    boxes = {"kind": "members", "file": str(members), "profile": "qwen3-8b-awq"}
    hosted = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "gpt-6.1-sol"}
    tiers = [{"name": "small", "backends": [boxes]}, {"name": "frontier", "backends": [hosted]}]
    path.write_text(yaml.safe_dump({"state_dir": str(folder / "service"), "tiers": tiers}))
    return path


def answer(folder: Path, counts: dict[str, int]) -> None:
    """Rows as the service's writer makes them, of now."""
    (folder / "service").mkdir()
    store = Store.open(f"sqlite:///{folder / 'service' / 'ledger.db'}")
    now_ms = int(time.time() * 1000)
    rows = [
        Row(request_id=f"{route}{n}", at_ms=now_ms, status="failed" if route == "none" else "answered", route=route)
        for route, count in counts.items()
        for n in range(count)
    ]
    with store.write() as connection:
        store.put(connection, rows)
    store.close()


def test_cost_for_a_thousand_requests_counts_those_the_boxes_answered(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(document, tmp_path)
    service = a_service(tmp_path, tmp_path / "state" / "test" / "members.json")
    answer(tmp_path, {"small": 250, "frontier": 40, "cache": 30, "none": 5})
    assert main(["up", str(file)]) == 0
    time.sleep(1.0)
    assert main(["down", str(file)]) == 0  # books what ran
    capsys.readouterr()
    assert main(["cost", "--json", "--service", str(service), str(file)]) == 0
    report = json.loads(capsys.readouterr().out)
    (day,) = report["by_day"].values()
    assert report["requests"] == day["requests"] == 250
    assert day["usd"] == pytest.approx(sum(report["spent_usd_by_day"].values()))
    assert report["usd_per_1k_requests"] == pytest.approx(day["usd"] * 1000 / 250, abs=1e-3)
    assert main(["cost", "--service", str(service), str(file)]) == 0
    assert "250 requests" in capsys.readouterr().out


def test_without_a_service_nothing_is_said_of_requests(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cost", "--json", str(written(document, tmp_path))]) == 0
    assert "requests" not in json.loads(capsys.readouterr().out)


def test_an_idle_day_is_paid_for_and_has_no_rate_of_its_own() -> None:
    spent = {"2026-11-01": 9.0, "2026-11-02": 4.0, "2026-11-03": 2.0}
    found = _per_1k(spent, {"2026-11-03": 3000, "2026-11-04": 1000}, "2026-11-02", charged_usd=8.0)
    assert list(found["by_day"]) == ["2026-11-02", "2026-11-03", "2026-11-04"]
    assert found["by_day"]["2026-11-02"] == {"usd": 4.0, "requests": 0, "usd_per_1k_requests": None}
    assert (found["requests"], found["usd_per_1k_requests"], found["charged_usd_per_1k_requests"]) == (4000, 1.5, 2.0)


def test_a_service_without_these_boxes_is_said_to_be_one(tmp_path: Path) -> None:
    service = a_service(tmp_path, tmp_path / "others.json")
    assert tiers_of(service, tmp_path / "others.json") == ["small"]
    with pytest.raises(ClusterError, match="none names"):
        tiers_of(service, tmp_path / "members.json")
    service.write_text("not: [a, service]")
    with pytest.raises(ClusterError, match="no file of the service"):
        tiers_of(service, tmp_path / "members.json")


def test_a_ledger_that_cannot_be_read_stops_the_report_with_its_words(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = a_service(tmp_path, tmp_path / "state" / "test" / "members.json")
    service.write_text(service.read_text() + "colour: red\n")
    assert main(["cost", "--service", str(service), str(written(document, tmp_path))]) == 2
    assert "colour: unknown key" in capsys.readouterr().err


def test_a_box_older_than_the_days_asked_for_is_in_the_report(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the oldest boxes that have cost most. The sum is of the days; what the box cost in all is beside it."""
    file = written({**document, "boxes": 1}, tmp_path)
    assert main(["up", str(file)]) == 0
    store = State(tmp_path / "state" / "test")
    (rental,) = store.state.rentals
    now_s = time.time()
    rental.since_s, rental.accrued_usd = now_s - 40 * 86_400, 300.0
    store.state.spent_usd_by_day = {day_of(now_s - days * 86_400): 7.5 for days in range(1, 41)}
    store.save()
    capsys.readouterr()
    assert main(["cost", "--json", "--days", "3", str(file)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["contract_id"] for row in report["boxes"]] == [rental.contract_id]
    assert report["boxes"][0]["accrued_usd"] >= 300 and report["charged_but_unknown_here"] == []
    assert report["accrued_usd"] == pytest.approx(15.0, abs=0.1) and len(report["spent_usd_by_day"]) == 3

"""Boxes that are lost, outbid, unhealthy, too dear: replaced; the budget: held; and one file that tells the gateway."""

from __future__ import annotations

import datetime
import getpass
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cost.market import Market
from cluster import operate
from cluster.__main__ import main
from cluster.config import load
from cluster.deck import Deck
from cluster.errors import BudgetReached, ClusterError, NothingWithin
from cluster.fleet import Fleet
from cluster.state import day_of
from cluster.vastai import VastClient
from tests.cluster.conftest import written
from tests.cluster.fake_boxes import FakeBoxes
from tests.cluster.fake_vast import KEY, FakeVast, offer

ROOT = Path(__file__).parents[2]
Start = Callable[..., Deck]


@pytest.fixture
def start(document: dict[str, Any], tmp_path: Path) -> Iterator[Start]:
    """`up`, and the deck it was done with."""
    said: list[str] = []

    def make(**changes: Any) -> Deck:
        timing = {**document["timing"], **changes.pop("timing", {})}
        file = written({**document, **changes, "timing": timing}, tmp_path)
        deck = operate.open_deck(load(file), said.append)
        operate.up(deck)
        return deck

    yield make
    print("\n".join(said))


def tick_until(deck: Deck, done: Callable[[], bool], limit_s: float = 40.0) -> None:
    fleet, until_s = Fleet(deck), time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < until_s
        fleet.tick()
        time.sleep(0.03)


def contracts(deck: Deck) -> list[int | None]:
    return [r.contract_id for r in deck.store.state.live if r.serves]


def members(deck: Deck) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((deck.config.folder / "members.json").read_text())["members"]
    return found


@pytest.mark.parametrize("trouble", ["outbid", "offline", "destroyed", "engine broken", "scheduling"])
def test_a_box_in_trouble_is_replaced(start: Start, fake: FakeVast, boxes: FakeBoxes, trouble: str) -> None:
    deck = start(boxes=2, interruptible=trouble == "outbid")
    first, second = contracts(deck)
    assert first is not None
    if trouble == "outbid":
        fake.outbid(first)
    elif trouble == "offline":
        fake.lose(first)
    elif trouble == "destroyed":
        fake.contracts[first].gone_s = fake.now_s()
        fake._end_box(fake.contracts[first])
    elif trouble == "scheduling":  # its GPU went to somebody else while it restarted
        fake.lose(first, "scheduling")
    else:
        boxes.running[first].engine.broken = True
    tick_until(deck, lambda: len(contracts(deck)) == 2 and first not in contracts(deck))
    assert second in contracts(deck)
    assert {c.id for c in fake.standing()} == set(contracts(deck))


def test_an_outbid_box_cannot_come_back_beside_its_replacement(start: Start, fake: FakeVast) -> None:
    deck = start(interruptible=True)
    (first,) = contracts(deck)
    assert first is not None
    fake.outbid(first)
    tick_until(deck, lambda: contracts(deck) not in ([], [first]))
    assert fake.contracts[first].gone_s is not None


def test_an_unhealthy_box_leaves_the_members_before_it_is_replaced(
    start: Start, fake: FakeVast, boxes: FakeBoxes
) -> None:
    deck = start(boxes=2, timing={"unhealthy_s": 60})
    first = contracts(deck)[0]
    assert first is not None and len(members(deck)) == 2
    boxes.running[first].engine.broken = True
    Fleet(deck).tick()
    assert len(members(deck)) == 1 and len(fake.standing()) == 2
    boxes.running[first].engine.broken = False
    Fleet(deck).tick()
    assert len(members(deck)) == 2  # it was a moment's trouble


def test_one_listing_without_a_box_does_not_end_it(start: Start, fake: FakeVast) -> None:
    deck = start()
    fake.list_lag.update(c.id for c in fake.standing())
    Fleet(deck).tick()
    assert len(contracts(deck)) == 1 and len(fake.contracts) == 1


def test_the_members_file_names_what_a_gateway_needs(start: Start) -> None:
    deck = start()
    (member,) = members(deck)
    assert member["url"].startswith("https://127.0.0.1:") and member["url"].endswith("/v1")
    assert member["model"] == "qwen3-8b-awq"
    assert Path(member["key_file"]).read_text() and Path(member["ca_file"]).read_text().startswith("-----BEGIN")
    assert Path(member["key_file"]).read_text() not in (deck.config.folder / "members.json").read_text()


def test_a_spent_budget_ends_the_boxes_and_rents_none(start: Start, fake: FakeVast) -> None:
    deck = start(budget_usd_per_day=1.0)
    deck.store.state.spent_usd_by_day[day_of(deck.now_s())] = 0.9999
    with pytest.raises(BudgetReached, match="budget_usd_per_day"):
        for _ in range(5):
            Fleet(deck).tick()
    assert fake.standing() == [] and members(deck) == []


def test_what_cannot_be_had_is_not_searched_for_at_every_look(start: Start, fake: FakeVast) -> None:
    deck = start()
    (first,) = contracts(deck)
    assert first is not None
    fake.lose(first)
    fake.machines.clear()
    before, troubles = fake.searches, 0
    for _ in range(10):
        try:
            Fleet(deck).tick()
        except NothingWithin:
            troubles += 1
    assert fake.searches - before == troubles == 1 and fake.standing() == []


def test_up_brings_up_what_can_be_had_before_it_complains(start: Start, fake: FakeVast, tmp_path: Path) -> None:
    for number in range(2, 9):
        del fake.machines[number]
    with pytest.raises(NothingWithin):
        start(boxes=2)
    assert len(fake.standing()) == 1 == len(json_members(tmp_path))


def test_a_host_that_raises_its_price_over_the_cap_is_left(start: Start, fake: FakeVast) -> None:
    deck = start()
    (first,) = contracts(deck)
    assert first is not None
    fake.contracts[first].machine.charged_factor = 5.0
    tick_until(deck, lambda: contracts(deck) not in ([], [first]))
    assert deck.store.state.avoid_until_s


def test_a_contract_about_to_end_is_drained_and_replaced(start: Start, fake: FakeVast) -> None:
    deck = start(timing={"drain_s": 0.3})
    (first,) = contracts(deck)
    assert first is not None
    fake.contracts[first].machine.offer["duration"] = 100.0
    Fleet(deck).tick()
    assert fake.contracts[first].gone_s is None and members(deck) == []  # finishing what it has
    tick_until(deck, lambda: contracts(deck) not in ([], [first]))  # the next one need not wait for it
    tick_until(deck, lambda: fake.contracts[first].gone_s is not None)


def test_up_gives_serving_boxes_new_keys(start: Start, document: dict[str, Any]) -> None:
    deck = start()
    before = Path(members(deck)[0]["key_file"]).read_text()
    operate.up(deck)
    assert Path(members(deck)[0]["key_file"]).read_text() != before
    Fleet(deck).tick()
    assert len(members(deck)) == 1


def test_up_leaves_a_box_its_key_that_it_cannot_reach(start: Start, fake: FakeVast, boxes: FakeBoxes) -> None:
    deck = start(timing={"unhealthy_s": 60})
    (first,) = contracts(deck)
    assert first is not None
    before = Path(members(deck)[0]["key_file"]).read_text()
    real = boxes.running[first].identity.rotate

    def gone(body: bytes) -> None:
        boxes.running[first].identity.rotate = real  # type: ignore[method-assign]
        raise SystemError("cut off")

    boxes.running[first].identity.rotate = gone  # type: ignore[method-assign]
    operate.up(deck)
    assert Path(members(deck)[0]["key_file"]).read_text() == before
    operate.up(deck)  # takes up the rotation that was cut off
    Fleet(deck).tick()
    assert len(members(deck)) == 1 and Path(members(deck)[0]["key_file"]).read_text() != before


def test_restart_keeps_the_box_and_its_machine(start: Start, fake: FakeVast) -> None:
    deck = start()
    before = contracts(deck)
    operate.restart(deck, 0)
    assert contracts(deck) == before and len(members(deck)) == 1
    assert ("PUT", f"/api/v0/instances/reboot/{before[0]}/") in fake.calls
    with pytest.raises(ClusterError, match="slot 7"):
        operate.restart(deck, 7)


def test_upgrade_replaces_one_box_at_a_time(start: Start, fake: FakeVast) -> None:
    deck = start(boxes=2)
    before = contracts(deck)
    fewest: list[int] = []
    fake.on_call = lambda verb, path, at: fewest.append(len(members(deck)))
    operate.upgrade(deck)
    assert min(fewest) == 1 and not set(before) & set(contracts(deck))
    assert {c.id for c in fake.standing()} == set(contracts(deck))


def test_fewer_boxes_in_the_file_end_the_others(start: Start, fake: FakeVast) -> None:
    start(boxes=3)
    deck = start(boxes=1)
    assert len(fake.standing()) == 1 == len(contracts(deck))


def test_other_instances_of_the_account_are_never_touched(start: Start, fake: FakeVast, tmp_path: Path) -> None:
    fake.add(offer(90))
    client = VastClient(KEY, fake.url, spacing=0)
    mine = client.rent(90, {"image": "x", "label": "my own work", "disk": 10, "runtype": "args", "env": {}})
    running = start()
    operate.down(running)
    assert [c.id for c in fake.standing()] == [mine]


def test_the_count_agrees_with_the_providers_book(start: Start, fake: FakeVast) -> None:
    fake.speed = 36_000.0  # ten hours a second
    deck = start(budget_usd_per_day=1e6, timing={"boot_s": 1e9, "model_s": 1e9, "drain_s": 0, "missing_s": 0})
    until_s = time.monotonic() + 3.0  # of which the book's last moment, after the last look, is little
    while time.monotonic() < until_s:
        Fleet(deck).tick()
    counted = sum(r.accrued_usd for r in deck.store.state.rentals)
    assert counted == pytest.approx(fake.book_usd(), rel=0.15) and counted > 1


def test_watch_runs_as_a_process_replaces_and_stays_closed_after_down(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == 0
    watch = subprocess.Popen([sys.executable, "-m", "cluster", "watch", str(file)], cwd=ROOT, env=dict(os.environ))
    try:
        first = fake.standing()[0].id
        fake.lose(first)
        wait_for(lambda: first not in standing(fake) and len(json_members(tmp_path)) == 1)
        assert main(["down", str(file)]) == 0
        threading.Event().wait(0.5)
        assert fake.standing() == []
    finally:
        watch.terminate()
        assert watch.wait(60) == 0


def standing(fake: FakeVast) -> set[int]:
    return {c.id for c in fake.standing()}


def json_members(folder: Path) -> list[Any]:
    found: list[Any] = json.loads((folder / "state" / "test" / "members.json").read_text())["members"]
    return found


def wait_for(done: Callable[[], bool], limit_s: float = 60.0) -> None:
    until_s = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_the_unit_file_is_printed(document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(document, tmp_path)
    assert main(["watch", "--systemd", str(file)]) == 0
    text = capsys.readouterr().out
    assert f'ExecStart="{sys.executable}" -m cluster watch "{file.resolve()}"' in text and "Restart=always" in text
    assert f"\nUser={getpass.getuser()}\n" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="asks systemd itself")
def test_systemd_takes_the_unit_file_whatever_the_folders_are_called(tmp_path: Path, capsys: Any) -> None:
    odd = tmp_path / 'my boxes 100%n "$HOME"'
    odd.mkdir()
    assert main(["watch", "--systemd", str(odd / "cluster.yaml")]) == 0
    unit = tmp_path / "farthing-cluster.service"
    unit.write_text(capsys.readouterr().out)
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("command", ["offers", "plan", "up", "status", "cost", "logs", "down"])
def test_every_command_prints_one_json_document(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == 0
    capsys.readouterr()
    assert main([command, "--json", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)


def test_what_offers_prints_is_a_market_that_the_cost_benchmark_reads(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["offers", "--json", str(written(document, tmp_path))]) == 0
    market = tmp_path / "offers.json"
    market.write_text(text := capsys.readouterr().out, encoding="utf-8")
    found = Market.read(market, "rtx4090")
    prices = sorted(row["usd_per_hour"] for row in json.loads(text) if row["gpu"] == "RTX 4090")
    assert sorted(offer.usd_per_hour for offer in found.offers) == prices
    assert found.as_of == str(datetime.datetime.now(datetime.UTC).date())


def test_ssh_is_told_where_it_was_asked_for(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == 0
    assert fake.bodies[-1]["runtype"] == "args" and "onstart" not in fake.bodies[-1]
    assert main(["ssh", str(file)]) == 2 and "ssh: true" in capsys.readouterr().err
    assert main(["down", str(file)]) == 0
    file = written({**document, "ssh": True}, tmp_path)
    assert main(["up", str(file)]) == 0
    assert fake.bodies[-1]["runtype"] == "ssh_direct" and "args" not in fake.bodies[-1]
    capsys.readouterr()
    assert main(["ssh", str(file)]) == 0
    assert capsys.readouterr().out.strip() == "ssh -p 12345 root@ssh5.vast.ai"


def test_cost_is_held_against_the_charges_and_shows_what_we_did_not_know_of(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.speed = 7200.0  # two hours a second
    document["budget_usd_per_day"] = 1e6
    document["timing"] |= {"boot_s": 1e9, "model_s": 1e9, "unhealthy_s": 1e9}
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == 0
    client = VastClient(KEY, fake.url, spacing=0)
    stray = client.rent(8, {"image": "x", "label": "farthing:test:9:lost", "disk": 9, "runtype": "args", "env": {}})
    time.sleep(1.0)
    capsys.readouterr()
    assert main(["cost", "--json", str(file)]) == 0
    report = json.loads(capsys.readouterr().out)
    (box,) = report["boxes"]
    assert box["charged_usd"] == pytest.approx(box["accrued_usd"], rel=0.3) and box["charged_usd"] > 0.1
    assert [u["contract_id"] for u in report["charged_but_unknown_here"]] == [stray]
    assert not report["reconciled"]


def test_no_secret_is_in_state_requests_or_output(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-frontier-secret")
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == main(["status", str(file)]) == 0
    said = capsys.readouterr()
    folder = tmp_path / "state" / "test"
    keys = [p.read_text() for p in folder.glob("keys/*")]
    shown = said.out + said.err + (folder / "state.json").read_text() + (folder / "members.json").read_text()
    assert keys and not any(key in shown for key in [*keys, KEY, "sk-frontier-secret"])
    sent = json.dumps(fake.bodies)
    assert KEY not in sent and "sk-frontier" not in sent and not any(key in sent for key in keys)
    assert (folder / "state.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o077 == 0

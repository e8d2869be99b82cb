"""What people do with the commands beside the plan: half a file, another folder, an edited file, two at once."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import operate
from cluster.__main__ import main
from cluster.config import load
from cluster.errors import BudgetReached, Busy, NeverUp, Refused
from cluster.fleet import Fleet
from cluster.state import Rental, Store, day_of, watched
from tests.cluster.conftest import written
from tests.cluster.fake_vast import FakeVast, Reply, offer

DONE, UNDONE = 0, 2


@pytest.mark.parametrize("command", ["up", "upgrade", "watch"])
def test_nothing_is_rented_for_an_image_without_the_code(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """`cluster/example.yaml` as it is: every box of it would bill until its time to boot is over."""
    del document["image"]
    assert main([command, str(written(document, tmp_path))]) == UNDONE
    assert "image.source: a stock CUDA image holds no Farthing" in capsys.readouterr().err
    assert fake.contracts == {}


@pytest.mark.parametrize("command", ["up", "watch"])
def test_without_a_state_nothing_that_serves_is_ended(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """As from another folder than the one that `up` was run in."""
    assert main(["up", str(written(document, tmp_path))]) == DONE
    serving = [c.id for c in fake.standing()]
    elsewhere = written({**document, "state_dir": str(tmp_path / "elsewhere")}, tmp_path)
    assert main([command, str(elsewhere)]) == UNDONE
    said = capsys.readouterr().err
    assert ("no `up` was run in" if command == "watch" else "knows nothing of") in said
    assert "1 of this name bill" in said or "1 boxes of this name bill" in said
    assert [c.id for c in fake.standing()] == serving and len(fake.contracts) == 1
    assert not list((tmp_path / "elsewhere").rglob("*.json"))


def test_watch_without_an_up_rents_nothing(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(written(document, tmp_path))]) == UNDONE
    assert "no `up` was run in" in capsys.readouterr().err
    assert fake.contracts == {} and not (tmp_path / "state").exists()


def test_watch_leaves_the_boxes_alone_when_the_state_is_moved_away(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    deck = operate.open_deck(load(file), print)
    (tmp_path / "state" / "test" / "state.json").unlink()
    trouble = operate.Watcher(deck, threading.Event())._look()
    assert isinstance(trouble, NeverUp) and len(fake.standing()) == 1 == len(fake.contracts)


def test_an_intent_beyond_the_slots_that_are_wanted_does_not_hold_up_for_ever(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path
) -> None:
    """Killed between intent and rental; then fewer boxes are wanted."""
    document["timing"]["settle_s"] = 5
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    deck = operate.open_deck(load(file), print)
    now_s = deck.now_s()
    intent = {"since_s": now_s, "created_s": now_s, "accrued_until_s": now_s, "expected_usd_per_hour": 0.4}
    deck.store.state.rentals.append(
        Rental(label="farthing:test:1:abc", slot=1, offer_id=2, machine_id=2, gpu="RTX 4090", **intent)
    )
    deck.store.save()
    assert main(["up", str(file)]) == DONE
    assert [r.phase for r in Store(deck.config.folder).state.live] == ["ready"]
    assert main(["down", str(file)]) == DONE


def test_a_refused_rental_is_not_asked_for_at_every_look(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path
) -> None:
    def on_call(verb: str, path: str, at: str) -> None:
        if "/asks/" in path and at == "before":
            raise Reply(400, {"success": False, "error": "invalid_args", "msg": "no such image"})

    fake.on_call = on_call
    deck = operate.open_deck(load(written(document, tmp_path)), print)
    with pytest.raises(Refused, match="no such image"):
        operate.up(deck)
    for _ in range(5):
        Fleet(deck).tick()
    assert fake.searches == 1 == len(deck.store.state.rentals)


def test_a_spent_budget_costs_no_searches(fake: FakeVast, document: dict[str, Any], tmp_path: Path) -> None:
    deck = operate.open_deck(load(written(document, tmp_path)), print)
    deck.store.state.spent_usd_by_day[day_of(deck.now_s())] = 40.01
    with pytest.raises(BudgetReached):
        Fleet(deck).tick()
    assert fake.searches == 0


def test_boxes_that_served_and_are_lost_are_replaced_without_a_pause(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path
) -> None:
    """Three at once are no sign that new ones do not come up."""
    deck = operate.open_deck(load(written({**document, "boxes": 3}, tmp_path)), print)
    operate.up(deck)
    lost = [c.id for c in fake.standing()]
    for contract in lost:
        fake.lose(contract)
    until_s = time.monotonic() + 40
    while sum(r.serves for r in deck.store.state.live) < 3 or {c.id for c in fake.standing()} & set(lost):
        assert time.monotonic() < until_s
        Fleet(deck).tick()


def test_a_second_watch_is_refused_and_status_says_whether_there_is_one(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With files that differ, one would rent what the other ends; without any nobody holds the budget."""
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    stop = threading.Event()
    first = operate.Watcher(operate.open_deck(load(file), print), stop)
    thread = threading.Thread(target=first.run)
    thread.start()
    folder = load(file).folder
    try:
        until_s = time.monotonic() + 20
        while not watched(folder):
            assert time.monotonic() < until_s
            time.sleep(0.01)
        with pytest.raises(Busy, match="watches this cluster already"):
            operate.Watcher(operate.open_deck(load(file), print), stop).run()
        assert main(["status", str(file)]) == DONE and "no watch runs" not in capsys.readouterr().out
        assert main(["status", "--json", str(file)]) == DONE and json.loads(capsys.readouterr().out)["watched"]
    finally:
        stop.set()
        thread.join(20)
    assert main(["status", str(file)]) == DONE and "no watch runs here" in capsys.readouterr().out
    assert main(["down", str(file)]) == DONE


def test_an_edited_file_is_planned_and_then_done(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer boxes, a lower cap, another profile: the plan says what `up` ends and what stays until `upgrade`."""
    assert main(["up", str(written({**document, "boxes": 3}, tmp_path))]) == DONE  # at $0.323, 0.333 and 0.343
    edited = written({**document, "boxes": 2, "max_usd_per_hour": 0.33, "profile": "qwen3-8b-fp8"}, tmp_path)
    fake.add(offer(20, usd=0.29))
    capsys.readouterr()
    assert main(["plan", str(edited)]) == 0
    said = capsys.readouterr().out
    assert "slot 2: `up` ends it: the file wants fewer boxes" in said
    assert "slot 1: `up` ends it: $0.333/h is above the cap" in said
    assert "slot 0 was rented for qwen3-8b-awq; `upgrade` replaces it" in said
    assert "         20  RTX 4090" in said and "slot 0 stands" in said and "slot 1 stands" not in said
    assert main(["up", str(edited)]) == DONE
    assert models(tmp_path) == ["qwen3-8b-awq", "qwen3-8b-fp8"] and len(fake.standing()) == 2
    fake.add(offer(21, usd=0.29))
    assert main(["upgrade", str(edited)]) == DONE
    assert models(tmp_path) == ["qwen3-8b-fp8"] * 2 and len(fake.standing()) == 2


def test_the_plan_says_when_the_budget_would_not_let_it(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written({**document, "boxes": 3, "budget_usd_per_day": 0.7}, tmp_path)
    assert main(["plan", str(file)]) == 1
    assert "missing: budget_usd_per_day: $0.00 of $0.70" in capsys.readouterr().out
    assert main(["up", str(file)]) == UNDONE and len(fake.standing()) == 2


def models(folder: Path) -> list[str]:
    members = json.loads((folder / "state" / "test" / "members.json").read_text())["members"]
    return sorted(member["model"] for member in members)


def test_a_folder_of_this_machine_is_no_profile_of_a_box(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", str(written({**document, "profile": str(tmp_path)}, tmp_path))]) == UNDONE
    assert "folder of this machine" in capsys.readouterr().err and fake.contracts == {}


def test_a_box_that_is_lost_during_an_upgrade_is_not_ended_twice(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []
    deck = operate.open_deck(load(written({**document, "boxes": 2}, tmp_path)), said.append)
    operate.up(deck)
    first, second = (c.id for c in fake.standing())

    def on_call(verb: str, path: str, at: str) -> None:
        if verb == "DELETE" and str(first) in path and at == "after":
            fake.lose(second)

    fake.on_call = on_call
    operate.upgrade(deck)
    assert len(fake.standing()) == 2 and len(fake.contracts) == 4
    assert sum(f"contract {second} is gone" in text for text in said) == 1


@pytest.mark.parametrize("price", [float("nan"), -1.0, None])
def test_a_box_whose_price_cannot_be_read_counts_at_the_one_it_was_rented_for(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, price: float | None
) -> None:
    deck = operate.open_deck(load(written(document, tmp_path)), print)
    operate.up(deck)
    real = fake._shown
    monkeypatch.setattr(fake, "_shown", lambda contract: real(contract) | {"dph_total": price})
    Fleet(deck).tick()
    (rental,) = Store(deck.config.folder).state.live  # the file can be read again
    assert rental.serves and rental.billed_usd_per_hour == pytest.approx(0.3225)

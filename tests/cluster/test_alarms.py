"""What somebody is told while `watch` keeps the boxes; and that telling never holds it up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster import alarms, operate
from cluster.__main__ import main
from cluster.alarms import Alarm, Webhook
from cluster.config import load
from tests.cluster.conftest import written
from tests.cluster.fake_vast import FakeVast, offer

SECRET_PATH = "/services/T0/B0/a-secret"


class Receiver:
    """Takes alarms; answers each with the next status, once `open` lets it."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.open = threading.Event()
        self.open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.open.wait(30)
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                if status == 200:
                    receiver.taken.append(body)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET_PATH}"

    def events(self) -> list[str]:
        return [alarm["event"] for alarm in self.taken]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(alarms, "PAUSE_S", 0.01)
    found = Receiver()
    yield found
    found.open.set()
    found.server.shutdown()
    found.server.server_close()


def until(done: Callable[[], Any]) -> None:
    end_s = time.monotonic() + 40
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.fixture
def watching(document: dict[str, Any], tmp_path: Path, receiver: Receiver) -> Iterator[Callable[..., list[str]]]:
    """`watch` in a thread, its alarms going to the receiver; returns what it says."""
    stop, threads = threading.Event(), []

    def start(**changes: Any) -> list[str]:
        said: list[str] = []
        config = load(written({**document, "alarms": {"url": receiver.url}, **changes}, tmp_path))
        deck = operate.open_deck(config, said.append)
        deck.store.save()  # as an `up` that was cut off leaves it: `watch` does the rest
        hook = Webhook(receiver.url, 5.0, said.append)
        watcher = operate.Watcher(replace(deck, alarm=hook), stop)
        threads.append(threading.Thread(target=watcher.run))
        threads[-1].start()
        return said

    yield start
    stop.set()
    for thread in threads:
        thread.join(30)


def test_a_box_that_is_lost_and_replaced_is_told(
    watching: Callable[..., list[str]], receiver: Receiver, fake: FakeVast
) -> None:
    watching()
    until(lambda: receiver.events() == ["box_ready"])
    (first,) = fake.standing()
    fake.lose(first.id)
    until(lambda: receiver.events() == ["box_ready", "box_lost", "box_replaced"])
    ready, lost, replaced = receiver.taken
    assert (ready["cluster"], ready["slot"], ready["contract_id"]) == ("test", 0, first.id)
    assert lost["contract_id"] == first.id and lost["text"].startswith("slot 0: ") and lost["gpu"] == "RTX 4090"
    assert replaced["contract_id"] != first.id and replaced["at_s"] >= lost["at_s"]


def test_a_box_that_does_not_come_up_is_told(
    watching: Callable[..., list[str]], receiver: Receiver, fake: FakeVast
) -> None:
    fake.add(offer(20, usd=0.20), boot="exits")
    watching()
    until(lambda: receiver.events() == ["box_failed", "box_ready"])
    assert "dead" in receiver.taken[0]["text"]


def test_a_box_that_leaves_before_its_host_ends_it_is_told(
    watching: Callable[..., list[str]], receiver: Receiver, fake: FakeVast
) -> None:
    watching()
    until(lambda: receiver.events() == ["box_ready"])
    fake.standing()[0].machine.offer["duration"] = 60.0
    until(lambda: receiver.events() == ["box_ready", "box_left", "box_replaced"])


def test_the_budget_and_what_cannot_be_had_are_told_once(
    watching: Callable[..., list[str]], receiver: Receiver, fake: FakeVast
) -> None:
    fake.speed = 3600.0  # an hour a second
    watching(budget_usd_per_day=0.7, timing={"poll_s": 0.05, "drain_s": 0, "boot_s": 1e9, "model_s": 1e9})
    until(lambda: "budget_reached" in receiver.events())
    until(lambda: "trouble" in receiver.events())
    time.sleep(0.5)  # ten looks
    assert receiver.events().count("trouble") == 1 and not fake.standing()


def test_a_receiver_that_hangs_holds_nothing_up(
    watching: Callable[..., list[str]], receiver: Receiver, fake: FakeVast
) -> None:
    receiver.open.clear()
    watching()
    until(fake.standing)
    (first,) = fake.standing()
    until(lambda: "alarms" in {t.name for t in threading.enumerate()})
    fake.lose(first.id)
    until(lambda: [c for c in fake.standing() if c.id != first.id])
    assert receiver.taken == []


def an_alarm(number: int) -> Alarm:
    return Alarm("trouble", "test", f"number {number}", 0.0)


def test_a_receiver_that_fails_is_asked_again_and_its_secret_address_is_not_told(receiver: Receiver) -> None:
    said: list[str] = []
    hook = Webhook(receiver.url, 5.0, said.append)
    receiver.statuses = [500, 503]
    hook(an_alarm(1))
    until(lambda: receiver.taken)
    receiver.statuses = [500] * alarms.ATTEMPTS
    hook(an_alarm(2))
    until(lambda: said)
    hook.close()
    assert [alarm["text"] for alarm in receiver.taken] == ["number 1"]
    assert "status 500" in said[0] and "127.0.0.1" in said[0] and "a-secret" not in said[0]


def test_too_many_for_a_receiver_that_is_away_drop_the_oldest(receiver: Receiver) -> None:
    said: list[str] = []
    receiver.open.clear()
    hook = Webhook(receiver.url, 30.0, said.append)
    for number in range(alarms.HELD + 10):
        hook(an_alarm(number))
    receiver.open.set()
    until(lambda: receiver.taken and receiver.taken[-1]["text"] == f"number {alarms.HELD + 9}")
    hook.close()
    assert alarms.HELD <= len(receiver.taken) <= alarms.HELD + 1 and len(said) >= 9


def test_the_command_posts_to_the_files_address_and_ends_in_time(
    document: dict[str, Any], tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written({**document, "alarms": {"url": receiver.url}}, tmp_path)
    operate.open_deck(load(file), print).store.save()
    stops: list[Any] = []
    monkeypatch.setattr("signal.signal", lambda _number, handler: stops.append(handler))
    runs = threading.Thread(target=main, args=(["watch", str(file)],))
    runs.start()
    until(lambda: receiver.events() == ["box_ready"])
    stops[0](15, None)
    runs.join(20)
    assert not runs.is_alive()

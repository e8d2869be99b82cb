"""Faults, continued: SIGKILL at every call and at every write of `up` and `down` (see test_faults.py)."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.__main__ import main
from cluster.members import FILE, read
from tests.cluster.conftest import ROOT, Book, command, recover, written
from tests.cluster.fake_vast import Contract, Drop, FakeVast

pytestmark = pytest.mark.timeout(400)  # some tests hold a dozen starts of a process
DONE, KILLED = 0, -signal.SIGKILL


def kill_at(fake: FakeVast, number: int, when: str, args: list[str]) -> int:
    """Run a command and kill it while its `number`-th call to the provider is before, or after, its effect."""
    left = [number]
    process: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def on_call(verb: str, path: str, at: str) -> None:
        if at != when:
            return
        left[0] -= 1
        if left[0] == 0:
            started.wait(10)
            process[0].kill()
            raise Drop

    fake.on_call = on_call
    process.append(subprocess.Popen(command(*args), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    started.set()
    return process[0].wait(100)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 6))  # who am I, list, search, rent, list
def test_faults_killed_at_a_call_of_up(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, book: Book, when: str, number: int
) -> None:
    file = written(document, tmp_path)
    assert kill_at(fake, number, when, ["up", str(file)]) == KILLED
    leaked = recover(fake, file)
    book(f"SIGKILL in `up`, {when} a provider call takes effect", leaked)
    assert leaked == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 5))
def test_faults_killed_at_a_call_of_down(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, book: Book, when: str, number: int
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    assert kill_at(fake, number, when, ["down", str(file)]) == KILLED
    fake.on_call = lambda *_: None
    assert main(["down", str(file)]) == DONE
    book(f"SIGKILL in `down`, {when} a provider call takes effect", len(fake.standing()))
    assert fake.standing() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 7))  # list, destroy, show, search, rent, list
def test_faults_killed_at_a_call_of_a_replacement(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, book: Book, when: str, number: int
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    first = fake.standing()[0].id
    fake.lose(first)
    assert kill_at(fake, number, when, ["watch", str(file)]) == KILLED
    fake.on_call = lambda *_: None
    watch_until_replaced(file, tmp_path / "state" / "test" / FILE, fake.contracts[first])
    leaked = len(fake.standing()) - 1
    assert main(["down", str(file)]) == DONE
    leaked += len(fake.standing())
    book(f"SIGKILL in `watch` at a replacement, {when} a provider call takes effect, then `watch`", leaked)
    assert leaked == 0


def run_killed(when: str, number: int, args: list[str]) -> int:
    driver = [sys.executable, str(Path(__file__).with_name("killed.py")), when, str(number), *args]
    return subprocess.run(driver, cwd=ROOT, capture_output=True, timeout=100, check=False).returncode


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["up", "down"])
def test_faults_killed_at_each_write_of_up(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, book: Book, when: str, then: str
) -> None:
    fault = f"SIGKILL in `up`, {when} a write to disk, then `{then}`"
    for number in range(1 if when == "before" else 2, 60, 2):
        file = written({**document, "name": f"n{number}"}, tmp_path)
        status = run_killed(when, number, ["up", str(file)])
        if then == "up":
            leaked = recover(fake, file)
        else:
            assert main(["down", str(file)]) == DONE
            leaked = len(fake.standing())
        if status == DONE:  # it made fewer writes than that: every gap has been visited
            assert number > 10
            break
        assert status == KILLED
        book(fault, leaked)
        assert leaked == 0, number


@pytest.mark.parametrize("when", ["before", "after"])
def test_faults_killed_at_each_write_of_down(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, book: Book, when: str
) -> None:
    file = written(document, tmp_path)
    for number in range(1, 30):
        assert main(["up", str(file)]) == DONE
        status = run_killed(when, number, ["down", str(file)])
        assert main(["down", str(file)]) == DONE
        if status == DONE:
            assert number > 4
            break
        book(f"SIGKILL in `down`, {when} a write to disk", len(fake.standing()))
        assert fake.standing() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["watch", "down"])
def test_faults_killed_at_each_write_of_a_replacement(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, book: Book, when: str, then: str
) -> None:
    """`watch` dies while it replaces a lost box, and is started again, as a service is; or `down` is the next word."""
    for number in range(1 if when == "before" else 2, 80, 2):
        file = written({**document, "name": f"w{number}"}, tmp_path)
        members = tmp_path / "state" / f"w{number}" / FILE
        assert main(["up", str(file)]) == DONE
        first = fake.standing()[0].id
        fake.lose(first)
        assert run_killed(when, number, ["watch", str(file)]) == KILLED
        replaced = first not in {c.id for c in fake.standing()} and len(read(members)) == 1
        leaked = 0
        if then == "watch":
            watch_until_replaced(file, members, fake.contracts[first])
            leaked = len(fake.standing()) - 1
        assert main(["down", str(file)]) == DONE
        fake.contracts[first].machine.boot = "runs"  # its host is back, for the next number's cluster
        leaked += len(fake.standing())
        book(f"SIGKILL in `watch` at a replacement, {when} a write to disk, then `{then}`", leaked)
        assert leaked == 0, number
        if replaced:  # every gap has been visited
            assert number > 10
            return
    raise AssertionError("it never came to replace the box")


def watch_until_replaced(file: Path, members: Path, lost: Contract) -> None:
    watch = subprocess.Popen(command("watch", str(file)), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + 40
        while lost.gone_s is None or len(read(members)) != 1:
            assert time.monotonic() < until_s
            time.sleep(0.05)
    finally:
        watch.terminate()
        assert watch.wait(30) in (DONE, -signal.SIGTERM)  # the latter when it is told before it listens

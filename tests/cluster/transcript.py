"""Plays a whole life against the local provider and prints it: `python -m tests.cluster.transcript`. Root, ten minutes.

Of the machines the cheapest never boots and the next is outbid while it boots. While callers ask a gateway, one box is
killed and another unplugged, and `watch` replaces them. At the end stands the provider's own book. Real: every command
as a process; boxes (bootstrap script, supervisor, vLLM on the CPU, door), each in a network of its own; TLS and joins;
`python -m serving run` before them. Played: the provider, with its GPUs and prices, and the callers.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.fake_vast import KEY, Contract, FakeVast, offer
from tests.cluster.load import Load, latencies, outcomes
from tests.cluster.real_boxes import ROOT, RealBoxes
from tests.stack.conftest import until
from tests.stack.lan import Lan, Machine, lan

CLONE_NEWNET = 0x40000000  # linux/sched.h
BOXES, MACHINES = 2, 8
CALLERS, MAX_TOKENS = 6, 48
BEFORE_S, SILENT_S, AFTER_S = 30.0, 4.0, 30.0
WIDTH = 150


@dataclass
class Stage:
    """Where it plays. Whatever it prints has its folder's name cut out, and long lines their ends."""

    folder: Path
    fake: FakeVast
    boxes: RealBoxes
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    sent: int = 0

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster.yaml"

    def show(self, text: str) -> None:
        for line in text.splitlines():
            line = line.replace(f"{self.folder}/", "").replace(sys.executable, "python")
            print(line if len(line) <= WIDTH else line[: WIDTH - 3] + "...", flush=True)

    def say(self, text: str) -> None:
        self.show(f"{time.strftime('%H:%M:%S')} -- {text}")

    def run(self, *args: str) -> str:
        self.show(f"\n$ python -m {' '.join(args)}")
        command = [sys.executable, "-m", *args]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.show(done.stdout)
        return done.stdout

    def start(self, *args: str, quiet: str = "") -> subprocess.Popen[str]:
        """In the background; what it prints appears as it comes, lines with `quiet` in them left out."""
        self.show(f"\n$ python -m {' '.join(args)} &")
        process = subprocess.Popen(
            [sys.executable, "-m", *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.processes.append(process)
        assert process.stdout is not None  # a pipe was asked for
        threading.Thread(target=self._pass_on, args=(process.stdout, quiet), daemon=True).start()
        return process

    def _pass_on(self, lines: Any, quiet: str) -> None:
        for line in lines:
            if not quiet or quiet not in line:
                self.show(line)

    def end(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(90)

    def members(self) -> list[dict[str, str]]:
        return list(json.loads((self.folder / "demo" / "members.json").read_text())["members"])


def main() -> None:
    os.environ["VAST_API_KEY"] = KEY
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farthing-transcript-")))
        net = stack.enter_context(lan(MACHINES))
        home, *others = net.machines
        stack.enter_context(_at(home))
        boxes = RealBoxes(folder, others)
        fake = stack.enter_context(FakeVast(boxes=boxes))
        stage = Stage(folder, fake, boxes)
        stack.enter_context(_all_ended(stage))
        play(stage, net)


def play(stage: Stage, net: Lan) -> None:
    gateway = _files(stage)
    stage.run("cluster", "plan", str(stage.cluster))
    service = stage.start("serving", "run", "--config", str(gateway), quiet="...")
    until(lambda: (stage.folder / "service" / "run" / "instance.json").exists(), 200, "the gateway")
    stage.run("cluster", "up", str(stage.cluster))
    watch = stage.start("cluster", "watch", str(stage.cluster))
    _lose_one_under_load(stage, "is killed, every process of it", lambda c: stage.boxes.stop(c.id))
    _lose_one_under_load(stage, "is unplugged", lambda c: net.unplug(stage.boxes.placed[c.id]))
    print(flush=True)
    stage.say(f"the gateway was sent {stage.sent} requests in all; its ledger:")
    stage.run("serving", "costs", "--config", str(gateway), "--since", "1h")
    stage.say(f"streams that broke off with a box and were carried on by another: {_carried_on():.0f}")
    stage.run("cluster", "status", str(stage.cluster))
    stage.run("cluster", "ports", str(stage.cluster), "--scan", "1", "65535")
    _knock_at_home(stage, net.machines[0], net.machines[-1])
    _logs(stage)
    stage.run("cluster", "cost", str(stage.cluster), "--service", str(gateway))
    stage.run("cluster", "down", str(stage.cluster))
    stage.end(watch)
    stage.end(service)
    book = stage.fake
    stage.say(
        f"the provider's own book: {len(book.contracts)} rentals made, {len(book.standing())} standing, "
        f"${book.book_usd():.4f} billed"
    )


def _files(stage: Stage) -> Path:
    """The cluster's file, and configs/boxes.yaml with this place's folders and the model that runs on a CPU."""
    fake = stage.fake
    fake.add(offer(101, usd=0.25), boot="stuck")
    fake.add(offer(102, usd=0.27), boot_s=2.0, outbid_after_s=12.0)
    fake.add(*[offer(n, usd=0.30 + n / 1000) for n in range(103, 109)], boot_s=2.0)
    document = {
        "name": "demo",
        "boxes": BOXES,
        "profile": "embedded",
        "max_usd_per_hour": 0.45,
        "budget_usd_per_day": 22,
        "interruptible": True,
        "image": {"source": {"url": "https://example.org/farthing.tar.gz", "sha256": "0" * 64}},
        "speed": {"requests": 4, "output_tokens": 16, "min_share": 0.01},
        "timing": {"poll_s": 1, "boot_s": 60, "model_s": 400, "missing_s": 10, "unhealthy_s": 20, "drain_s": 5},
        "provider": {"url": fake.url, "spacing": 0},
        "state_dir": str(stage.folder),
    }
    stage.cluster.write_text(yaml.safe_dump(document))
    config = yaml.safe_load((ROOT / "configs" / "boxes.yaml").read_text())
    config["state_dir"] = str(stage.folder / "service")
    config["tiers"][0]["backends"] = [
        {"kind": "members", "file": str(stage.folder / "demo" / "members.json"), "profile": "embedded"}
    ]
    path = stage.folder / "boxes.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _lose_one_under_load(stage: Stage, how: str, lose: Callable[[Contract], None]) -> None:
    load = Load("http://127.0.0.1:8000", CALLERS, MAX_TOKENS, how)
    stage.say(f"{CALLERS} callers at once, half of them streaming, ask the gateway")
    time.sleep(BEFORE_S)
    victim = next(c for c in stage.fake.standing() if c.port is not None)
    lost_s = time.monotonic()
    lose(victim)
    stage.say(f"contract {victim.id} {how}; the provider calls it running for {SILENT_S:g} s more")
    time.sleep(SILENT_S)
    stage.fake.lose(victim.id)
    until(lambda: len(stage.members()) < BOXES, 60, "the loss noticed")
    until(lambda: len(stage.members()) == BOXES, 400, "the replacement")
    back_s = time.monotonic()
    stage.say(f"all boxes serve again, {back_s - lost_s:.0f} s after the loss")
    time.sleep(AFTER_S)
    load.stop()
    stage.sent += len(load.asked)
    counted = outcomes(load.asked)
    stage.say(
        f"of {len(load.asked)} requests answered {counted.pop('answered', 0)}, broken off after their first text "
        f"{counted.pop('cut', 0)}, failed {counted.total()}"
    )
    for wrong, times in counted.items():
        stage.say(f"  {times} x {wrong}")
    parts = {
        "ended before the loss": [a for a in load.asked if a.began_s + a.took_s < lost_s],
        "under way at the loss": [a for a in load.asked if a.under_way(lost_s)],
        "begun with a box less": [a for a in load.asked if lost_s < a.began_s < back_s],
        "begun with all again": [a for a in load.asked if a.began_s >= back_s],
    }
    for name, part in parts.items():
        stage.say(f"  {name}: {len(part)}; {latencies(part)}")


def _carried_on() -> float:
    with urllib.request.urlopen("http://127.0.0.1:8000/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "farthing_streams_resumed_total")


def _knock_at_home(stage: Stage, home: Machine, stranger: Machine) -> None:
    """The same for the machine with the gateway and the keys, from a machine beside it."""
    look = f"from cluster.outside import open_ports; print(open_ports({home.address!r}, range(1, 65536)))"
    done = subprocess.run(
        stranger.wrapped([sys.executable, "-c", look]), cwd=ROOT, capture_output=True, text=True, check=True
    )
    stage.say(f"TCP ports 1-65535 of the gateway's machine, from another: open {done.stdout.strip()}")


def _logs(stage: Stage) -> None:
    """The provider shows what the container printed."""
    for contract in stage.fake.standing():
        stage.fake.logs[contract.id] = stage.boxes.log(contract.id).read_text(errors="replace")
    stage.run("cluster", "logs", str(stage.cluster), "--tail", "3")


@contextlib.contextmanager
def _at(machine: Machine) -> Iterator[None]:
    """In its network, with all that is started there; out of it before it ends. Python has setns from 3.12 on."""
    with Path("/proc/self/ns/net").open("rb") as outside:
        with Path(f"/proc/{machine.holder.pid}/ns/net").open("rb") as inside:
            _set_network(inside.fileno())
        try:
            yield
        finally:
            _set_network(outside.fileno())


def _set_network(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def _all_ended(stage: Stage) -> Iterator[None]:
    try:
        yield
    finally:
        for process in stage.processes:
            if process.poll() is None:
                stage.end(process)
        stage.boxes.close()


if __name__ == "__main__":
    main()

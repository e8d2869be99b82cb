"""Nothing a benchmark starts outlives it, and what fails says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.child import ROOT, BenchmarkError, Nursery, guarded, python
from models.errors import ConfigError

DAEMON = """
import os, subprocess, sys, time
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print("daemon", started.pid, flush=True)
if sys.argv[1] == "leave": os._exit(0)
time.sleep(300)
"""
INTERRUPTED = """
import signal, sys, time
from benchmarks.child import Nursery, guarded
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background ignores it
def work(folder):
    with Nursery(folder).child("sleeper", [sys.executable, "-c", "import time; time.sleep(300)"]) as child:
        print(child.process.pid, folder, flush=True)
        time.sleep(300)
sys.exit(guarded("a benchmark", work))
"""


@pytest.mark.parametrize("how", ["stay", "leave"])
def test_what_a_child_started_is_ended_and_reported(tmp_path: Path, how: str) -> None:
    nursery = Nursery(tmp_path, leftover_wait_s=0.3)
    with nursery.child("parent", [sys.executable, "-c", DAEMON, how]) as child:
        daemon = int(child.wait_for_line("daemon ", 20))
        if how == "leave":
            child.process.wait(10)
    assert not psutil.pid_exists(daemon)
    assert child.process.poll() is not None
    assert len(nursery.left_behind) == 1 and nursery.left_behind[0].startswith(f"parent: {daemon} ")


def test_a_child_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"]
    with (
        pytest.raises(BenchmarkError, match=r"(?s)short ended with 3.*no such thing"),
        Nursery(tmp_path).child("short", command) as child,
    ):
        child.wait_for_line("ready", 20)


def test_a_child_that_is_late_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    with (
        pytest.raises(BenchmarkError, match=r"slow was not ready after 0\.2 s"),
        Nursery(tmp_path).child("slow", command) as child,
    ):
        child.wait_for_port(1, 0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_takes_its_children_along(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    child, folder = process.stdout.readline().split()
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in told and "Traceback" not in told
    assert not psutil.pid_exists(int(child)) and not Path(folder).exists()


def test_cpu_time_is_that_of_the_whole_family(tmp_path: Path) -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with Nursery(tmp_path).child("busy", [sys.executable, "-c", busy]) as child:
        end_s = time.monotonic() + 20
        while child.cpu_s() < 0.3 and time.monotonic() < end_s:
            time.sleep(0.05)
        assert child.cpu_s() >= 0.3
    with Nursery(tmp_path).child("module", python("benchmarks.load", "--help")) as child:
        assert "closed loop" in child.wait_for_line("A ", 20)


@pytest.mark.parametrize(
    "error", [BenchmarkError("no such thing"), OSError("no such thing"), ConfigError("no such thing")]
)
def test_what_a_user_can_mend_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: Path) -> int:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert guarded("benchmarks.x", work) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "benchmarks.x: no such thing\n"

"""The processes a benchmark starts, and the promise that none of them outlives it.

Each gets a session of its own, so that Ctrl-C reaches the benchmark alone, which then ends them in order. Whatever they
started in turn is found by descent and by a mark in its environment: a daemon that left its parent is found too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from models.errors import FarthingError

MARK = "FARTHING_BENCHMARK"
STOP_LIMIT_S = 75.0
LEFTOVER_WAIT_S = 5.0
ROOT = Path(__file__).resolve().parent.parent


class BenchmarkError(Exception):
    """The measurement cannot be made; says why and what to do."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    mark: str

    def wait_for_line(self, text: str, limit_s: float) -> str:
        """The rest of the first line of its log that holds `text`. Raises BenchmarkError when it ends or is late."""
        end_s = time.monotonic() + limit_s
        while True:
            for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
                if text in line:
                    return line.partition(text)[2]
            self.check(end_s, limit_s)
            time.sleep(0.1)

    def wait_for_port(self, port: int, limit_s: float) -> None:
        end_s = time.monotonic() + limit_s
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            self.check(end_s, limit_s)
            time.sleep(0.1)

    def cpu_s(self) -> float:
        """Seconds of CPU that it and what it started have used so far."""
        used = 0.0
        for process in family(self):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def check(self, end_s: float, limit_s: float) -> None:
        """Raises BenchmarkError with the end of the log when the process has ended or the time has passed."""
        ended = self.process.poll() is not None
        if ended or time.monotonic() > end_s:
            why = f"ended with {self.process.returncode}" if ended else f"was not ready after {limit_s:g} s"
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise BenchmarkError(f"{self.name} {why}; the end of its log:\n{tail}")


@dataclass(slots=True)
class Nursery:
    """Where children are started and what was left of them. `folder` takes their logs."""

    folder: Path
    leftover_wait_s: float = LEFTOVER_WAIT_S
    left_behind: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def child(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[Child]:
        """Start; at the end ask it to end, wait, and kill what does not."""
        mark = secrets.token_hex(8)
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env={**os.environ, **(environ or {}), MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(name, process, log, mark)
        try:
            yield child
        finally:
            with _deaf_to_interrupts():
                self.left_behind += _end(child, self.leftover_wait_s)


def _end(child: Child, wait_s: float) -> list[str]:
    """Stop a child and all it started. Returns what did not go by itself, by name."""
    kin = family(child)
    if child.process.poll() is None:
        child.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(STOP_LIMIT_S)
    kin |= family(child)
    _, alive = psutil.wait_procs(list(kin), timeout=wait_s)
    left = [f"{child.name}: {_title(process)}" for process in alive]
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=LEFTOVER_WAIT_S)
    child.process.wait()
    return left


def family(child: Child) -> set[psutil.Process]:
    """The child, its descendants, and every process that carries its mark."""
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        head = psutil.Process(child.process.pid)
        found = {head, *head.children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == child.mark:
                found.add(process)
    return found


def _title(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:100]}"
    except psutil.Error:
        return str(process.pid)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """An impatient second Ctrl-C must not leave half of the processes running."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def guarded(prog: str, work: Callable[[Path], int]) -> int:
    """Run with a folder that goes at the end, and turn what may go wrong into words and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unwinds the stack, and with it the children
    try:
        with tempfile.TemporaryDirectory(prefix="farthing-benchmark-") as folder:
            return work(Path(folder))
    except (BenchmarkError, OSError) as exc:  # a file that is not there, a full disk
        print(f"{prog}: {exc}", file=sys.stderr)
        return 1
    except FarthingError as exc:
        print(f"{prog}: {exc.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; everything it started has been ended", file=sys.stderr)
        return 130


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(*arguments: str) -> list[str]:
    """A command line for a module of this repository, in this virtual environment."""
    return [sys.executable, "-m", *arguments]


def say(text: str) -> None:
    """Progress, for people; results go to stdout."""
    print(f"benchmark: {text}", file=sys.stderr, flush=True)

"""From a bare clone to an installed virtual environment; a second run sees that and does nothing.

Run by tools/setup.sh with the system's Python, so: standard library only. `setup.py serve` installs what serves,
`setup.py dev` what checks and tests besides. FARTHING_SET=cpu|gpu overrides what the machine looks like.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / ".farthing"
LOG = VENV / "setup.log"
TORCH = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_GB = {"cpu": 6, "gpu": 16}
HEARTBEAT_S = 10.0


class SetupError(Exception):
    """Said in words, with what to do."""


def main(what: str) -> int:
    kind = machine_set()
    steps = missing(kind, what)
    if not steps:
        return 0
    with (ROOT / ".setup.lock").open("w") as lock:
        wait_for(lock)
        steps = missing(kind, what)  # another set-up may have done it meanwhile
        for number, step in enumerate(steps, 1):
            run_step(step, kind, f"[{number}/{len(steps)}]")
    return 0


def machine_set() -> str:
    """`gpu` where an NVIDIA driver answers, else `cpu`."""
    chosen = os.environ.get("FARTHING_SET", "")
    if chosen in ("cpu", "gpu"):
        return chosen
    if chosen:
        raise SetupError(f"FARTHING_SET={chosen}: use cpu or gpu")
    try:
        found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "gpu" if found.returncode == 0 and b"GPU" in found.stdout else "cpu"


def missing(kind: str, what: str) -> list[str]:
    """The steps not yet done for this Python and these locks, in order."""
    steps = ["venv", *(["torch"] if kind == "cpu" else []), kind, *(["dev"] if what == "dev" else [])]
    todo = [step for step in steps if not done(step)]
    return steps if "venv" in todo else todo


def fingerprint(step: str) -> str:
    lock = ROOT / "requirements" / f"{step}.txt"
    parts = [platform.python_version(), TORCH, lock.read_text() if lock.exists() else ""]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def done(step: str) -> bool:
    stamp = STAMPS / step
    return stamp.is_file() and stamp.read_text() == fingerprint(step)


def run_step(step: str, kind: str, label: str) -> None:
    began_s = time.monotonic()
    if step == "venv":
        say(f"{label} making .venv with Python {platform.python_version()} for the {kind} set")
        make_venv(kind)
    elif step == "torch":
        say(f"{label} installing torch {TORCH} for the CPU (about 200 MB)")
        install_torch()
    else:
        count = sum("==" in line for line in (ROOT / "requirements" / f"{step}.txt").read_text().splitlines())
        say(f"{label} installing {count} pinned packages ({step}); the first time this downloads them")
        pip(["--require-hashes", "-r", str(ROOT / "requirements" / f"{step}.txt")])
    STAMPS.mkdir(parents=True, exist_ok=True)
    draft = STAMPS / f"{step}.draft"
    draft.write_text(fingerprint(step))
    draft.replace(STAMPS / step)  # last, so that what was cut off is done again
    say(f"{label} done in {time.monotonic() - began_s:.0f} s")


def make_venv(kind: str) -> None:
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < NEEDED_GB[kind]:
        raise SetupError(f"the {kind} set needs about {NEEDED_GB[kind]} GB of disk, {free_gb:.1f} GB are free here")
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        hint = f"on Debian or Ubuntu: apt-get install python{version}-venv"
        raise SetupError(f"cannot make a virtual environment ({hint}): {(made.stdout + made.stderr).strip()[-300:]}")


def install_torch() -> None:
    """The CPU build: from the PyTorch project's own CPU index, else from wherever pip is set to look.

    The default index carries the CUDA build, several GB of it; a machine with the CPU wheel at hand is told by its pip
    settings. What came is checked by its metadata.
    """
    quick = ["--index-url", TORCH_CPU_INDEX, "--retries", "0", "--timeout", "15"]
    try:
        pip([*quick, f"torch=={TORCH}+cpu"])
    except SetupError:
        say("      the PyTorch CPU index cannot be reached; trying pip's own settings")
        pip([f"torch=={TORCH}"])
    builds = list(VENV.glob(f"lib/python*/site-packages/torch-{TORCH}*.dist-info"))
    if not any("+cpu" in build.name for build in builds):
        say("      warning: this is not torch's CPU build; it works, but takes several GB more")


def pip(arguments: list[str]) -> None:
    """Install without resolving: the locks are whole. Raises SetupError with the end of pip's own words."""
    command = [str(VENV / "bin" / "pip"), "install", "--no-deps", "--disable-pip-version-check", *arguments]
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        began_s = told_s = time.monotonic()
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - told_s > HEARTBEAT_S:
                    told_s = time.monotonic()
                    say(f"      {told_s - began_s:.0f} s: {doing()}")
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-15:])
        raise SetupError(f"pip failed; the end of .venv/setup.log:\n{tail}\nMend it (network, disk) and run it again.")


def doing() -> str:
    """What pip did last, in one line."""
    lines = [line.strip() for line in LOG.read_text(errors="replace").splitlines() if line.strip()]
    useful = [line for line in lines[-60:] if line.startswith(("Collecting", "Downloading", "Installing", "Using"))]
    return (useful or ["working"])[-1][:90]


def wait_for(lock: object) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
    except OSError:
        say("another set-up is running here; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)  # type: ignore[arg-type]


def say(text: str) -> None:
    print(f"farthing: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "serve"))
    except SetupError as error:
        say(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        say("interrupted; run it again to go on")
        sys.exit(130)

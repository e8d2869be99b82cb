"""LiteLLM's proxy as a contender: installed from a lock with hashes into a virtual environment of its own.

One worker, its own key required, no database, cost table from the package. `litellm.in` and `litellm.txt` pin it; the
lock is resolved for CPython 3.11.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.child import BenchmarkError, Nursery, free_port, say

LOCK = Path(__file__).with_name("litellm.txt")
VENV = Path(__file__).resolve().parent.parent / ".venv-litellm"
STAMP = VENV / ".farthing"
HEARTBEAT_S = 10.0
START_LIMIT_S = 180.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    v1: str
    key: str


def version() -> str:
    line = next(line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("litellm=="))
    return line.partition("==")[2].split()[0]


def install(folder: Path) -> None:
    """Once for each lock and Python; `folder` takes pip's log. Raises BenchmarkError with pip's last words."""
    wanted = hashlib.sha256(f"{sys.version}\n{LOCK.read_text(encoding='utf-8')}".encode()).hexdigest()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    count = LOCK.read_text(encoding="utf-8").count("==")
    say(f"installing LiteLLM {version()} and what it needs ({count} packages) into {VENV.name}; once")
    shutil.rmtree(VENV, ignore_errors=True)
    log = folder / "install.log"
    _run([sys.executable, "-m", "venv", str(VENV)], log)
    pip = [str(VENV / "bin" / "pip"), "install", "--no-deps", "--disable-pip-version-check"]
    _run([*pip, "--require-hashes", "-r", str(LOCK)], log)
    STAMP.write_text(wanted, encoding="utf-8")  # last, so that what was cut off is done again


def _run(command: list[str], log: Path) -> None:
    """With a line every ten seconds that says what it is at."""
    began_s = told_s = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - told_s > HEARTBEAT_S:
                    told_s = time.monotonic()
                    say(f"  {told_s - began_s:.0f} s: {_last_line(log)}")
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise BenchmarkError(f"installing LiteLLM failed; pip's last words:\n{tail}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    useful = [line.strip() for line in lines if line.startswith(("Collecting", "Downloading", "Installing"))]
    return (useful or ["working"])[-1][:90]


@contextlib.contextmanager
def running(nursery: Nursery, upstream_v1: str, model: str) -> Iterator[Proxy]:
    """The proxy in front of `upstream_v1`, ready to answer as `model`."""
    with configured(nursery, {"model_list": [upstream(model, upstream_v1, model)]}) as proxy:
        yield proxy


def upstream(name: str, v1: str, model: str) -> dict[str, Any]:
    """An entry of its `model_list`: one deployment of `model`, asked for as `name`."""
    return {"model_name": name, "litellm_params": {"model": f"openai/{model}", "api_base": v1, "api_key": "unused"}}


@contextlib.contextmanager
def configured(nursery: Nursery, settings: Mapping[str, Any]) -> Iterator[Proxy]:
    """The proxy with this configuration file, ready."""
    config = nursery.folder / "litellm.yaml"
    config.write_text(yaml.safe_dump(dict(settings)), "utf-8")
    key = f"sk-{secrets.token_urlsafe(24)}"
    environ = {
        "LITELLM_MASTER_KEY": key,  # makes keys required
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches its prices at every start
        "LITELLM_LOG": "ERROR",
        "NO_PROXY": "*",
    }
    port = free_port()
    command = [str(VENV / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with nursery.child("litellm", [*command, "--num_workers", "1"], environ) as child:
        child.wait_for_port(port, START_LIMIT_S)
        yield Proxy(f"http://127.0.0.1:{port}/v1", key)

"""The whole service as a black box: a configuration made for one run, its command line, its port. Knows no insides."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from benchmarks.child import ROOT, BenchmarkError, Child, Nursery, free_port, python

START_LIMIT_S = 900.0
LEDGER_LIMIT_S = 30.0
KEY_LIMIT_S = 30.0
TENANT = "benchmark"
READY = "ready http"  # weights may be "ready in" some folder before
SCRIPTED_PRICE = {  # of the scripted upstream; not zero, so that the ledger has something to price
    "input_usd_per_mtok": 0.10,
    "output_usd_per_mtok": 0.40,
    "as_of": "2026-11-26",
    "source": "invented for the benchmark: the scripted upstream costs nothing",
}


@dataclass(frozen=True, slots=True)
class Service:
    """A running service. `key` is one of its own, `url` ends with the port."""

    url: str
    key: str
    config: Path
    state: Path
    child: Child

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    def engine_v1(self, tier: str) -> str:
        return f"{self.url}/engine/{tier}/v1"

    def engine_token(self) -> str:
        return (self.state / "run" / "engine.token").read_text(encoding="utf-8").strip()

    def ledger_requests(self) -> int:
        """How many rows the ledger has."""
        report = json.loads(_serving(self.config, "costs", "--since", "1d", "--json"))
        return int(report["total"]["requests"])

    def add_key(self, tenant: str, *options: str) -> str:
        """A key of its own for a tenant, in force; `options` are those of `serving keys add`. Raises BenchmarkError."""
        key = _serving(self.config, "keys", "add", "--tenant", tenant, *options).strip()
        end_s = time.monotonic() + KEY_LIMIT_S
        while not self._knows(key):
            if time.monotonic() > end_s:
                raise BenchmarkError(f"the service does not know a new key after {KEY_LIMIT_S:g} s")
            time.sleep(0.2)
        return key

    def _knows(self, key: str) -> bool:
        asked = urllib.request.Request(f"{self.v1}/models", headers={"authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(asked, timeout=KEY_LIMIT_S):
                return True
        except urllib.error.HTTPError as exc:
            if exc.code != HTTPStatus.UNAUTHORIZED:
                raise BenchmarkError(f"the service answers /v1/models with {exc.code}") from exc
            return False

    def ledger_rows(self, tenant: str, count: int, limit_s: float = LEDGER_LIMIT_S) -> list[dict[str, Any]]:
        """A tenant's rows as `serving export` gives them. Raises BenchmarkError when there are not so many in time."""
        end_s = time.monotonic() + limit_s
        while True:
            lines = _serving(self.config, "export", "--tenant", tenant).splitlines()
            if len(lines) >= count:
                return [json.loads(line) for line in lines]
            if time.monotonic() > end_s:
                raise BenchmarkError(f"the ledger has {len(lines)} rows of '{tenant}', {count} requests were sent")
            time.sleep(1.0)


def configuration(tiers: list[dict[str, Any]], prices: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything on that a production service has on: keys, journal, ledger, metrics, cache. One gateway replica."""
    return {
        "listen": {"host": "127.0.0.1", "port": free_port()},
        "auth": {"required": True},
        "tiers": tiers,
        "prices": dict(prices or {}),
        "gateway": {"replicas": 1},
    }


@contextlib.contextmanager
def running(nursery: Nursery, config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Iterator[Service]:
    """From a configuration to a ready service, and back to nothing. Its state lies in the nursery's folder."""
    state = Path(tempfile.mkdtemp(prefix="state-", dir=nursery.folder))
    path = state.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**config, "state_dir": str(state)}), encoding="utf-8")
    key = _serving(path, "keys", "add", "--tenant", TENANT).strip()
    with nursery.child("service", python("serving", "run", "--config", str(path)), environ) as child:
        url = "http" + child.wait_for_line(READY, START_LIMIT_S).split()[0]
        yield Service(url, key, path, state, child)


def _serving(config: Path, command: str, *arguments: str) -> str:
    """One of the service's own commands. Raises BenchmarkError with its words."""
    line = python("serving", command, "--config", str(config), *arguments)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"`serving {command}` failed: {done.stderr.strip()}")
    return done.stdout

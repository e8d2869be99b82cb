"""A Ray cluster of nodes on a LAN of network namespaces, with our service on it. Engines are scripted ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.stack.conftest import ROOT, START_LIMIT_S, exported, until
from tests.stack.lan import Lan, Machine, lan

PORT, ADMIN_PORT = 8000, 9100
WORKER_PORTS = range(10002, 20000)
ENVIRON = {
    **os.environ,
    "FARTHING_ENGINE_MODULE": "benchmarks.scripted_engine",
    "A_PROVIDERS_API_KEY": "sk-stays-out",
    # Ray's own: how soon a node that does not answer counts as gone (half a minute as it comes)
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
LOAD = textwrap.dedent("""
    # Sends argv[3] requests, 16 at a time, to the urls in turn; says "half" in the middle, then of each
    # [url, status, what was wrong, its id].
    import asyncio, json, sys, aiohttp
    urls, key, count = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3])
    async def one(http, gate, number, word):
        async with gate:
            if number == count // 2: print("half", flush=True)
            url = urls[number // 2 % len(urls)]
            body = {"model": "small", "max_tokens": 40, "stream": bool(number % 2),
                    "messages": [{"role": "user", "content": f"{word} {number}"}]}
            try:
                async with http.post(url + "/v1/chat/completions", json=body) as response:
                    text = await response.text()
                    whole = "[DONE]" in text if number % 2 else "choices" in text
                    cut = bool(number % 2) and '"content"' in text and not whole
                    wrong = "" if whole else "cut" if cut else text[:300]
                    return [url, response.status, wrong, response.headers.get("x-request-id")]
            except aiohttp.ClientError as error:
                return [url, 0, repr(error), None]
    async def main():
        gate = asyncio.Semaphore(16)
        async with aiohttp.ClientSession(headers={"authorization": "Bearer " + key}) as http:
            print(json.dumps(await asyncio.gather(*(one(http, gate, n, sys.argv[4]) for n in range(count)))))
    asyncio.run(main())
""")


class Answer(NamedTuple):
    url: str
    status: int
    wrong: str  # empty when all is well
    request_id: str | None

    @property
    def well(self) -> bool:
        return self.status == 200 and not self.wrong


@dataclass
class Nodes:
    """The cluster: machines, the first being the head with the service on it, the last joining late."""

    net: Lan
    folder: Path
    key: str
    service: Any = None

    @property
    def head(self) -> Machine:
        return self.net.machines[0]

    @property
    def url(self) -> str:
        return f"http://{self.head.address}:{PORT}"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def start(self, machine: Machine, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return machine.start([sys.executable, *command], log, ROOT, ENVIRON)

    def serve(self, name: str) -> None:
        config = str(self.folder / "config.yaml")
        started = self.start(self.head, name, "-m", "serving", "run", "--config", config)
        until(lambda: "ready http" in self.log(name) or started.poll() is not None, START_LIMIT_S, "ready")
        assert started.poll() is None, self.log(name)
        self.service = started

    def start_node(self, number: int) -> None:
        machine = self.net.machines[number]
        role = ["--head", "--ip", machine.address] if number == 0 else ["--join", f"{self.head.address}:6379"]
        own = [f"--temp-dir={self.folder}/r{number}", "--object-store-memory=100000000"]
        self.start(machine, f"node{number}", "-m", "serving", "node", *role, *self.token, "--", *own)

    @property
    def token(self) -> list[str]:
        return ["--token-file", str(self.folder / "token")]

    def shown(self, name: str) -> dict[str, str]:
        """The environment of somebody who has this token, or none."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / name)} if name else {}

    def up(self, number: int) -> bool:
        return "block forever" in self.log(f"node{number}")

    def on_head(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.head.wrapped(list(command)),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**ENVIRON, **environ},
            timeout=60,
        )

    def get(self, path: str) -> str:
        return self.on_head("curl", "-sS", "-m", "10", self.url + path).stdout

    def engines(self) -> set[str]:
        """Addresses of the machines whose engines are in the pool."""
        listed = json.loads((self.folder / "state" / "run" / "engines.json").read_text())["members"]
        return {member["url"].split("/")[2].split(":")[0] for member in listed}

    def failed_calls(self) -> dict[tuple[str, str], int]:
        """(backend, why) → calls that failed, asked again or not."""
        shown = self.on_head("curl", "-sS", f"http://127.0.0.1:{ADMIN_PORT}/metrics").stdout
        samples = [s for family in text_string_to_metric_families(shown) for s in family.samples]
        counted = [s for s in samples if s.name == "farthing_upstream_errors_total"]
        return {(s.labels["backend"], s.labels["code"]): int(s.value) for s in counted}

    def add_key(self, *more: str) -> str:
        add = [sys.executable, "-m", "serving", "keys", "add", "--tenant", "test"]
        command = [*add, *more, "--config", str(self.folder / "config.yaml")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    def rows(self) -> list[dict[str, Any]]:
        return exported(self.folder / "config.yaml")

    def load(self, count: int, word: str, during: Callable[[], Any], *machines: Machine) -> list[Answer]:
        """Send `count` requests from the head to the machines in turn (to the head alone if none is named), and do
        `during()` in the middle of them."""
        urls = ",".join(f"http://{machine.address}:{PORT}" for machine in machines or (self.head,))
        command = self.head.wrapped([sys.executable, "-c", LOAD, urls, self.key, str(count), word])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as sender:
            assert sender.stdout is not None and sender.stdout.readline() == "half\n"
            during()
            return [Answer(*found) for found in json.loads(sender.stdout.read())]


def configuration(folder: Path, head: str) -> dict[str, Any]:
    (folder / "weights").mkdir()
    engine = {
        "kind": "engine",
        "profile": "embedded",
        "weights": str(folder / "weights"),
        "replicas": 2,
        "gpus": 0,
        "args": {"scripted-ttft-ms": 100, "scripted-itl-ms": 10},
    }
    return {
        "listen": {"host": head, "port": PORT, "admin_port": ADMIN_PORT},
        "state_dir": str(folder / "state"),
        "ray": {"address": f"{head}:6379", "token_file": str(folder / "token")},
        "tiers": [{"name": "small", "backends": [engine]}],
    }


@contextlib.contextmanager
def cluster(count: int, **more: Any) -> Iterator[Nodes]:
    """`count` machines, nodes on all but the last, the service on the first."""
    folder = Path(tempfile.mkdtemp(prefix="fn"))  # short: Ray's sockets lie below it
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            net = stack.enter_context(lan(count))
        except PermissionError as error:
            pytest.skip(str(error))
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({**configuration(folder, net.machines[0].address), **more}))
        found = Nodes(net, folder, "")
        found.key = found.add_key()
        found.start_node(0)
        until(lambda: found.up(0), START_LIMIT_S, "the head")
        for number in range(1, count - 1):
            found.start_node(number)
        until(lambda: all(found.up(number) for number in range(1, count - 1)), START_LIMIT_S, "the other nodes")
        found.serve("first")
        yield found

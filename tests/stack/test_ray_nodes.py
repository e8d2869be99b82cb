"""A Ray cluster of nodes in network namespaces: one killed under load, one unplugged, one joining.

Needs root and network namespaces, nothing else: the engines are scripted ones, so that what is tested is the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.stack.conftest import ROOT, until
from tests.stack.lan import Lan, Machine, lan

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]
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
    # Sends argv[3] requests, 16 at a time; says "half" in the middle, then [status, what was wrong] of each.
    import asyncio, json, sys, aiohttp
    url, key, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    async def one(http, gate, number, word):
        async with gate:
            if number == count // 2: print("half", flush=True)
            body = {"model": "small", "max_tokens": 40, "stream": bool(number % 2),
                    "messages": [{"role": "user", "content": f"{word} {number}"}]}
            try:
                async with http.post(url + "/v1/chat/completions", json=body) as response:
                    text = await response.text()
                    whole = "[DONE]" in text if number % 2 else "choices" in text
                    cut = bool(number % 2) and '"content"' in text and not whole
                    return [response.status, "" if whole else "cut" if cut else text[:300]]
            except aiohttp.ClientError as error:
                return [0, repr(error)]
    async def main():
        gate = asyncio.Semaphore(16)
        async with aiohttp.ClientSession(headers={"authorization": "Bearer " + key}) as http:
            print(json.dumps(await asyncio.gather(*(one(http, gate, n, sys.argv[4]) for n in range(count)))))
    asyncio.run(main())
""")
OTHERS = textwrap.dedent("""
    # Somebody else's application in the same cluster.
    import sys, ray
    from ray import serve
    @serve.deployment
    class Hello:
        async def __call__(self, request): return "hello from another application"
    ray.init(sys.argv[1], log_to_driver=False)
    serve.run(Hello.bind(), name="theirs", route_prefix="/theirs")
""")


@dataclass
class Nodes:
    """The cluster: machines, the first being the head with the service on it, the last joining late."""

    net: Lan
    folder: Path
    key: str
    service: Any = None
    leftovers: list[str] = field(default_factory=list)  # HAProxy's folders, which outlive a service that is killed

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
        until(lambda: "ready http" in self.log(name) or started.poll() is not None, 120, "ready")
        assert started.poll() is None, self.log(name)
        self.service = started
        lines = [" ".join(p.cmdline()) for p in self.head.inhabitants() if p.name() == "haproxy"]
        self.leftovers += [found[0] for line in lines if (found := re.search(r"/\S*/farthing-[^/\s]+", line))]

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

    def rows(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "serving", "export", "--config", str(self.folder / "config.yaml")]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return [json.loads(line) for line in out.splitlines()]

    def load(self, count: int, word: str, during: Any) -> list[tuple[int, str]]:
        """Send `count` requests and do `during()` in the middle of them."""
        command = self.head.wrapped([sys.executable, "-c", LOAD, self.url, self.key, str(count), word])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as sender:
            assert sender.stdout is not None and sender.stdout.readline() == "half\n"
            during()
            return [(status, wrong) for status, wrong in json.loads(sender.stdout.read())]


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


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="fn"))  # short: Ray's sockets lie below it
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            net = stack.enter_context(lan(4))
        except PermissionError as error:
            pytest.skip(str(error))
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(configuration(folder, net.machines[0].address)))
        add = [sys.executable, "-m", "serving", "keys", "add", "--tenant", "test", "--config", str(config)]
        key = subprocess.run(add, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        cluster = Nodes(net, folder, key)
        cluster.start_node(0)
        until(lambda: cluster.up(0), 60, "the head")
        for number in (1, 2):
            cluster.start_node(number)
        until(lambda: cluster.up(1) and cluster.up(2), 60, "the other nodes")
        cluster.serve("first")
        yield cluster
        for path in cluster.leftovers:
            shutil.rmtree(path, ignore_errors=True)


def test_engines_are_on_nodes_of_their_own_and_the_rest_on_the_head(nodes: Nodes) -> None:
    assert len(nodes.engines()) == 2
    titles = {m.address: " ".join(" ".join(p.cmdline()) for p in m.inhabitants()) for m in nodes.net.machines}
    assert {a for a, text in titles.items() if "ServeReplica:engine:Engine" in text} == nodes.engines()
    assert {a for a, text in titles.items() if "ServeReplica:gateway" in text} == {nodes.head.address}


def test_no_token_no_cluster_and_no_key_reaches_a_node(nodes: Nodes) -> None:
    knock = f"from ray._raylet import GcsClient as C; print(C('{nodes.head.address}:6379').internal_kv_keys(b'', None))"
    (nodes.folder / "wrong").write_text("0" * 64)
    answers = [nodes.on_head(sys.executable, "-c", knock, **nodes.shown(name)) for name in ("token", "wrong", "")]
    assert [bool(answer.returncode) for answer in answers] == [False, True, True], answers
    assert all("uthenticat" in answer.stderr for answer in answers[1:]), answers
    for machine in nodes.net.machines:
        for process in machine.inhabitants():
            started_here = process.ppid() == os.getpid()  # what the operator's shell gave it
            assert started_here or "A_PROVIDERS_API_KEY" not in process.environ(), process.cmdline()


def test_what_ray_serve_would_open_to_all_listens_on_the_nodes_own_address(nodes: Nodes) -> None:
    """On every interface are only the ports of Ray's workers, which ask for the token."""
    for machine in nodes.net.machines[:3]:
        replicas = {p.pid for p in machine.inhabitants() if "ServeReplica" in " ".join(p.cmdline())}
        held = [(address, port) for address, port, pid in machine.listening() if pid in replicas]
        assert held or machine.address not in nodes.engines() | {nodes.head.address}
        wide = {port for address, port in held if machine.address not in address and address != "127.0.0.1"}
        assert all(port in WORKER_PORTS for port in wide), held
    assert 8265 not in {port for _, port, _ in nodes.head.listening()}, "the dashboard"


def test_a_killed_node_loses_no_request_that_can_be_retried(nodes: Nodes) -> None:
    victim = lost_machine(nodes)
    before = len(nodes.rows())
    answers = nodes.load(240, "kill", victim.kill)
    check(answers)
    check_rows(nodes, before, len(answers), victim.address)
    others = {machine.address for machine in nodes.net.machines[:3]} - {victim.address}
    until(lambda: nodes.engines() == others, 60, "the replica on the node that is left")


def test_a_node_whose_cable_is_pulled_loses_none_either(nodes: Nodes) -> None:
    """No connection is closed: packets just vanish."""
    victim = lost_machine(nodes)
    before = len(nodes.rows())
    answers = nodes.load(240, "pull", lambda: nodes.net.unplug(victim))
    check(answers)
    check_rows(nodes, before, len(answers), victim.address)
    until(lambda: nodes.engines() == {nodes.head.address}, 60, "the lost engine to be taken out")


def test_a_node_that_joins_takes_the_engine_that_waits_for_room(nodes: Nodes) -> None:
    nodes.start_node(3)
    until(lambda: nodes.up(3), 60, "the new node")
    until(lambda: nodes.engines() == {nodes.head.address, nodes.net.machines[3].address}, 60, "its engine")
    check(nodes.load(40, "join", lambda: None))


def lost_machine(nodes: Nodes) -> Machine:
    """A node that is not the head and has an engine."""
    return next(m for m in nodes.net.machines[1:] if m.address in nodes.engines())


def check(answers: list[tuple[int, str]]) -> None:
    """All answered, but for streams that were cut after their first token: those nobody can retry."""
    wrong = [(number % 2, *answer) for number, answer in enumerate(answers) if answer != (200, "")]
    print(f"{len(answers)} requests, {len(wrong)} of them streams that were cut")
    assert all(streamed and what == "cut" for streamed, _, what in wrong), wrong
    assert len(wrong) <= 16, wrong


def test_a_killed_service_goes_on_answering_and_the_next_takes_its_place(nodes: Nodes) -> None:
    nodes.service.kill()
    nodes.service.wait(10)
    check(nodes.load(20, "driverless", lambda: None))
    nodes.serve("second")
    assert "ending what a killed instance left" in nodes.log("second")
    check(nodes.load(20, "again", lambda: None))


def check_rows(nodes: Nodes, before: int, sent: int, victim: str) -> None:
    """A row for each request, and calls that failed: the blow did fall while some were under way."""
    until(lambda: len(nodes.rows()) == before + sent, 20, "a row for each request")
    failed = nodes.failed_calls()
    print(f"calls that failed so far: {failed}")
    assert any(victim in backend for backend, _ in failed), failed


def test_stopping_the_service_leaves_the_cluster_and_others_applications(nodes: Nodes) -> None:
    theirs = nodes.on_head(sys.executable, "-c", OTHERS, f"{nodes.head.address}:6379", **nodes.shown("token"))
    assert theirs.returncode == 0, theirs.stderr
    again = nodes.on_head(sys.executable, "-m", "serving", "run", "--config", str(nodes.folder / "config.yaml"))
    assert again.returncode == 2 and f"in use by process {nodes.service.pid}" in again.stderr
    nodes.service.send_signal(signal.SIGTERM)
    assert nodes.service.wait(60) == 0
    assert "the cluster goes on" in nodes.log("second")
    assert "hello from another application" in nodes.get("/theirs")
    titles = " ".join(" ".join(p.cmdline()) for p in nodes.head.inhabitants())
    assert "raylet" in titles and "ServeReplica:gateway" not in titles and "ServeReplica:engine" not in titles
    assert not list((nodes.folder / "state" / "run" / "secrets").glob("*"))

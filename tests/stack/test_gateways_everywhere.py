"""Gateways on every node of a Ray cluster: each address answers alike, and every request has one row, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stack.conftest import still, until
from tests.stack.lan import Machine
from tests.stack.ray_lan import ADMIN_PORT, PORT, Answer, Nodes, cluster

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster(4, gateway={"nodes": "every"}) as found:
        yield found


def test_every_address_answers_and_is_told(nodes: Nodes) -> None:
    ready = next(line for line in nodes.log("first").splitlines() if line.startswith("ready "))
    assert ready.split("(")[0].split()[1:] == [f"http://{machine.address}:{PORT}" for machine in nodes.net.machines[:3]]
    answers = sent(nodes, 120, "each", lambda: None, *nodes.net.machines[:3])
    assert all(answer.well for answer in answers), answers
    for machine in nodes.net.machines[1:3]:
        assert gateway_of(machine).is_running()
        shown = nodes_own(machine, "curl", "-sS", f"http://127.0.0.1:{ADMIN_PORT}/metrics")
        assert 'farthing_requests_total{reason="named",route="small",status="answered"} 40.0' in shown


def test_a_node_asks_its_own_gateway(nodes: Nodes) -> None:
    here, there = nodes.net.machines[1:3]
    before = own_requests(there)
    assert all(answer.well for answer in sent(nodes, 20, "own", lambda: None, here))
    assert own_requests(there) == before


def test_an_answer_that_one_node_stored_is_found_by_all(nodes: Nodes) -> None:
    """With -s it prints what that takes: docs/cluster.md has the figures."""
    load = ["-m", "benchmarks.load", "--model", "small", "--repeat", "--warmup", "5"]
    for machine in nodes.net.machines[:3]:
        for clients, count in (("1", "300"), ("16", "1200")):
            at = ["--url", f"http://{machine.address}:{PORT}/v1", "--clients", clients, "--count", count]
            expects = ["--expect-header", "x-farthing-cache=exact"] if machine is not nodes.head else []
            done = nodes.on_head(sys.executable, *load, *at, *expects, FARTHING_KEY=nodes.key)
            assert done.returncode == 0, done.stdout + done.stderr
            told = json.loads(done.stdout.splitlines()[-1])
            print(f"{machine.address}, {clients} callers: {told['rps']} req/s, {told['latency_ms']}")


def test_keys_limits_and_stored_answers_are_the_same_everywhere(nodes: Nodes) -> None:
    one, two, three = nodes.net.machines[:3]
    key = nodes.add_key("--requests-per-minute", "6")
    time.sleep(2)  # until every gateway has it
    body = {"model": "small", "max_tokens": 4, "messages": [{"role": "user", "content": "asked on two nodes"}]}
    shown = [ask(nodes, machine, key, "POST", "/v1/chat/completions", body) for machine in (two, three, one)]
    assert [("x-farthing-cache", kind) in shown[n] for n, kind in enumerate(("miss", "exact", "exact"))] == [True] * 3
    gone = ask(nodes, three, key, "DELETE", "/v1/farthing/cache?tenant=test")
    assert ("status", "200") in gone and json.loads(dict(gone)["body"])["deleted"] >= 1
    assert ("x-farthing-cache", "miss") in ask(nodes, two, key, "POST", "/v1/chat/completions", body)
    asked = dict(ask(nodes, two, key, "POST", "/v1/chat/completions", body))
    assert asked["x-farthing-cache"] == "exact"
    wrong = {"request_id": asked["x-request-id"], "good": False}
    assert json.loads(dict(ask(nodes, three, key, "POST", "/v1/farthing/feedback", wrong))["body"])["dropped"]
    codes = Counter(dict(ask(nodes, m, key, "POST", "/v1/chat/completions", body))["status"] for m in (one, two, three))
    assert codes == {"200": 1, "429": 2}
    assert ("status", "401") in ask(nodes, three, key + "x", "DELETE", "/v1/farthing/cache?tenant=test")


def test_a_killed_gateway_of_a_node_leaves_one_row_each(nodes: Nodes) -> None:
    machine = nodes.net.machines[1]
    before = {row["request_id"] for row in still(nodes.rows)}
    victim = gateway_of(machine)

    def blow() -> None:
        time.sleep(0.2)  # until those just sent have come to it
        victim.kill()

    answers = nodes.load(160, "gateway-killed", blow, machine)
    until(lambda: (settled(nodes, before, answers) or Counter())["lost"], 30, "what was under way to be lost")
    new = settled(nodes, before, answers)
    assert new is not None and sum(new.values()) <= len(answers)
    print(f"{len(answers)} requests, {sum(a.well for a in answers)} answered; rows: {dict(new)}")
    until(lambda: gateway_of(machine).is_running() and serves(nodes, machine), 60, "another one")
    check_once(nodes)


def test_a_killed_ledger_takes_up_where_it_was(nodes: Nodes) -> None:
    before = {row["request_id"] for row in nodes.rows()}
    (ledger,) = [p for p in nodes.head.inhabitants() if "ServeReplica:gateway:Ledger" in title(p)]
    answers = nodes.load(160, "ledger-killed", ledger.kill, *nodes.net.machines[1:3])
    assert all(answer.well for answer in answers), [answer for answer in answers if not answer.well]
    until(lambda: settled(nodes, before, answers) == {"answered": 160}, 40, "every row, none of them lost")
    check_once(nodes)


def test_a_killed_node_loses_no_row_once_it_is_back(nodes: Nodes) -> None:
    victim, other = nodes.net.machines[2], nodes.net.machines[1]
    before = {row["request_id"] for row in nodes.rows()}
    answers = nodes.load(240, "node-killed", victim.kill, victim, other)
    ours = [answer for answer in answers if victim.address not in answer.url]
    cut = [answer for answer in ours if not answer.well]
    assert all(answer.wrong == "cut" for answer in cut) and len(cut) <= 16, cut  # streams of its engine
    until(lambda: f"http://{victim.address}:{PORT}" not in told(nodes), 60, "the node to be listed no more")
    behind = {answer.request_id for answer in answers if answer.well} - {row["request_id"] for row in nodes.rows()}
    victims = [answer for answer in answers if victim.address in answer.url and answer.well]
    print(f"{len(victims)} answered by the node before it died, {len(behind)} of their rows still on it")
    nodes.start_node(2)
    until(lambda: nodes.up(2), 60, "the node")
    until(lambda: f"http://{victim.address}:{PORT}" in told(nodes), 90, "its gateway")
    new = until(lambda: settled(nodes, before, answers), 30, "the rows it still had")
    print(f"rows: {dict(new)}")
    check_once(nodes)
    assert sent(nodes, 20, "back", lambda: None, victim)


def test_a_node_that_joins_gets_a_gateway(nodes: Nodes) -> None:
    nodes.start_node(3)
    late = nodes.net.machines[3]
    until(lambda: f"http://{late.address}:{PORT}" in told(nodes), 90, "its gateway")
    assert all(answer.well for answer in sent(nodes, 20, "late", lambda: None, late))


def test_a_killed_service_goes_on_everywhere_and_the_next_takes_its_place(nodes: Nodes) -> None:
    nodes.service.kill()
    nodes.service.wait(10)
    assert all(answer.well for answer in sent(nodes, 20, "driverless", lambda: None, *nodes.net.machines[1:3]))
    nodes.serve("second")
    ready = next(line for line in nodes.log("second").splitlines() if line.startswith("ready "))
    assert all(machine.address in ready for machine in nodes.net.machines)
    assert all(answer.well for answer in sent(nodes, 40, "again", lambda: None, *nodes.net.machines))


def test_the_end_waits_for_requests_and_rows_of_every_node(nodes: Nodes) -> None:
    before = {row["request_id"] for row in nodes.rows()}
    machines = nodes.net.machines[1:3]
    answers = nodes.load(60, "end", lambda: nodes.service.send_signal(signal.SIGTERM), *machines)
    assert nodes.service.wait(60) == 0
    well = {answer.request_id for answer in answers if answer.well}
    rows = {row["request_id"]: row["status"] for row in nodes.rows() if row["request_id"] not in before}
    assert well and {rows[request_id] for request_id in well} == {"answered"} and "lost" not in rows.values()
    for machine in nodes.net.machines[1:]:
        own = state(nodes) / "nodes" / machine.address
        assert not (own / "run" / "engine.token").exists()
        left = [json.loads(line) for path in (own / "journal").glob("*") for line in path.read_text().splitlines()]
        assert {row["request_id"] for line in left for row in line.values()} <= {
            row["request_id"] for row in nodes.rows()
        }
    assert not list((state(nodes) / "journal").glob("*.jsonl"))
    check_once(nodes)


def state(nodes: Nodes) -> Path:
    return nodes.folder / "state"


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def gateway_of(machine: Machine) -> psutil.Process:
    (found,) = [p for p in machine.inhabitants() if "ServeReplica:gateway:Gateway" in title(p)]
    return found


def nodes_own(machine: Machine, *command: str) -> str:
    import subprocess

    return subprocess.run(machine.wrapped(list(command)), capture_output=True, text=True, timeout=20).stdout


def own_requests(machine: Machine) -> list[str]:
    shown = nodes_own(machine, "curl", "-sS", f"http://127.0.0.1:{ADMIN_PORT}/metrics")
    return [line for line in shown.splitlines() if line.startswith("farthing_requests_total")]


def told(nodes: Nodes) -> str:
    """What `serving run` said last of where gateways are."""
    return [line for line in nodes.log("first").splitlines() if "gateways: " in line][-1]


def serves(nodes: Nodes, machine: Machine) -> bool:
    return '"alive"' in nodes.on_head("curl", "-sS", "-m", "5", f"http://{machine.address}:{PORT}/health").stdout


def sent(nodes: Nodes, count: int, word: str, during: Callable[[], Any], *machines: Machine) -> list[Answer]:
    """Requests, all of which get a row of their own."""
    before = {row["request_id"] for row in nodes.rows()}
    answers = nodes.load(count, word, during, *machines)
    until(lambda: settled(nodes, before, answers) == {"answered": count}, 20, "a row for each request")
    return answers


def settled(nodes: Nodes, before: set[str], answers: Sequence[Answer]) -> Counter[str] | None:
    """New rows by status, once all that was answered is among them and nothing is open."""
    rows = {row["request_id"]: row["status"] for row in nodes.rows() if row["request_id"] not in before}
    well = {answer.request_id for answer in answers if answer.well}
    return Counter(rows.values()) if {i for i, status in rows.items() if status == "answered"} >= well else None


def check_once(nodes: Nodes) -> None:
    assert max(Counter(row["request_id"] for row in nodes.rows()).values()) == 1


ASK = """
import http.client, json, sys
at, key, method, path, body = sys.argv[1:]
connection = http.client.HTTPConnection(at, timeout=20)
connection.request(method, path, body or None, {"authorization": "Bearer " + key, "content-type": "application/json"})
answer = connection.getresponse()
print(json.dumps([["status", str(answer.status)], *answer.getheaders(), ["body", answer.read().decode()]]))
"""


def ask(nodes: Nodes, machine: Machine, key: str, method: str, path: str, body: Any = None) -> list[tuple[str, str]]:
    said = "" if body is None else json.dumps(body)
    done = nodes.on_head(sys.executable, "-c", ASK, f"{machine.address}:{PORT}", key, method, path, said)
    assert done.returncode == 0, done.stderr
    return [(name, value) for name, value in json.loads(done.stdout)]

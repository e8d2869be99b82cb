"""A Ray cluster of nodes in network namespaces: one killed under load, one unplugged, one joining.

Needs root and network namespaces, nothing else: the engines are scripted ones, so that what is tested is the cluster.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.stack.conftest import until
from tests.stack.lan import Machine
from tests.stack.ray_lan import WORKER_PORTS, Answer, Nodes, cluster

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]
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


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster(4) as found:
        yield found


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


def check(answers: Sequence[Answer]) -> None:
    """All answered, but for streams that were cut after their first token: those nobody can retry."""
    wrong = [(number % 2, answer.status, answer.wrong) for number, answer in enumerate(answers) if not answer.well]
    print(f"{len(answers)} requests, {len(wrong)} of them streams that were cut")
    assert all(streamed and what == "cut" for streamed, _, what in wrong), wrong
    assert len(wrong) <= 16, wrong


def test_a_killed_service_goes_on_answering_and_the_next_takes_its_place(nodes: Nodes) -> None:
    left = list(Path(tempfile.gettempdir()).glob(f"fh-{nodes.service.pid}-*"))
    nodes.service.kill()
    nodes.service.wait(10)
    check(nodes.load(20, "driverless", lambda: None))
    nodes.serve("second")
    assert "ending what a killed instance left" in nodes.log("second")
    assert left and not any(folder.exists() for folder in left), "HAProxy's files, which nobody else clears away"
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

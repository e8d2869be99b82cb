"""A node of a cluster: what must hold before Ray starts, and what the service asks of a cluster first."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from models.errors import ConfigError
from models.upstream.openai import make_session
from serving import node, ray_nodes
from serving.backends import build_tiers
from serving.config import Config, parse
from serving.engine_plan import plan_engine
from serving.ray_nodes import HEAD_RESOURCE, Needs, Roster, check, code_digest, lacking, needs, undone
from serving.runtime import Runtime
from serving.telemetry import GatewayMetrics

ENGINE = "tiers: [{name: small, backends: [{kind: engine, profile: embedded, gpus: 0}]}]\n"
CLUSTER = "ray: {address: '192.0.2.1:6379'}\n"


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    node.add_arguments(parser)
    return parser.parse_args(list(given))


def test_the_head_makes_a_token_that_only_its_user_can_read(tmp_path: Path) -> None:
    path = node.token_file(tmp_path / "below" / "token", make=True)
    assert path.stat().st_mode & 0o777 == 0o600 and len(path.read_text()) == 64
    before = path.read_text()
    assert node.token_file(path, make=True).read_text() == before


def test_a_node_without_the_token_or_with_one_that_others_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match="copy it from the head"):
        node.token_file(path, make=False)
    path.write_text("short")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        node.token_file(path, make=False)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="at least 32"):
        node.token_file(path, make=False)


def test_a_node_inherits_no_secret_and_asks_for_the_token(tmp_path: Path) -> None:
    found = node.environment(
        {"OPENAI_API_KEY": "sk", "HF_TOKEN": "hf", "PATH": "/bin"}, tmp_path / "token", "192.0.2.1"
    )
    assert not {"OPENAI_API_KEY", "HF_TOKEN"} & set(found)
    assert found["RAY_AUTH_MODE"] == "token" and found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(node.ROOT) and found["PATH"] == "/bin"


def test_the_line_that_starts_ray(tmp_path: Path) -> None:
    head = node.command(arguments("--head", "--ip", "192.0.2.1"))
    assert head[1:7] == ["-m", "ray.scripts.scripts", "start", "--head", "--port=6379", "--include-dashboard=false"]
    assert "--node-ip-address=192.0.2.1" in head and "--block" in head
    worker = node.command(arguments("--join", "127.0.0.1:6379", "--", "--num-gpus=2"))
    assert "--address=127.0.0.1:6379" in worker and "--node-ip-address=127.0.0.1" in worker
    assert worker[-1] == "--num-gpus=2" and "--head" not in worker


@pytest.mark.parametrize(
    ("given", "says"), [(["--head"], "needs --ip"), (["--join", "nowhere"], "not an address like")]
)
def test_what_is_missing_is_said(given: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        node.command(arguments(*given))


def cluster(text: str) -> Config:
    return parse(text + CLUSTER)


def test_nodes_may_differ_so_profile_and_gpus_are_named() -> None:
    check(cluster(ENGINE))
    for wrong in (ENGINE.replace(", gpus: 0", ""), ENGINE.replace("profile: embedded, ", "")):
        with pytest.raises(ConfigError, match=r"tiers\.small\.backends\.0"):
            check(cluster(wrong))
    with pytest.raises(ConfigError, match=r"serve\.haproxy"):
        check(cluster(ENGINE + "serve: {haproxy: false}\n"))


def test_a_node_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", *node.RAYLET):
        monkeypatch.delenv(name, raising=False)
    assert len(lacking(Needs(str(tmp_path / "no-weights"), "another"))) == 4
    for name, value in {**node.RAYLET, "RAY_AUTH_MODE": "token", "FARTHING_NODE_ADDRESS": "192.0.2.1"}.items():
        monkeypatch.setenv(name, value)
    assert lacking(Needs(str(tmp_path), code_digest())) == [] == lacking(Needs(None, code_digest()))
    (tmp_path / "a-file").touch()
    wants = Needs(None, code_digest(), (str(tmp_path), str(tmp_path / "artifacts")), str(tmp_path / "a-file" / "state"))
    assert [lack.split()[:2] for lack in lacking(wants)] == [["has", "no"], ["cannot", "keep"]]


def test_what_gateways_on_every_node_read_is_asked_for_there(tmp_path: Path) -> None:
    text = ENGINE + f"routing: {{decider: learned, artifacts: '{tmp_path}'}}\nstate_dir: {tmp_path / 'state'}\n"
    assert needs(cluster(text), None) == Needs(None, code_digest())
    every = "gateway: {nodes: every}\nlisten: {host: 0.0.0.0}\n"
    assert needs(cluster(text + every), None).paths == (str(tmp_path),)
    assert needs(cluster(text + every), None).state == str(tmp_path / "state")


def test_a_gateway_on_every_node_is_not_on_loopback() -> None:
    with pytest.raises(ConfigError, match=r"listen\.host"):
        check(cluster(ENGINE + "gateway: {nodes: every}\n"))
    check(cluster(ENGINE + "gateway: {nodes: every}\nlisten: {host: 192.0.2.1}\n"))


def test_an_end_waits_for_what_other_nodes_have_to_do(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path, "", metrics_in_service=False, clustered=True)
    runtime.run.mkdir()
    away = ["192.0.2.2", "192.0.2.3"]  # the head reports nothing: it is beside
    assert undone(runtime, []) == 0
    assert undone(runtime, away) == 2
    runtime.nodes_file.write_text('{"192.0.2.2": 0, "192.0.2.3": 17, "192.0.2.4": 5}')
    assert undone(runtime, away) == 17


@pytest.mark.parametrize("head_serves", [True, False])
def test_a_node_is_waited_for_whether_or_not_the_head_serves(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, head_serves: bool
) -> None:
    import ray
    from ray import serve
    from ray.serve import context
    from ray.serve.schema import ProxyStatus

    def machine(number: int, **resources: float) -> dict[str, Any]:
        address = f"192.0.2.{number}"
        return {"NodeID": str(number), "NodeManagerAddress": address, "Alive": True, "Resources": resources}

    alive = [machine(1, **{HEAD_RESOURCE: 1.0}), machine(2)]
    healthy = {n["NodeID"]: ProxyStatus.HEALTHY for n in (alive if head_serves else alive[1:])}
    monkeypatch.setattr(ray, "nodes", lambda: alive)
    monkeypatch.setattr(ray, "get", lambda *_, **__: None)
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(proxies=healthy))
    monkeypatch.setattr(context, "_get_global_client", MagicMock())
    monkeypatch.setattr(ray_nodes, "_replicas", lambda _: [("192.0.2.1", 1), ("192.0.2.2", 1)])
    roster = Roster(runtime, None, lambda _: None, 8000, 1)
    roster.look()
    assert roster.gateways == [f"http://192.0.2.{n}:8000" for n in ((1, 2) if head_serves else (2,))]
    assert roster.away == ["192.0.2.2"] and undone(runtime, roster.away) == 1


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    found = Runtime(tmp_path / "state", "http://192.0.2.1:8000", metrics_in_service=False, clustered=True)
    found.run.mkdir(parents=True)
    found.engine_token_file.write_text("token")
    return found


@pytest.mark.parametrize(("gpus", "device"), [(1, "--gpu-memory-utilization"), (0, "--kv-cache-memory-bytes")])
def test_what_an_engine_runs_on_is_what_the_file_says_and_not_what_the_head_has(
    runtime: Runtime, tmp_path: Path, gpus: int, device: str
) -> None:
    text = ENGINE.replace("gpus: 0", f"gpus: {gpus}, replicas: 3, weights: {tmp_path}")
    plan = plan_engine(cluster(text), runtime, lambda _: None)
    assert plan is not None and (plan.gpus, plan.replicas, plan.weights) == (gpus, 3, tmp_path)
    assert device in plan.flags


async def test_each_engine_of_a_cluster_is_a_member_of_its_tiers_pool(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cluster(ENGINE.replace("gpus: 0", f"gpus: 0, weights: {tmp_path}"))
    plan = plan_engine(config, runtime, lambda _: None)
    assert plan is not None
    said: list[str] = []
    roster = Roster(runtime, plan, said.append)
    engines = [("192.0.2.2", 30000), ("192.0.2.1", 30000)]
    monkeypatch.setattr("serving.ray_nodes._replicas", lambda _: list(engines))
    async with make_session() as session:
        built = build_tiers(config, runtime, session, GatewayMetrics())
        pool = built.tiers["small"].pool
        assert pool is not None and pool.backends == [] and len(built.members) == 1
        roster.look()
        built.members[0].look()
        assert [backend.name for backend in pool.backends] == ["small/192.0.2.1:30000", "small/192.0.2.2:30000"]
        del engines[1]
        roster.look()
        built.members[0].look()
        assert [backend.name for backend in pool.backends] == ["small/192.0.2.2:30000"]
        monkeypatch.setattr("serving.ray_nodes._replicas", lambda _: 1 / 0)  # the controller is away
        roster.look()
        roster.look()
        built.members[0].look()
        assert len(pool.backends) == 1
    assert len(said) == 3 and "cannot be asked" in said[-1]

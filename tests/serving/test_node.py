"""A node of a cluster: what must hold before Ray starts, and what the service asks of a cluster first."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from models.errors import ConfigError
from models.upstream.openai import make_session
from serving import node
from serving.backends import build_tiers
from serving.config import Config, parse
from serving.engine_plan import plan_engine
from serving.ray_nodes import Roster, check, code_digest, lacking
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
    found = node.environment({"OPENAI_API_KEY": "sk", "HF_TOKEN": "hf", "PATH": "/bin"}, tmp_path / "token")
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
    assert len(lacking(str(tmp_path / "no-weights"), "another")) == 4
    for name, value in {**node.RAYLET, "RAY_AUTH_MODE": "token"}.items():
        monkeypatch.setenv(name, value)
    assert lacking(str(tmp_path), code_digest()) == [] == lacking(None, code_digest())


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
    engines = ["http://192.0.2.1:30000/engine/small/v1", "http://192.0.2.2:30000/engine/small/v1"]
    monkeypatch.setattr(Roster, "_engines", lambda _: list(engines))
    async with make_session() as session:
        built = build_tiers(config, runtime, session, GatewayMetrics())
        pool = built.tiers["small"].pool
        assert pool is not None and pool.backends == [] and len(built.members) == 1
        roster.look()
        built.members[0].look()
        assert [backend.name for backend in pool.backends] == ["small/192.0.2.1:30000", "small/192.0.2.2:30000"]
        del engines[0]
        roster.look()
        built.members[0].look()
        assert [backend.name for backend in pool.backends] == ["small/192.0.2.2:30000"]
        monkeypatch.setattr(Roster, "_engines", lambda _: 1 / 0)  # the controller is away
        roster.look()
        roster.look()
        built.members[0].look()
        assert len(pool.backends) == 1
    assert len(said) == 3 and "cannot be asked" in said[-1]

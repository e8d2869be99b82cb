"""Running on a Ray cluster of several nodes that `python -m serving node` started: whether it will do, where its
engines are, and how to leave it as it was found.

Gateways, router and ledger stay on the head, beside their state; engines go wherever there is room. Knows Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from models.errors import ConfigError, StartError
from serving.config import Config
from serving.engine_plan import EnginePlan
from serving.node import RAYLET, ROOT, token_file, with_token
from serving.runtime import Runtime, engine_prefix

APPLICATIONS = frozenset({"gateway", "engine"})
ROOMS = ("models", "router", "serving")
HEAD_RESOURCE = "node:__internal_head__"
RECORD = "farthing-instance"
LOOK_LIMIT_S = 10.0
SURVEY_LIMIT_S = 60.0
Tell = Callable[[str], None]


def token_environment(config: Config) -> dict[str, str]:
    """What the driver needs to be let in. Raises ConfigError."""
    return with_token(token_file(config.ray.token_file, make=False))


def join(config: Config, plan: EnginePlan | None, for_all: Mapping[str, str], tell: Tell) -> str:
    """Connect this process; `for_all` is the environment of the service's processes on every node.

    Returns this node's address. Raises ConfigError or StartError with what is wrong with the cluster.
    """
    import ray

    try:
        ray.init(
            address=config.ray.address,
            runtime_env={"env_vars": dict(for_all)},
            log_to_driver=False,
            logging_level="error",
        )
    except Exception as exc:  # the edge to Ray, which raises bare Exceptions
        why = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise StartError(f"no Ray cluster at {config.ray.address} that takes the token: {why}") from exc
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    own = next(node for node in nodes if node["NodeID"] == here)
    if HEAD_RESOURCE not in own["Resources"]:
        raise ConfigError("run this on the head node: gateways and their state live there")
    _survey({node["NodeID"]: node["NodeManagerAddress"] for node in nodes}, plan)
    _make_room(tell)
    tell(f"{len(nodes)} nodes: {', '.join(sorted(node['NodeManagerAddress'] for node in nodes))}")
    return str(own["NodeManagerAddress"])


def _survey(nodes: Mapping[str, str], plan: EnginePlan | None) -> None:
    """Ask each node for what must be there. Raises StartError naming all that lack something."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    weights = None if plan is None else str(plan.weights)
    asked = {
        address: ray.remote(lacking)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(weights, code_digest())
        for node, address in nodes.items()
    }
    complaints = []
    for address, answer in asked.items():
        try:
            found = ray.get(answer, timeout=SURVEY_LIMIT_S)
        except Exception as exc:  # noqa: BLE001 - the edge to another machine, with another version of anything
            last = (str(exc).strip().splitlines() or [type(exc).__name__])[-1]
            found = [f"runs nothing of ours ({last}): start it with `python -m serving node` of this version"]
        complaints += [f"node {address} {lack}" for lack in found]
    if complaints:
        raise StartError("; ".join(complaints))


def code_digest() -> str:
    """Of this checkout's code: two nodes with the same run the same."""
    digest = hashlib.sha256()
    for path in sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def lacking(weights: str | None, code: str) -> list[str]:
    """What this node lacks, as the end of a sentence. Runs on every node."""
    missing = []
    if code_digest() != code:
        missing.append(f"has other code in {ROOT}: check out the same commit there, and start its node anew")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        missing.append("asks nobody for a token: whoever reaches its ports runs code there")
    if any(os.environ.get(name) != value for name, value in RAYLET.items()):
        missing.append("was not started by `python -m serving node`")
    if weights is not None and not Path(weights).is_dir():
        missing.append(f"has no weights in {weights}: prepare them there, at the same path")
    return missing


def _make_room(tell: Tell) -> None:
    """One instance a cluster. What a killed one left is ended. Raises ConfigError when Serve is somebody else's."""
    from ray import serve
    from ray.experimental import internal_kv
    from ray.serve.context import _get_global_client

    if _get_global_client(raise_if_no_controller_running=False) is not None:
        running = set(serve.status().applications)
        if not running or running - APPLICATIONS:
            names = ", ".join(sorted(running)) or "none yet"
            raise ConfigError(f"Ray Serve already runs in this cluster (applications: {names}); it can be of one only")
        pid = _instance()
        if pid and psutil.pid_exists(pid):
            raise ConfigError(f"process {pid} serves on this cluster already; stop it first")
        tell("ending what a killed instance left in the cluster")
        serve.shutdown()
    internal_kv._internal_kv_put(RECORD, str(os.getpid()))


def _instance() -> int:
    """The process whose applications run in the cluster, on the head; 0 for none."""
    from ray.experimental import internal_kv

    return int(internal_kv._internal_kv_get(RECORD) or 0)


@dataclass(slots=True)
class Roster:
    """Keeps the file that tells the gateways which engines there are (`serving/members.py`).

    Each engine is a member of its own, so that one that is lost opens its own breaker and no other's.
    """

    runtime: Runtime
    plan: EnginePlan
    tell: Tell
    _known: list[str] = field(default_factory=list)
    _trouble: str = ""

    def look(self) -> None:
        """Takes a few milliseconds. While the controller does not answer, what is known stays."""
        try:
            found = self._engines()
        except Exception as exc:  # noqa: BLE001 - the edge to Ray: its controller may be starting anew
            if self._trouble != type(exc).__name__:
                self._trouble = type(exc).__name__
                self.tell(f"where the engines are cannot be asked just now ({self._trouble})")
            return
        self._trouble = ""
        if found != self._known or not self.runtime.engines_file.exists():
            self._write(found)
            self._known = found
            self.tell(f"engines: {', '.join(found) or 'none'}")

    def _engines(self) -> list[str]:
        import ray
        from ray.serve._private.common import RequestProtocol
        from ray.serve.context import _get_global_client

        # The list that HAProxy is given; there is no public way to it while HAProxy is used.
        asked = _get_global_client()._controller.get_target_groups.remote("engine", True)
        prefix = engine_prefix(self.plan.tier)
        return sorted(
            f"http://{target.ip}:{target.port}{prefix}/v1"
            for group in ray.get(asked, timeout=LOOK_LIMIT_S)
            if group.app_name == "engine" and group.protocol == RequestProtocol.HTTP
            for target in group.targets
            if target.name.startswith("SERVE_REPLICA::")
        )

    def _write(self, urls: list[str]) -> None:
        key = str(self.runtime.engine_token_file)
        members = [{"url": url, "model": self.plan.model, "key_file": key} for url in urls]
        draft = self.runtime.engines_file.with_suffix(".draft")
        draft.write_text(json.dumps({"version": 1, "members": members}), encoding="utf-8")
        draft.replace(self.runtime.engines_file)


def leave() -> bool:
    """End our applications, and Serve with them unless it runs others' by now. The cluster goes on.

    Returns whether Serve, and with it HAProxy, has ended.
    """
    import ray
    from ray import serve
    from ray.experimental import internal_kv

    if not ray.is_initialized():
        return True
    if _instance() != os.getpid():  # never became this cluster's: what runs there is another's
        ray.shutdown()
        return True
    others = set(serve.status().applications) - APPLICATIONS
    if others:
        for name in APPLICATIONS & set(serve.status().applications):
            serve.delete(name)
    else:
        serve.shutdown()
    internal_kv._internal_kv_del(RECORD)
    ray.shutdown()
    return not others


def check(config: Config) -> None:
    """Before anything is started: what a cluster of nodes needs said. Raises ConfigError."""
    for tier in config.tiers:
        for index, backend in enumerate(tier.backends):
            where = f"tiers.{tier.name}.backends.{index}"
            if backend.kind == "engine" and (backend.profile == "auto" or backend.gpus is None):
                raise ConfigError(
                    f"{where}: nodes may differ, so name the profile, and give gpus: 1 for a GPU each, 0 for CPUs"
                )
    if config.serve.haproxy is False:
        raise ConfigError("serve.haproxy: engines on other nodes are reached only with it on")

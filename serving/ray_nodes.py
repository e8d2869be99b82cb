"""Running on a Ray cluster of several nodes that `python -m serving node` started: whether it will do, where its
engines and gateways are, and how to leave it as it was found.

Router and ledger stay on the head, beside their state, and gateways too unless every node is to have some; engines go
wherever there is room. Knows Ray.
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
from serving import haproxy
from serving.config import Config, HttpBackend
from serving.engine_plan import EnginePlan
from serving.node import RAYLET, ROOT, token_file, with_token
from serving.runtime import Runtime, engine_prefix

GATEWAY = "Gateway"
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
    _survey({node["NodeID"]: node["NodeManagerAddress"] for node in nodes}, needs(config, plan))
    _make_room(tell)
    tell(f"{len(nodes)} nodes: {', '.join(sorted(node['NodeManagerAddress'] for node in nodes))}")
    return str(own["NodeManagerAddress"])


def nodes() -> int:
    """How many are alive."""
    import ray

    return sum(node["Alive"] for node in ray.nodes())


@dataclass(frozen=True, slots=True)
class Needs:
    """What a node must have. `paths` are of files and folders that the configuration names; `state` is to be made."""

    weights: str | None = None
    code: str = ""
    paths: tuple[str, ...] = ()
    state: str | None = None


def needs(config: Config, plan: EnginePlan | None) -> Needs:
    weights = None if plan is None else str(plan.weights)
    if config.gateway.nodes == "head":
        return Needs(weights, code_digest())
    acts = config.routing.cascade.artifacts if config.routing.cascade.mode == "act" else None
    certificates = [b.ca_file for tier in config.tiers for b in tier.backends if isinstance(b, HttpBackend)]
    named = [path for path in (config.routing.artifacts, acts, *certificates) if path is not None]
    state = str(config.state_dir.resolve())
    return Needs(weights, code_digest(), tuple(str(path) for path in named), state)


def _survey(nodes: Mapping[str, str], needs: Needs) -> None:
    """Ask each node for what must be there. Raises StartError naming all that lack something."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {
        address: ray.remote(lacking)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(needs)
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
    for path in sorted(file for room in ROOMS for kind in ("*.py", "*.sh") for file in (ROOT / room).rglob(kind)):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def lacking(needs: Needs) -> list[str]:
    """What this node lacks, as the end of a sentence. Runs on every node."""
    haproxy.sweep()
    missing = []
    if code_digest() != needs.code:
        missing.append(f"has other code in {ROOT}: check out the same commit there, and start its node anew")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        missing.append("asks nobody for a token: whoever reaches its ports runs code there")
    ours = {**RAYLET, "FARTHING_NODE_ADDRESS": os.environ.get("FARTHING_NODE_ADDRESS", "?")}
    if any(os.environ.get(name) != value for name, value in ours.items()):
        missing.append("was not started by `python -m serving node`")
    if needs.weights is not None and not Path(needs.weights).is_dir():
        missing.append(f"has no weights in {needs.weights}: prepare them there, at the same path")
    absent = [path for path in needs.paths if not Path(path).exists()]
    missing += [f"has no {path}: its gateway reads it, at the same path" for path in absent]
    if needs.state is not None:
        try:
            Path(needs.state).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            missing.append(f"cannot keep journals in {needs.state}: {exc.strerror}")
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
    plan: EnginePlan | None
    tell: Tell
    port: int = 0
    per_node: int = 0  # gateways on every node; 0: they are all on the head, and nobody looks for them
    gateways: list[str] = field(default_factory=list)  # where one can be called, the head first
    away: list[str] = field(default_factory=list)  # addresses of those that are not the head
    _known: list[str] = field(default_factory=list)
    _trouble: str = ""
    _wanted: int = 0

    @property
    def watches(self) -> bool:
        return self.plan is not None or self.per_node > 0

    def look(self) -> None:
        """Takes a few milliseconds. While the controller does not answer, what is known stays."""
        try:
            if self.plan is not None:
                self._look_for_engines(self.plan)
            if self.per_node:
                self._look_for_gateways(self.per_node)
        except Exception as exc:  # noqa: BLE001 - the edge to Ray: its controller may be starting anew
            if self._trouble != type(exc).__name__:
                self._trouble = type(exc).__name__
                self.tell(f"where engines and gateways are cannot be asked just now ({self._trouble})")
            return
        self._trouble = ""

    def _look_for_engines(self, plan: EnginePlan) -> None:
        prefix = engine_prefix(plan.tier)
        found = sorted(f"http://{ip}:{port}{prefix}/v1" for ip, port in _replicas("engine"))
        if found != self._known or not self.runtime.engines_file.exists():
            self._write(plan, found)
            self._known = found
            self.tell(f"engines: {', '.join(found) or 'none'}")

    def _look_for_gateways(self, per_node: int) -> None:
        """A node is called where a gateway of its own runs behind a healthy proxy. As nodes join, gateways are asked
        for; a lost node's wait for it to come back."""
        import ray
        from ray import serve
        from ray.serve._private.common import DeploymentID
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ProxyStatus

        alive = [node for node in ray.nodes() if node["Alive"]]
        if (wanted := len(alive) * per_node) > self._wanted:
            name = DeploymentID(name=GATEWAY, app_name="gateway")
            asked = _get_global_client()._controller.update_deployment_replicas.remote(name, wanted)
            ray.get(asked, timeout=LOOK_LIMIT_S)
            self._wanted = wanted
        proxies = {node for node, status in serve.status().proxies.items() if status == ProxyStatus.HEALTHY}
        have = {ip for ip, _ in _replicas("gateway")}
        served = [n for n in alive if n["NodeID"] in proxies and n["NodeManagerAddress"] in have]
        self.away = [node["NodeManagerAddress"] for node in served if HEAD_RESOURCE not in node["Resources"]]
        served.sort(key=lambda node: (HEAD_RESOURCE not in node["Resources"], node["NodeManagerAddress"]))
        found = [f"http://{node['NodeManagerAddress']}:{self.port}" for node in served]
        if found != self.gateways:
            self.gateways = found
            self.tell(f"gateways: {', '.join(found) or 'none'}")

    def _write(self, plan: EnginePlan, urls: list[str]) -> None:
        key = str(self.runtime.engine_token_file)
        members = [{"url": url, "model": plan.model, "key_file": key} for url in urls]
        draft = self.runtime.engines_file.with_suffix(".draft")
        draft.write_text(json.dumps({"version": 1, "members": members}), encoding="utf-8")
        draft.replace(self.runtime.engines_file)


def _replicas(application: str) -> list[tuple[str, int]]:
    """Address and port of each that runs, as HAProxy is told; there is no public way to it while HAProxy is used."""
    import ray
    from ray.serve._private.common import RequestProtocol
    from ray.serve.context import _get_global_client

    asked = _get_global_client()._controller.get_target_groups.remote(application, True)
    return [
        (target.ip, target.port)
        for group in ray.get(asked, timeout=LOOK_LIMIT_S)
        if group.app_name == application and group.protocol == RequestProtocol.HTTP
        for target in group.targets
        if target.name.startswith("SERVE_REPLICA::")
    ]


def undone(runtime: Runtime, away: list[str]) -> float:
    """What gateways on other nodes have still to do while the service drains; a node that has not said so yet counts
    as one."""
    try:
        told = json.loads(runtime.nodes_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    return float(sum(told.get(address, 1.0) for address in away))


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
    if config.gateway.nodes == "every" and config.listen.loopback:
        raise ConfigError(
            "listen.host: with gateway.nodes `every` it is 0.0.0.0, or the head's address for each one's own"
        )
    if config.serve.haproxy is False or not haproxy.available():
        raise ConfigError("serve.haproxy: engines on other nodes are reached only with it on, and its wheel installed")

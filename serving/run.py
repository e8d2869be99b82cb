"""`python -m serving run`: from a configuration file to a ready service in the foreground, and back to nothing.

Owns the order of a start and of an end, and what an instance holds on the machine: its lock, its ports, its processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from models.errors import ConfigError, StartError
from models.local.engine import MODULE_VARIABLE
from serving import haproxy, ray_nodes
from serving.config import Config, Listen
from serving.engine_plan import EnginePlan, plan_engine
from serving.members import LOOK_EVERY_S
from serving.node import RAYLET, ROOT
from serving.request_id import CALLBACK
from serving.runtime import Runtime, engine_prefix, forget_secrets, fresh_run_folder, store_keys, without_secrets
from serving.telemetry import in_flight

LEFTOVER_WAIT_S = 5.0
ROUTE_WAIT_S = 60.0
ROSTER_EVERY_S = 0.5
ANYWHERE = ("0.0.0.0", "::")
# For Ray's own processes and, said again with each application, for its replicas: there a line for each request costs
# 5 % of a cached answer's CPU and fills the disk with what the ledger knows better.
RAY_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(slots=True)
class Phases:
    """Says what is being done, and how long each part took."""

    tell: Callable[[str], None]
    started_s: float = field(default_factory=time.monotonic)
    taken_s: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.tell(f"{name} ...")
        began_s = time.monotonic()
        yield
        self.taken_s[name] = round(time.monotonic() - began_s, 1)
        self.tell(f"{name}: {self.taken_s[name]} s")


def run(config: Config, tell: Callable[[str], None]) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises StartError when the service cannot start."""
    stop = threading.Event()
    _stop_on_signals(stop)
    phases = Phases(tell)
    if config.ray.address is not None:
        ray_nodes.check(config)
    elif config.gateway.nodes == "every":
        raise ConfigError("gateway.nodes: there is one node without ray.address")
    else:
        _port_is_free(config.listen, within_s=LEFTOVER_WAIT_S)  # a killed instance's HAProxy ends a moment after it
    with _only_instance(config) as runtime:
        fresh_run_folder(runtime)
        found = store_keys(config, runtime, dict(os.environ))
        _tell_absent(config, found, tell)
        with phases.phase("preparing the model"):
            plan = plan_engine(config, runtime, tell)
        haproxy.sweep()
        sockets = haproxy.make_folder()
        for_all = _environment(config, runtime, sockets)
        roster = _roster(config, runtime, plan, tell)
        try:
            _start(config, runtime, plan, for_all, phases, stop)
            _settle(roster, stop)
            if not stop.is_set():
                _announce(config, runtime, phases, roster.gateways)
                _watch(stop, roster)
        finally:
            tell("draining and stopping ...")
            _drain(config, runtime, roster)
            if _end(runtime):
                shutil.rmtree(sockets, ignore_errors=True)
            forget_secrets(runtime)
        tell("stopped; the cluster goes on" if runtime.clustered else "stopped; nothing is left running")
    return 0


def _roster(config: Config, runtime: Runtime, plan: EnginePlan | None, tell: Callable[[str], None]) -> ray_nodes.Roster:
    per_node = config.gateway.replicas if config.gateway.nodes == "every" else 0
    return ray_nodes.Roster(runtime, plan if runtime.clustered else None, tell, config.listen.port, per_node)


def _settle(roster: ray_nodes.Roster, stop: threading.Event) -> None:
    """In a cluster: until each node's proxy is up, and every gateway has taken the engines up."""
    if not roster.watches:
        return
    until_s = time.monotonic() + ROUTE_WAIT_S
    roster.look()
    while roster.per_node and len(roster.gateways) < ray_nodes.nodes() and time.monotonic() < until_s:
        if stop.wait(ROSTER_EVERY_S):
            return
        roster.look()
    if roster.per_node and (without := ray_nodes.nodes() - len(roster.gateways)) > 0:
        roster.tell(f"{without} nodes have no gateway yet: is port {roster.port} free there?")
    stop.wait(2 * LOOK_EVERY_S)


def _stop_on_signals(stop: threading.Event) -> None:
    """The first signal drains; a second Ctrl-C, while draining, ends the process at once."""

    def asked(_number: int, _frame: Any) -> None:
        if stop.is_set():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)


@contextlib.contextmanager
def _only_instance(config: Config) -> Iterator[Runtime]:
    """Hold the state folder's lock for the life of the instance. Raises ConfigError naming who holds it."""
    host = config.listen.host if config.listen.host not in ANYWHERE else "127.0.0.1"
    runtime = Runtime(
        state=config.state_dir.resolve(),
        base_url=f"http://{f'[{host}]' if ':' in host else host}:{config.listen.port}",
        metrics_in_service=config.private,
        admin_port=config.listen.admin_port,
        clustered=config.ray.address is not None,
    )
    runtime.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (runtime.run / "lock").open("a+", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise ConfigError(
                f"{runtime.state} is in use by process {lock.read().strip() or '?'}; stop it or set another state_dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield runtime


def _port_is_free(listen: Listen, within_s: float = 0.0) -> None:
    """Raises StartError naming who holds it, when it is not free `within_s`."""
    until_s, host, port = time.monotonic() + within_s, listen.host, listen.port
    while (why := _taken(host, port)) is not None:
        if time.monotonic() >= until_s:
            raise StartError(f"port {port} on {host} cannot be used: {why}{_holder(port)}")
        time.sleep(0.1)


def _taken(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc.strerror
    return None


def _holder(port: int) -> str:
    """Who listens on a port, as far as this user may see."""
    with contextlib.suppress(psutil.Error):
        for held in psutil.net_connections("tcp"):
            if held.status == psutil.CONN_LISTEN and held.laddr and held.laddr.port == port and held.pid:
                command = " ".join(psutil.Process(held.pid).cmdline())[:120]
                return f"; it is held by process {held.pid} ({command}). Stop it, or choose another with PORT="
    return "; choose another with PORT="


def _tell_absent(config: Config, found: dict[str, bool], tell: Callable[[str], None]) -> None:
    for name, present in found.items():
        if not present:
            tier = config.tier(name.split("/")[0])
            tell(f"tier '{tier.name}' has no key and is absent: its requests are answered by the others, and say so")


def _environment(config: Config, runtime: Runtime, sockets: Path) -> dict[str, str]:
    """Each process of a cluster of our own inherits this environment: no secrets, nothing shared between instances.

    Returns what the service's processes must be told on nodes that others started.
    """
    clean = without_secrets(dict(os.environ), config)
    ours = {
        "PROMETHEUS_MULTIPROC_DIR": str(runtime.metrics),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if config.serve.haproxy is not False and haproxy.available():
        every = config.gateway.nodes == "every" and config.listen.host not in ANYWHERE
        ours |= haproxy.environment(sockets, "" if every else config.listen.host, config.listen.port)
    paths = os.pathsep.join(filter(None, [str(ROOT), clean.get("PYTHONPATH", "")]))
    os.environ.clear()
    os.environ.update({**clean, "PYTHONPATH": paths, **RAYLET, **ours})
    if runtime.clustered:
        os.environ.update(ray_nodes.token_environment(config))
    else:
        # Ray takes 127.0.0.1 for "this node's outer address" and listens there, unless told there is no cluster.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.update(haproxy.on_node("127.0.0.1"))  # on other nodes their own start has set it
    told = {name: value for name, value in clean.items() if name.startswith("VLLM_") or name == MODULE_VARIABLE}
    return {**ours, **told}


def _own_cluster() -> str:
    """A Ray of this machine alone, on loopback. Returns its node's address."""
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=max(4, os.cpu_count() or 1),
            log_to_driver=False,
            logging_level="error",
            _node_ip_address="127.0.0.1",
        )
    except Exception as exc:  # the edge to Ray, which raises bare Exceptions: on a starved machine it gives up
        why = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise StartError(f"Ray did not start: {why} (is the machine short of memory, or very busy?)") from exc
    return "127.0.0.1"


def _start(
    config: Config,
    runtime: Runtime,
    plan: EnginePlan | None,
    for_all: dict[str, str],
    phases: Phases,
    stop: threading.Event,
) -> None:
    from ray import serve  # reads its switches from the environment when imported: not before they are set

    from serving.application import applications

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with phases.phase("joining the Ray cluster" if runtime.clustered else "starting Ray"):
        home = ray_nodes.join(config, plan, for_all, phases.tell) if runtime.clustered else _own_cluster()
        if runtime.clustered:  # what a killed instance left has gone by now, or will in a moment
            _port_is_free(config.listen, within_s=LEFTOVER_WAIT_S)
            haproxy.sweep()
        _stop_on_signals(stop)  # again: Ray put its own in their place, which print a stack
        proxied = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
        serve.start(
            # Behind HAProxy everything of Ray's stays on loopback; only HAProxy's own socket is bound to `host`.
            http_options={"host": "127.0.0.1" if proxied else config.listen.host, "port": config.listen.port},
            proxy_location="EveryNode" if config.gateway.nodes == "every" else "HeadOnly",
            logging_config=RAY_LOGGING,
        )
    every = config.gateway.nodes == "every"  # then the roster asks for more gateways as nodes join
    serve.run_many(
        [
            serve.RunTarget(app, name, prefix, logging_config=RAY_LOGGING, external_scaler_enabled=every)
            for name, prefix, app in applications(config, runtime, plan, home, ray_nodes.nodes())
        ],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    with phases.phase("starting the gateway"):
        _wait_for("gateway", 120.0, stop)
        _wait_for_route(f"{runtime.base_url}/health", stop)
    if plan is not None:
        with phases.phase(f"loading {plan.model} into vLLM and warming it up"):
            # In a cluster one engine is enough to begin with: room for the others may come with a node.
            _wait_for("engine", float(config.serve.engine_start_s), stop, "Engine" if runtime.clustered else None)
            _wait_for_route(f"{runtime.base_url}{engine_prefix(plan.tier)}/health", stop)


def _wait_for(application: str, limit_s: float, stop: threading.Event, one_of: str | None = None) -> None:
    """Until an application runs, or one replica of its deployment `one_of`.

    Raises StartError with what Ray knows of its failure.
    """
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    until_s = time.monotonic() + limit_s
    while not stop.wait(0.25):
        state = serve.status().applications.get(application)
        if state is not None and (state.status == ApplicationStatus.RUNNING or _runs(state, one_of)):
            return
        failed = state is not None and state.status == ApplicationStatus.DEPLOY_FAILED
        if failed or time.monotonic() > until_s:
            why = _reason(state) if state is not None else "it never appeared"
            raise StartError(f"the {application} did not start: {why}")


def _runs(state: Any, deployment: str | None) -> bool:
    found = state.deployments.get(deployment)
    return found is not None and found.replica_states.get("RUNNING", 0) > 0


def _wait_for_route(url: str, stop: threading.Event) -> None:
    """Until the proxy passes requests on: it learns of a new replica a moment after Serve calls it running."""
    until_s = time.monotonic() + ROUTE_WAIT_S
    while not stop.wait(0.1):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
            if response.status == 200:
                return
        if time.monotonic() > until_s:
            raise StartError(f"{url} did not answer within {ROUTE_WAIT_S:.0f} s of its replica's start")


def _reason(state: Any) -> str:
    """The most telling line Ray kept of a failed start: the last one of a traceback."""
    messages = [d.message for d in state.deployments.values() if d.message] or [state.message]
    lines = [line.strip() for line in "\n".join(messages).splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error" in line]
    return (errors or lines or ["unknown; see /tmp/ray/session_latest/logs/serve"])[-1]


def _announce(config: Config, runtime: Runtime, phases: Phases, gateways: list[str]) -> None:
    host = config.listen.host if config.listen.host not in ANYWHERE else "127.0.0.1"
    url = gateways[0] if gateways else f"http://{host}:{config.listen.port}"
    ready_s = round(time.monotonic() - phases.started_s, 1)
    record = {"url": url, "pid": os.getpid(), "ready_s": ready_s, "phases_s": phases.taken_s}
    (runtime.run / "instance.json").write_text(json.dumps(record), encoding="utf-8")
    key = ' -H "Authorization: Bearer $FARTHING_KEY"' if config.auth_required else ""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "What is a farthing?"}]})
    print(f"ready {' '.join(gateways or [url])}  (after {ready_s} s)")
    print(f"try:  curl -s {url}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'", flush=True)
    for tier in config.tiers:
        if tier.local:
            print(f"engine route (internal token needed): {url}{engine_prefix(tier.name)}/v1", flush=True)


def _watch(stop: threading.Event, roster: ray_nodes.Roster) -> None:
    while not stop.is_set():
        if roster.watches:
            roster.look()
        stop.wait(ROSTER_EVERY_S)


def _drain(config: Config, runtime: Runtime, roster: ray_nodes.Roster) -> None:
    """Take no new requests and wait for those under way, and for journals on other nodes to come to the head: Serve's
    own shutdown ends HAProxy first, and them with it."""
    runtime.draining_file.touch()
    until_s = time.monotonic() + config.gateway.drain_s
    while in_flight(runtime.metrics) or ray_nodes.undone(runtime, roster.away):
        if time.monotonic() > until_s:
            return
        time.sleep(0.2)
        if roster.away:
            roster.look()  # a node that dies now is not waited for


def _end(runtime: Runtime) -> bool:
    """Shut down, and end whatever of ours is still there. Returns whether HAProxy has ended too."""
    import ray
    from ray import serve

    if runtime.clustered:
        with contextlib.redirect_stdout(io.StringIO()):
            return ray_nodes.leave()
    mine = psutil.Process().children(recursive=True)
    if ray.is_initialized():
        # Ray prints to stdout that its controller's last task failed, because the controller is gone: as it should be.
        with contextlib.redirect_stdout(io.StringIO()):
            with contextlib.suppress(Exception):  # the edge of the process: end what can be ended
                serve.shutdown()
            ray.shutdown()
    _, alive = psutil.wait_procs(mine, timeout=LEFTOVER_WAIT_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=LEFTOVER_WAIT_S)
    # Ray leaves a folder for each start (logs, sockets); ours carries our process id in its name.
    for folder in Path("/tmp/ray").glob(f"session_*_{os.getpid()}"):
        shutil.rmtree(folder, ignore_errors=True)
    return True


def say(text: str) -> None:
    print(f"farthing: {text}", file=sys.stderr, flush=True)

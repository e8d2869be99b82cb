"""Which deployments make up the service, and what each may use of the machine."""

from __future__ import annotations

import os
from typing import Any

from ray import serve

from models.local.gpus import detect_gpu
from serving.config import Config
from serving.deployments import Engine, Gateway, Ledger, Router
from serving.engine_plan import EnginePlan
from serving.ray_nodes import GATEWAY
from serving.runtime import Runtime, engine_prefix, read_secret

ROUTER_GPU_SHARE = 0.1  # for encoder and index; Ray hides the GPU from what reserves none of it
AT_HOME = 0.001  # of the resource that Ray gives each node by its address
QUEUE_SPARE = 16  # above vLLM's own admission limit, so that vLLM says "full" and not Ray


def applications(
    config: Config, runtime: Runtime, plan: EnginePlan | None, home: str, nodes: int
) -> list[tuple[str, str, Any]]:
    """(name, route prefix, application) of everything to run. The gateway comes first: it serves while vLLM loads.

    `home` is the address of the node where ledger and router must be, and gateways unless every node has some: their
    files are there.
    """
    found = [("gateway", "/", _gateway(config, runtime, detect_gpu() is not None, home, nodes))]
    if plan is not None:
        found.append(("engine", engine_prefix(plan.tier), _engine(runtime, plan)))
    return found


def _gateway(config: Config, runtime: Runtime, on_gpu: bool, home: str, nodes: int) -> Any:
    at_home = {f"node:{home}": AT_HOME}
    light: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1, "resources": at_home}}
    every = config.gateway.nodes == "every"
    everywhere = {"ray_actor_options": {"num_cpus": 0.1}, "max_replicas_per_node": config.gateway.replicas}
    # One replica, whatever the gateway has: the stored answers have one owner.
    share = ROUTER_GPU_SHARE if config.embeds and on_gpu else 0
    sees = {"num_cpus": 0.1, "num_gpus": share, "resources": at_home}
    router = serve.deployment(Router, max_ongoing_requests=256, health_check_timeout_s=60, ray_actor_options=sees).bind(
        config, runtime
    )
    ledger = serve.deployment(Ledger, max_ongoing_requests=1024, **light).bind(config, runtime)
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        name=GATEWAY,
        num_replicas=config.gateway.replicas * (nodes if every else 1),
        # The gateway refuses by itself, in the OpenAI shape; Ray's own limit only has to be out of its way.
        max_ongoing_requests=config.gateway.max_in_flight * 2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=config.gateway.drain_s + 10,
        **(everywhere if every else light),
    )
    return gateway.bind(config, runtime, home, router, ledger)


def _engine(runtime: Runtime, plan: EnginePlan) -> Any:
    options: dict[str, Any] = {"num_cpus": 0.1, "num_gpus": plan.gpus}
    threads = max(1, (os.cpu_count() or 1) - 1)
    if not plan.gpus and not runtime.clustered:  # nodes differ: there vLLM finds its cores by itself
        options["runtime_env"] = {"env_vars": {"VLLM_CPU_OMP_THREADS_BIND": f"0-{threads}"}}
    deployment = serve.deployment(
        serve.ingress()(Engine),
        name="Engine",
        num_replicas=plan.replicas,
        max_ongoing_requests=plan.max_queued + QUEUE_SPARE,
        health_check_period_s=5,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=30,
        ray_actor_options=options,
        # On CPUs an engine takes the whole machine. GPUs are counted by Ray.
        **({"max_replicas_per_node": 1} if runtime.clustered and not plan.gpus else {}),
    )
    token = read_secret(runtime.engine_token_file) if runtime.clustered else None
    return deployment.bind(list(plan.flags), runtime, plan.tier, plan.model, token)

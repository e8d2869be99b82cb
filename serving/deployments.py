"""The insides of the Ray Serve deployments: thin shells around the gateway, the decider, the ledger and the engine.

`application.py` makes deployments of them; these two and `run.py` alone import Ray. Each shell starts its inside,
reports its health, and ends it.
"""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import ray
from ray import serve
from ray.serve._private import replica as ray_replica
from ray.serve.handle import DeploymentHandle

from router.decision import Decision, Facts
from serving.config import Config
from serving.deciding import Refusal, decide_or_refuse
from serving.ledger.grants import Lease, LeaseRequest
from serving.runtime import Runtime, read_secret

GC_YOUNG_OBJECTS = 20_000
"""Instead of 700: looking for cycles took 6 % of a cached answer, and a gateway makes hardly any."""


def bind_to_node() -> None:
    """Let this replica's own gRPC port listen on the node's address: loopback, unless nodes form a cluster.

    Ray Serve 2.60 opens it on every interface, asks nobody for a token and unpickles what comes: whoever reaches the
    port runs code here. It offers no setting; a replica's constructor is the last moment before the port is opened.
    """
    add_port = ray_replica.add_port_to_grpc_server

    def add_port_of_node(server: Any, address: str) -> int:
        host = ray.util.get_node_ip_address()
        port = address.rpartition(":")[2]
        return int(add_port(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))

    ray_replica.add_port_to_grpc_server = add_port_of_node


class Router:
    """Decides for `auto` requests. Learned deciders and the semantic cache move in here."""

    def __init__(self, config: Config) -> None:
        bind_to_node()
        from serving.app import build_decider  # replicas import what they run, the driver does not

        self._decider = build_decider(config)

    async def decide(self, facts: Facts, deadline_s: float) -> Decision | Refusal:
        return await decide_or_refuse(self._decider, facts, deadline_s)


class Ledger:
    """The node's one writer: journals into rows, leases to gateways, the node's own metrics."""

    async def __init__(self, config: Config, runtime: Runtime) -> None:  # type: ignore[misc]
        bind_to_node()
        from serving.bookkeeper import Bookkeeper

        self._inside = Bookkeeper(config, runtime)
        await self._inside.start()

    async def lease(self, request: LeaseRequest) -> Lease:
        return await self._inside.lease(request)

    async def check_health(self) -> None:
        self._inside.check()

    async def __del__(self) -> None:
        await self._inside.close()


class Gateway:
    """The HTTP face; the application is built by `serving/app.py`."""

    async def __init__(  # type: ignore[misc] # Ray Serve awaits the constructors of its replicas
        self, config: Config, runtime: Runtime, router: DeploymentHandle, ledger: DeploymentHandle
    ) -> None:
        bind_to_node()
        from serving.app import build_gateway

        async def ask(facts: Facts, deadline_s: float) -> Decision | Refusal:
            answer: Decision | Refusal = await router.decide.remote(facts, deadline_s)
            return answer

        async def lease(request: LeaseRequest) -> Lease:
            answer: Lease = await ledger.lease.remote(request)
            return answer

        gc.set_threshold(GC_YOUNG_OBJECTS)
        replica = serve.get_replica_context().replica_id.unique_id
        self._inside = await build_gateway(config, runtime, replica, ask, lease)

    def __serve_build_asgi_app__(self) -> Any:
        return self._inside.app

    async def check_health(self) -> None:
        self._inside.check()

    async def __del__(self) -> None:
        await self._inside.close()


class Engine:
    """vLLM behind its own route, which only this service's gateway can use."""

    async def __init__(self, flags: list[str], runtime: Runtime, tier: str, model: str) -> None:  # type: ignore[misc]
        bind_to_node()
        from models.local.engine import Engine as Inside
        from models.local.engine import create_app
        from models.local.presence import announce
        from serving.telemetry import EngineMetrics

        self._metrics = EngineMetrics()
        self._inside = Inside(flags, observer=lambda load: self._metrics.observe(model, load))
        await self._inside.start()
        await self._inside.warm_up()
        self._presence = announce(runtime.presence(tier))
        self._app = create_app(self._inside, read_secret(runtime.engine_token_file))

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def check_health(self) -> None:
        await self._inside.check_health()

    async def __del__(self) -> None:
        os.close(self._presence)
        await asyncio.to_thread(self._inside.shutdown)

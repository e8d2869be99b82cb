"""The insides of the Ray Serve deployments: thin shells around the gateway, the decider, the ledger and the engine.

`application.py` makes deployments of them; these two and `run.py` alone import Ray. Each shell starts its inside,
reports its health, and ends it.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve._private import replica as ray_replica
from ray.serve.handle import DeploymentHandle

from router.decision import Decision, Facts, Fresh
from serving.config import Config
from serving.deciding import Refusal
from serving.ledger.grants import Lease, LeaseRequest
from serving.runtime import Runtime, read_secret
from serving.semantic import Embedded

if TYPE_CHECKING:
    from serving.cache.exact import Entry
    from serving.desk import Parcel, Receipt
    from serving.ledger.keys import KeySnapshot
    from serving.ledger.texts import Kept

GC_YOUNG_OBJECTS = 20_000
"""Instead of 700: looking for cycles took 6 % of a cached answer, and a gateway makes hardly any."""


def bind_to_node() -> None:
    """Let this replica's own ports listen on the node's address: loopback, unless nodes form a cluster.

    Ray Serve 2.60 opens the gRPC port on every interface, asks nobody for a token and unpickles what comes: whoever
    reaches the port runs code here. The HTTP port it opens where the proxy listens, which is one address for all nodes.
    It offers no setting; a replica's constructor is the last moment before the ports are opened.
    """
    add_port, start_http = ray_replica.add_port_to_grpc_server, ray_replica.start_asgi_http_server
    host = ray.util.get_node_ip_address()

    def add_port_of_node(server: Any, address: str) -> int:
        port = address.rpartition(":")[2]
        return int(add_port(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))

    async def start_http_on_node(app: Any, options: Any, **more: Any) -> Any:
        return await start_http(app, options.model_copy(update={"host": host}), **more)

    ray_replica.add_port_to_grpc_server = add_port_of_node
    ray_replica.start_asgi_http_server = start_http_on_node


class Router:
    """Decides, and owns the encoder and the answers that are found by meaning. One replica: they have one owner."""

    async def __init__(self, config: Config, runtime: Runtime) -> None:  # type: ignore[misc]
        bind_to_node()
        from serving.app import build_decider  # replicas import what they run, the driver does not
        from serving.routing import open_router

        self._inside = await open_router(config, runtime, build_decider(config))

    async def decide(self, facts: Facts, deadline_s: float) -> Decision | Refusal:
        return await self._inside.decide(facts, deadline_s)

    async def remember(self, made: Fresh) -> bool:
        return await self._inside.remember(made)

    async def label(self, request_id: str, right: bool) -> bool:
        return await self._inside.label(request_id, right)

    async def complain(self, request_id: str, entry_id: str) -> bool:
        return await self._inside.complain(request_id, entry_id)

    async def drop_answers_of(self, request_ids: list[str]) -> bool:
        return await self._inside.drop_answers_of(request_ids)

    async def delete(self, kind: str, name: str) -> int:
        return await self._inside.delete(kind, name)

    async def embed(self, texts: list[str]) -> Embedded:
        return await self._inside.embed(texts)

    async def check_health(self) -> None:
        self._inside.check()

    async def __del__(self) -> None:
        await self._inside.close()


class Ledger:
    """The node's one writer: journals into rows, leases to gateways, the node's own metrics."""

    async def __init__(self, config: Config, runtime: Runtime) -> None:  # type: ignore[misc]
        bind_to_node()
        from serving.bookkeeper import Bookkeeper

        self._inside = Bookkeeper(config, runtime)
        await self._inside.start()

    async def lease(self, request: LeaseRequest) -> Lease:
        return await self._inside.lease(request)

    async def ship(self, parcel: Parcel) -> Receipt:
        return await self._inside.desk.ship(parcel)

    async def keys(self, version: int) -> KeySnapshot | None:
        return await self._inside.desk.keys(version)

    async def recall(self, key: bytes) -> tuple[Entry | None, int]:
        return await self._inside.desk.recall(key)

    async def keep(self, entry: Entry, epoch: int) -> None:
        await self._inside.desk.keep(entry, epoch)

    async def keep_texts(self, kept: Sequence[Kept]) -> int:
        return await self._inside.desk.keep_texts(kept)

    async def check_health(self) -> None:
        self._inside.check()

    async def __del__(self) -> None:
        await self._inside.close()


class Gateway:
    """The HTTP face; the application is built by `serving/app.py`. `home` is the head's address."""

    async def __init__(  # type: ignore[misc] # Ray Serve awaits the constructors of its replicas
        self, config: Config, runtime: Runtime, home: str, router: DeploymentHandle, ledger: DeploymentHandle
    ) -> None:
        bind_to_node()
        from serving.app import build_gateway
        from serving.ledger.inbox import AWAY
        from serving.shared import Away, Here, open_away, open_here

        gc.set_threshold(GC_YOUNG_OBJECTS)
        head, replica = _LedgerCalls(ledger), serve.get_replica_context().replica_id.unique_id
        address = ray.util.get_node_ip_address()
        shared: Here | Away
        if runtime.clustered and address != home:
            runtime, replica = runtime.on_node(address), f"{AWAY}{address}-{replica}"
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime.metrics)  # before there is any metric
            shared = await open_away(config, runtime, head, f"http://{home}:{config.listen.port}")
        else:
            shared = await open_here(config, runtime)
        self._inside = await build_gateway(config, runtime, replica, _RouterCalls(router), head.lease, shared)
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked through again and again

    def __serve_build_asgi_app__(self) -> Any:
        return self._inside.app

    async def check_health(self) -> None:
        self._inside.check()

    async def __del__(self) -> None:
        await self._inside.close()


class _RouterCalls:
    """`serving.semantic.RouterCalls` over a handle."""

    def __init__(self, router: DeploymentHandle) -> None:
        self._router = router

    async def decide(self, facts: Facts, deadline_s: float) -> Decision | Refusal:
        answer: Decision | Refusal = await self._router.decide.remote(facts, deadline_s)
        return answer

    async def remember(self, made: Fresh) -> bool:
        return bool(await self._router.remember.remote(made))

    async def label(self, request_id: str, right: bool) -> bool:
        return bool(await self._router.label.remote(request_id, right))

    async def complain(self, request_id: str, entry_id: str) -> bool:
        return bool(await self._router.complain.remote(request_id, entry_id))

    async def drop_answers_of(self, request_ids: list[str]) -> bool:
        return bool(await self._router.drop_answers_of.remote(request_ids))

    async def delete(self, kind: str, name: str) -> int:
        return int(await self._router.delete.remote(kind, name))

    async def embed(self, texts: list[str]) -> Embedded:
        answer: Embedded = await self._router.embed.remote(texts)
        return answer


class _LedgerCalls:
    """`serving.desk.Head` over a handle."""

    def __init__(self, ledger: DeploymentHandle) -> None:
        self._ledger = ledger

    async def lease(self, request: LeaseRequest) -> Lease:
        answer: Lease = await self._ledger.lease.remote(request)
        return answer

    async def ship(self, parcel: Parcel) -> Receipt:
        answer: Receipt = await self._ledger.ship.remote(parcel)
        return answer

    async def keys(self, version: int) -> KeySnapshot | None:
        answer: KeySnapshot | None = await self._ledger.keys.remote(version)
        return answer

    async def recall(self, key: bytes) -> tuple[Entry | None, int]:
        answer: tuple[Entry | None, int] = await self._ledger.recall.remote(key)
        return answer

    async def keep(self, entry: Entry, epoch: int) -> None:
        await self._ledger.keep.remote(entry, epoch)

    async def keep_texts(self, kept: Sequence[Kept]) -> int:
        return int(await self._ledger.keep_texts.remote(kept))


class Engine:
    """vLLM behind its own route, which only this service's gateway can use.

    On a node of a cluster, `token` is what its gateways show: their file is on another machine.
    """

    async def __init__(  # type: ignore[misc]
        self, flags: list[str], runtime: Runtime, tier: str, model: str, token: str | None = None
    ) -> None:
        bind_to_node()
        runtime.metrics.mkdir(parents=True, exist_ok=True)  # every metric opens a file in it, vLLM's own too
        from models.local.engine import Engine as Inside
        from models.local.engine import create_app
        from models.local.presence import stay
        from serving.telemetry import EngineMetrics

        alone = token is None  # on other nodes the bookkeeper asks for the load, and nobody could see a lock
        metrics = EngineMetrics() if alone else None
        self._inside = Inside(flags, observer=lambda load: metrics.observe(model, load) if metrics else None)
        await self._inside.start()
        await self._inside.warm_up()
        there = stay(runtime.presence(tier), lambda: self._inside.ready) if alone else None
        self._presence = asyncio.create_task(there) if there is not None else None
        self._app = create_app(self._inside, token or read_secret(runtime.engine_token_file))

    def __serve_build_asgi_app__(self) -> Any:
        return self._app

    async def check_health(self) -> None:
        await self._inside.check_health()

    async def __del__(self) -> None:
        if self._presence is not None:
            self._presence.cancel()
            await asyncio.wait([self._presence])
        await asyncio.to_thread(self._inside.shutdown)

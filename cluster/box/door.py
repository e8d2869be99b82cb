"""The box's one public port: TLS, the join, and a short list of paths that lead to the engine behind.

An ASGI application. What is not listed does not exist: vLLM's own server leaves pausing, weight updates and metrics
open even with an API key, so nothing of the engine's is passed through but what is named here. The controller's own
calls set the dead man's switch back; requests to be answered do not. Knows no vLLM.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cluster.box.identity import Identity, NotYours

PASSED = {"/v1/chat/completions": "POST", "/v1/completions": "POST", "/v1/models": "GET", "/load": "GET"}
"""What the engine answers, and with which method."""
MAX_BODY_BYTES = 32 << 20
FORWARDED = ("content-type", "accept", "x-request-id", "x-farthing-cache-salt", "x-farthing-priority")
RETURNED = ("content-type", "retry-after", "cache-control")


class EngineState(Protocol):
    """The engine behind the door, as its supervisor sees it."""

    @property
    def url(self) -> str: ...

    @property
    def token(self) -> str: ...

    @property
    def ready(self) -> bool: ...

    @property
    def progress(self) -> str:
        """What it is doing, for people: `downloading weights 3.1 of 6.1 GB`."""
        ...


def uptime_s() -> int:
    """Seconds since the kernel started: no clock can be set wrong under the dead man's switch."""
    return int(float(Path("/proc/uptime").read_text().split()[0]))


@dataclass(slots=True)
class Door:
    """`heartbeat` is the file that the dead man's switch looks at (`deadman.sh`)."""

    identity: Identity
    engine: EngineState
    heartbeat: Path
    describe: Callable[[], dict[str, Any]]
    tls: ssl.SSLContext | None = None
    client: aiohttp.ClientSession | None = None

    def app(self) -> Starlette:
        routes = [
            Route("/farthing/hello", self._hello),
            Route("/farthing/join", self._join, methods=["POST"]),
            Route("/farthing/rotate", self._rotate, methods=["POST"]),
            Route("/farthing/status", self._status),
            Route("/health", self._health),
            *(Route(path, self._pass, methods=[method]) for path, method in PASSED.items()),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan, max_body_size=MAX_BODY_BYTES)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as self.client:
            yield

    async def _hello(self, request: Request) -> Response:
        try:
            return JSONResponse(self.identity.hello(request.query_params.get("nonce", "")))
        except NotYours:
            return _refused()

    async def _join(self, request: Request) -> Response:
        body = await request.body()
        return self._taking(lambda: self.identity.join(body, request.headers.get("x-farthing-proof", "")))

    async def _rotate(self, request: Request) -> Response:
        if not self._admitted(request):
            return _refused()
        body = await request.body()
        return self._taking(lambda: self.identity.rotate(body))

    def _taking(self, take: Callable[[], None]) -> Response:
        try:
            take()
        except NotYours:
            return _refused()
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        if self.tls is not None:
            self.identity.load_into(self.tls)
        self._beat()
        return JSONResponse({"joined": True})

    async def _status(self, request: Request) -> Response:
        if not self._admitted(request):
            return _refused()
        self._beat()
        state = {"ready": self.engine.ready, "progress": self.engine.progress, "csr": self.identity.csr()}
        return JSONResponse({**state, **self.describe()})

    async def _health(self, request: Request) -> Response:
        if not self._admitted(request):
            return _refused()
        return JSONResponse({"ready": self.engine.ready}, 200 if self.engine.ready else 503)

    async def _pass(self, request: Request) -> Response:
        if not self._admitted(request):
            return _refused()
        if not self.engine.ready:
            return _error(503, "overloaded", "this box is still loading its model")
        assert self.client is not None  # made by the lifespan
        body = await request.body()
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        headers["authorization"] = f"Bearer {self.engine.token}"
        try:
            upstream = await self.client.request(
                request.method, self.engine.url + request.url.path, data=body, headers=headers
            )
        except aiohttp.ClientError:
            return _error(503, "upstream_unavailable", "the engine of this box does not answer")
        kept = {name: upstream.headers[name] for name in RETURNED if name in upstream.headers}
        # closing, not releasing: a caller that leaves must free the engine
        done = BackgroundTask(upstream.close)
        return StreamingResponse(_chunks(upstream), upstream.status, kept, background=done)

    def _admitted(self, request: Request) -> bool:
        return self.identity.admits(request.headers.get("authorization", ""))

    def _beat(self) -> None:
        self.heartbeat.write_text(str(uptime_s()))


async def _chunks(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in upstream.content.iter_any():
            yield chunk
    finally:
        upstream.close()


def _refused() -> Response:
    return _error(401, "invalid_api_key", "this box answers only its own controller and gateway")


def _error(status: int, code: str, message: str) -> Response:
    error = {"message": message, "type": "upstream_error", "param": None, "code": code}
    return Response(orjson.dumps({"error": error}), status, media_type="application/json")

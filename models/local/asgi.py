"""The engine's HTTP face: OpenAI-shaped routes, the internal token, streams, and clients that leave.

A plain ASGI application: it runs bare under uvicorn and mounted below a prefix alike. Knows neither vLLM nor Ray;
whatever fulfils `Served` can stand behind it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
import math
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import orjson
from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from models.errors import BadRequest, FarthingError, Unauthenticated
from models.local.vocabulary import EngineLoad, engine_fault, refusal
from models.types import Endpoint, Json

log = logging.getLogger(__name__)

JOIN_WINDOW_S = 0.010
MAX_HELD_EVENTS = 256  # of a client that does not read; then the engine's own buffer, which merges, takes over
ERROR_EVENT = 'data: {"error"'
OPEN_PATHS = ("/health",)
"""Paths that need no token."""


class Served(Protocol):
    """An engine as the routes see it."""

    @property
    def ready(self) -> bool: ...

    async def answer(
        self, endpoint: Endpoint, body: Json, headers: Mapping[str, str]
    ) -> bytes | AsyncGenerator[str, None]:
        """A JSON body, or SSE events. Raises FarthingErrors. Cancelling it, or closing the events, frees the engine."""
        ...

    async def models(self) -> bytes: ...

    def load(self) -> EngineLoad: ...

    async def check_health(self) -> None: ...


def create_app(engine: Served, token: str, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The application. `token` is what callers present as `Authorization: Bearer`."""

    async def models(_: Request) -> Response:
        await engine.check_health()  # who asks whether it may be asked asks here, since it needs the token
        return _json(await engine.models())

    async def load(_: Request) -> Response:
        return _json(orjson.dumps(dataclasses.asdict(engine.load())))

    async def health(_: Request) -> Response:
        await engine.check_health()
        return _json(b'{"status":"alive"}')

    async def ready(_: Request) -> Response:
        await engine.check_health()
        return _json(b'{"status":"ready"}') if engine.ready else _json(b'{"status":"starting"}', 503)

    async def failed(_: Request, exc: Exception) -> Response:
        return _error(exc)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", Generation(engine, "chat/completions"), methods=["POST"]),
            Route("/v1/completions", Generation(engine, "completions"), methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/ready", ready),
            Route("/load", load),
        ],
        middleware=[Middleware(TokenGate, token=token)],
        exception_handlers={FarthingError: failed, HTTPException: failed, Exception: failed},
        lifespan=lifespan,
    )


class TokenGate:
    """Lets through who knows the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        if not token:
            raise ValueError("the internal token is empty; anyone could use the engine")
        self._app, self._expected = app, b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and get_route_path(scope) not in OPEN_PATHS:
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                refused = Unauthenticated("this engine answers only its own gateway; call the gateway instead")
                await _error(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Generation:
    """One generating route, as ASGI: the answer is given up when the client leaves or the handler is cancelled.

    uvicorn cancels no handler and Ray Serve does, so both ways are watched.
    """

    def __init__(self, engine: Served, endpoint: Endpoint) -> None:
        self._engine, self._endpoint = engine, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            raw = await request.body()
        except ClientDisconnect:
            return
        work = asyncio.create_task(self._respond(raw, request.headers, scope, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            leaving.cancel()
            await asyncio.wait({work, leaving})

    async def _respond(self, raw: bytes, headers: Mapping[str, str], scope: Scope, send: Send) -> None:
        started = False
        try:
            answer = await self._engine.answer(self._endpoint, _parsed(raw), headers)
            if isinstance(answer, bytes):
                await _json(answer)(scope, _nothing, send)
                return
            async with aclosing(joined(answer)) as blocks:
                # the status waits for the first event, so that what fails before it has a status of its own
                async for block in blocks:
                    if not started:
                        started = True
                        await send(_stream_start())
                    await send({"type": "http.response.body", "body": block, "more_body": True})
        except Exception as exc:  # noqa: BLE001 - the process edge: whatever it was, the caller gets the OpenAI shape
            if not started:
                await _error(exc)(scope, _nothing, send)
                return
            await send({"type": "http.response.body", "body": b"data: " + _error_body(exc) + b"\n\n"})
        else:
            await send({"type": "http.response.body", "body": b""})


async def joined(events: AsyncGenerator[str, None], window_s: float = JOIN_WINDOW_S) -> AsyncGenerator[bytes, None]:
    """The events as blocks of bytes, one block per `window_s` at most: each write costs every hop up to the client.

    An event goes out at once when the last block is `window_s` old or none has gone yet, so the first token and a
    stream slower than the window are never held. An event that is an error is raised, and nothing follows it: a
    `[DONE]` would call the answer whole.
    """
    held: list[str] = []
    came, taken = asyncio.Event(), asyncio.Event()

    async def pump() -> None:
        async with aclosing(events):
            async for event in events:
                if event.startswith(ERROR_EVENT):
                    raise refusal(orjson.loads(event.removeprefix("data: "))["error"])
                held.append(event)
                came.set()
                if len(held) >= MAX_HELD_EVENTS:
                    taken.clear()
                    await taken.wait()

    source = asyncio.create_task(pump())
    source.add_done_callback(lambda _: came.set())
    next_at = 0.0
    try:
        while not source.done() or held:
            await came.wait()
            early_s = next_at - time.monotonic()
            if early_s > 0:
                await asyncio.wait({source}, timeout=early_s)
            came.clear()
            if held:
                block = "".join(held).encode()
                held.clear()
                taken.set()
                yield block
                next_at = time.monotonic() + window_s
        source.result()
    finally:
        source.cancel()
        await asyncio.wait({source})


def _stream_start() -> dict[str, Any]:
    """Made anew for each answer: a server around us (Ray Serve) appends its own headers to the list it is given."""
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> Any:
    """A `receive` for responses that never ask: the real one is being watched."""
    raise RuntimeError("a finished response has nothing to receive")


def _parsed(raw: bytes) -> Json:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _error(exc: Exception) -> Response:
    if isinstance(exc, HTTPException):  # no such route, or not with this method
        error = {"message": exc.detail, "type": "invalid_request_error", "param": None, "code": "unknown_url"}
        return _json(orjson.dumps({"error": error}), exc.status_code, exc.headers)
    body = _error_body(exc)
    known = exc if isinstance(exc, FarthingError) else engine_fault()
    after = {} if known.retry_after_s is None else {"retry-after": str(math.ceil(known.retry_after_s))}
    return _json(body, known.http_status, after)


def _error_body(exc: Exception) -> bytes:
    known = exc if isinstance(exc, FarthingError) else engine_fault()
    if known is not exc:
        log.error("a request failed", exc_info=exc)
    return orjson.dumps(
        {"error": {"message": known.message, "type": known.type, "param": known.param, "code": known.code}}
    )

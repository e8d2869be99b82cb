"""Request ids are ours: unique, and never a caller's, because the ledger knows each request by its id.

Ray Serve echoes whatever `x-request-id` a client sends and offers one hook before that: a callback that returns ASGI
middlewares, named in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH and run in every proxy and replica.
"""

from __future__ import annotations

import secrets
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

CALLBACK = "serving.request_id:middlewares"
INTERNAL_PREFIX = "/engine/"  # the gateway's own calls keep the id of the request they serve
HEADER = b"x-request-id"


def new_id() -> str:
    return "req_" + secrets.token_hex(12)


class OwnRequestId:
    """Replaces the caller's `x-request-id` by a new one, before anything reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(INTERNAL_PREFIX):
            headers = [pair for pair in scope["headers"] if pair[0] != HEADER]
            headers.append((HEADER, new_id().encode()))
            scope["headers"] = headers
        await self._app(scope, receive, send)


def middlewares() -> list[Any]:
    return [Middleware(OwnRequestId)]

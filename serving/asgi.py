"""The few lines of ASGI the gateway needs: read a bounded body, answer with bytes, answer with a stream.

Raw ASGI instead of a framework on the hot path: the whole gateway is one hop in front of every token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from models.errors import BadRequest, TooLarge, TooSlow
from serving.request_id import HEADER as REQUEST_ID_HEADER
from serving.request_id import new_id

MAX_HEADER_BYTES = 64 * 1024
MAX_LENGTH_DIGITS = 18


class ClientGoneError(Exception):
    """The client closed the connection before its request was read."""


@dataclass(slots=True)
class Exchange:
    """One HTTP request and its answer."""

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[bytes, bytes]
    request_id: str
    started: bool = False

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> Exchange:
        headers = dict(scope["headers"])
        given = headers.get(REQUEST_ID_HEADER, b"").decode("latin-1")
        return cls(scope, receive, send, headers, given if given.startswith("req_") else new_id())

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def query(self) -> str:
        return bytes(self.scope.get("query_string", b"")).decode("latin-1")

    def header(self, name: str) -> str | None:
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def body(self, limit_bytes: int, timeout_s: float) -> bytes:
        """The request's body. Raises TooLarge before reading on, TooSlow, or ClientGoneError when the client left."""
        if sum(len(k) + len(v) for k, v in self.headers.items()) > MAX_HEADER_BYTES:
            raise TooLarge(f"the headers exceed {MAX_HEADER_BYTES} bytes; send fewer")
        declared = self.headers.get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > MAX_LENGTH_DIGITS:
            raise BadRequest("content-length must be a number")
        if int(declared) > limit_bytes:
            raise TooLarge(f"the body is {int(declared)} bytes and the limit is {limit_bytes}; send less")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._read(limit_bytes)
        except TimeoutError:
            raise TooSlow(f"the body was not there within {timeout_s:g} s; send it faster") from None

    async def _read(self, limit_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise TooLarge(f"the body exceeds {limit_bytes} bytes; send less")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        pairs = [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers.items()]
        if REQUEST_ID_HEADER not in self.headers:  # else Ray Serve sends it back itself
            pairs.append((REQUEST_ID_HEADER, self.request_id.encode()))
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.send({"type": "http.response.body", "body": body})

    async def reply_json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        await self.reply(status, {"content-type": "application/json", **(headers or {})}, orjson.dumps(value))

    async def reply_stream(self, headers: Mapping[str, str], events: AsyncIterator[bytes]) -> None:
        await self.start(
            200,
            {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
            | dict(headers),
        )
        async for data in events:
            await self.send({"type": "http.response.body", "body": data, "more_body": True})
        await self.send({"type": "http.response.body", "body": b""})

"""Scripted servers in the test's own loop, and servers that misbehave in one chosen way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks import scripted

Answers = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[[scripted.Script], Awaitable[str]]]:
    """Start a scripted server; gives its address up to /v1."""
    servers: list[asyncio.Server] = []

    async def start(script: scripted.Script) -> str:
        server = await scripted.serve(script)
        servers.append(server)
        return f"http://127.0.0.1:{scripted.port_of(server)}/v1"

    yield start
    for server in servers:
        server.close()


@asynccontextmanager
async def answering(answer: Answers) -> AsyncIterator[str]:
    """A server that reads one request after the other and answers each as told."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line)
                await reader.readexactly(length)
                await answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def whole(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """An HTTP answer as bytes."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body

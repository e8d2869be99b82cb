"""How a backend over HTTP is asked whether it would take a call."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from models.backend import Health
from models.types import Capabilities
from models.upstream import openai
from models.upstream.openai import OpenAIBackend, make_session


async def test_a_backend_is_asked_once_a_second_by_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def answer(_: web.Request) -> web.Response:
        asked.append(1)
        await asyncio.sleep(0.2)
        return web.Response(status=200 if len(asked) == 1 else 503)

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    async with make_session() as session:
        backend = OpenAIBackend("box/0", url, "m", session, None, Capabilities(), health_path="models")
        monkeypatch.setattr(openai, "HEALTH_EVERY_S", 60.0)
        leaves = asyncio.create_task(backend.health())
        await asyncio.sleep(0.05)
        leaves.cancel()  # who asked first and left takes the answer from nobody
        assert await asyncio.gather(*(backend.health() for _ in range(3))) == [Health(True)] * 3
        assert await backend.health() == Health(True) and len(asked) == 1
        monkeypatch.setattr(openai, "HEALTH_EVERY_S", 0.0)
        assert await backend.health() == Health(False, "status 503")
    await runner.cleanup()

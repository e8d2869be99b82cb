"""Our own engine as a backend: gone at once when its process is gone. Presence is told by locks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from models.errors import NotUp, Unavailable
from models.local.presence import announce, anyone
from models.types import Capabilities
from models.upstream.engine import EngineBackend
from models.upstream.openai import make_session
from tests.contract.servers import OpenAIServer
from tests.contract.upstream import Script, call

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, pathlib, models.local.presence as presence
presence.announce(pathlib.Path(sys.argv[1])); print(1, flush=True); input()
"""


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with make_session() as found:
        yield found


def backend(url: str, session: aiohttp.ClientSession, presence: Path) -> EngineBackend:
    return EngineBackend("small/0", f"{url}/v1", "m", session, None, Capabilities(), presence=presence)


def test_a_process_is_there_until_it_closes_or_dies(tmp_path: Path) -> None:
    assert not anyone(tmp_path / "nowhere")
    fd = announce(tmp_path)
    assert anyone(tmp_path)
    os.close(fd)
    assert not anyone(tmp_path) and not list(tmp_path.iterdir())
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
    assert anyone(tmp_path)
    holder.kill()
    holder.wait(10)
    holder.communicate()
    assert not anyone(tmp_path)


async def test_nothing_is_sent_to_an_engine_that_is_not_up(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    server = OpenAIServer()
    async with server.running(OpenAIServer.path):
        engine = backend(server.url, session, tmp_path)
        assert not (await engine.health()).ready
        with pytest.raises(NotUp, match="not up") as caught:
            await engine.complete(call())
        assert (caught.value.http_status, caught.value.retry_after_s) == (503, 10.0)
        fd = announce(tmp_path)
        assert (await engine.health()).ready
        assert (await engine.complete(call())).usage is not None
        os.close(fd)
    assert len(server.received) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_waits_is_given_up_when_the_last_engine_goes(
    session: aiohttp.ClientSession, tmp_path: Path, stream: bool
) -> None:
    server = OpenAIServer()
    server.script = Script(delay_s=20)
    async with server.running(OpenAIServer.path):
        engine = backend(server.url, session, tmp_path)
        fd = announce(tmp_path)

        async def ask() -> None:
            if not stream:
                await engine.complete(call())
            async for _ in engine.stream(call(stream=True)):
                pass

        asked = asyncio.create_task(ask())
        await asyncio.sleep(0.2)
        assert not asked.done()
        began_s = time.monotonic()
        os.close(fd)
        with pytest.raises(Unavailable, match="went away"):
            await asked
        assert time.monotonic() - began_s < 5
        await engine.aclose()

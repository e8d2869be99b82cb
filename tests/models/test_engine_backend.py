"""Our own engine as a backend: gone at once when its process is gone. Presence is told by locks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import aiohttp
import pytest

from models.breaker import BreakerPolicy
from models.errors import FarthingError, NotUp, StreamCut, Unavailable
from models.local.presence import announce, anyone
from models.pool import Pool
from models.retry import RetryPolicy
from models.types import Capabilities, Chunk
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
        with pytest.raises(NotUp, match="went away"):
            await asked
        assert time.monotonic() - began_s < 5
        await engine.aclose()


async def test_another_instances_engine_on_our_ones_port_costs_no_cool_down(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    server = OpenAIServer()
    async with server.running(OpenAIServer.path):
        pool = Pool("small", [backend(server.url, session, tmp_path)], RetryPolicy(attempts=1))
        fd = announce(tmp_path)
        server.script = Script(status=401, error_code="invalid_api_key")
        assert type(await _error_of(pool.ask(call()))) is Unavailable
        server.script = Script()
        assert (await pool.ask(call())).completion is not None
        os.close(fd)


async def test_an_engine_that_is_back_answers_all_who_ask_at_once(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Its predecessor took streams and waiting calls along, and many asked in vain: nothing of that is left."""
    server = OpenAIServer()
    async with server.running(OpenAIServer.path):
        engine = backend(server.url, session, tmp_path)
        pool = Pool("small", [engine], breaker=BreakerPolicy(failures=2))
        fd = announce(tmp_path)
        server.script = Script(word_s=1.0, cut_after=1)
        streams = await asyncio.gather(*(pool.ask(call(stream=True)) for _ in range(3)))
        server.script = Script(delay_s=20)
        waiting = [asyncio.create_task(pool.ask(call())) for _ in range(3)]
        await asyncio.sleep(0.1)
        os.close(fd)
        broken = [await _error_of(_read(reply.chunks)) for reply in streams]
        assert [type(error) for error in broken] == [StreamCut] * 3
        assert {type(await _error_of(one)) for one in waiting} == {NotUp}
        assert {type(await _error_of(pool.ask(call()))) for _ in range(3)} == {NotUp}
        server.script = Script()
        fd = announce(tmp_path)
        (health,) = await pool.health()
        answers = await asyncio.gather(*(pool.ask(call()) for _ in range(4)))
        os.close(fd)
    assert health.ready and health.breaker == "closed"
    assert all(answer.completion is not None for answer in answers)
    await engine.aclose()


async def _read(chunks: AsyncIterator[Chunk] | None) -> None:
    assert chunks is not None
    async for _ in chunks:
        pass


async def _error_of(work: Awaitable[object]) -> FarthingError:
    with pytest.raises(FarthingError) as caught:
        await work
    return caught.value

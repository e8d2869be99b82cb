"""Clients that leave: vLLM stops working for them soon, and each has its row."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.stack.conftest import Service, still, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]
CLIENTS = 20


async def leave(service: Service, number: int, stream: bool) -> None:
    """Ask for something long, and go after a moment."""
    prompt = f"Tell a very long story about number {number}, {'streamed' if stream else 'whole'}."
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 2000,
        "stream": stream,
        "ignore_eos": True,
    }
    try:
        url = f"{service.url}/v1/chat/completions"
        async with asyncio.timeout(1.5), aiohttp.ClientSession() as http, http.post(url, json=body) as response:
            await response.read()
    except TimeoutError:
        return
    raise AssertionError("2000 tokens in 1.5 s?")


async def test_twenty_unary_and_twenty_streaming_clients_leave_and_vllm_is_idle_soon(service: Service) -> None:
    before = len(await asyncio.to_thread(still, service.rows))
    everyone = [leave(service, n, stream) for n in range(CLIENTS) for stream in (False, True)]
    await asyncio.gather(*everyone)
    # 80,000 tokens would take this machine ten minutes; the step vLLM is in, a prefill of many prompts, takes seconds
    await asyncio.to_thread(until, lambda: service.engine_load()["running"] == 0, 30, "vLLM idle")
    assert service.engine_load()["waiting"] == 0
    rows = await asyncio.to_thread(service.settled, before + 2 * CLIENTS)
    assert len(rows) == before + 2 * CLIENTS
    assert sum(row["status"] == "cancelled" for row in rows) >= 2 * CLIENTS - 2

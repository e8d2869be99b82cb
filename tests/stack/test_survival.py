"""kill -9 under load, of everything that can die; then the end of the service itself. Runs last: none is left after."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import aiohttp
import psutil
import pytest

from tests.stack.conftest import ROOT, Service, still, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


async def load(service: Service, count: int, model: str, during: Any) -> tuple[Counter[int], list[str]]:
    """Send `count` requests, eight at a time, and do `during()` in the middle. Returns statuses and answered ids."""
    statuses: Counter[int] = Counter()
    answered: list[str] = []
    gate = asyncio.Semaphore(8)

    async def one(http: aiohttp.ClientSession, number: int) -> None:
        async with gate:
            if number == count // 2:
                await asyncio.to_thread(during)
            body = {
                "model": model,
                "messages": [{"role": "user", "content": f"Say {time.time_ns()} {number}"}],
                "max_tokens": 4,
                "stream": bool(number % 2),
            }
            try:
                async with http.post(f"{service.url}/v1/chat/completions", json=body) as response:
                    text = await response.text()
                    statuses[response.status] += 1
                    if response.status == 200 and ("[DONE]" in text or "choices" in text) and '"error"' not in text:
                        answered.append(response.headers["x-request-id"])
            except aiohttp.ClientError:
                statuses[0] += 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        await asyncio.gather(*(one(http, n) for n in range(count)))
    return statuses, answered


def check_rows(service: Service, before: int, sent: int, answered: list[str]) -> list[dict[str, Any]]:
    """One row a request, and none for a request that was never sent."""
    time.sleep(1)
    rows = service.settled(before + len(answered))
    ids = Counter(row["request_id"] for row in rows)
    assert max(ids.values()) == 1
    assert set(answered) <= set(ids)
    assert before + len(answered) <= len(rows) <= before + sent
    ended = {row["request_id"]: row["status"] for row in rows}
    assert all(ended[i] in ("answered", "cached", "coalesced") for i in answered)
    return rows


async def back(service: Service) -> None:
    """The engine again; and what is ready answers all who ask at once, whichever gateway they come to."""
    until(lambda: service.tier_ready("small"), 240, "the engine again")
    statuses, _ = await load(service, 12, "small", lambda: None)
    assert statuses == {200: 12}


async def test_a_killed_ledger_writer_loses_and_doubles_nothing(service: Service) -> None:
    before = len(await asyncio.to_thread(still, service.rows))
    (writer,) = service.processes("ray::ServeReplica:gateway:Ledger")
    statuses, answered = await load(service, 60, "frontier", writer.kill)
    until(lambda: service.processes("ray::ServeReplica:gateway:Ledger"), 60, "a new ledger process")
    assert statuses == {200: 60}
    rows = until(lambda: (r := service.rows()) and len(r) == before + 60 and r, 60, "all rows")
    assert {row["request_id"] for row in rows} >= set(answered)


async def test_a_killed_gateway_closes_its_requests_as_lost_and_the_other_serves_on(service: Service) -> None:
    before = len(await asyncio.to_thread(still, service.rows))
    victim = service.processes("ray::ServeReplica:gateway:Gateway")[0]
    statuses, answered = await load(service, 80, "small", victim.kill)
    assert statuses[200] >= 50, statuses
    rows = await asyncio.to_thread(check_rows, service, before, 80, answered)
    assert {row["status"] for row in rows} <= {
        "answered",
        "cached",
        "coalesced",
        "cancelled",
        "failed",
        "refused",
        "lost",
    }
    until(lambda: len(service.processes("ray::ServeReplica:gateway:Gateway")) == 2, 90, "a second gateway again")
    until(lambda: all(service.chat(f"again {n}").status_code == 200 for n in range(4)), 30, "answers again")


async def test_a_killed_engine_is_covered_by_the_frontier_and_leaves_no_process(service: Service) -> None:
    before = len(await asyncio.to_thread(still, service.rows))
    (engine,) = service.processes("ray::ServeReplica:engine:Engine")
    family = engine.children(recursive=True)
    assert family
    statuses, answered = await load(service, 40, "auto", engine.kill)
    assert statuses == {200: 40}, statuses
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 10)
    assert alive == []
    rows = await asyncio.to_thread(check_rows, service, before, 40, answered)
    covered = [row for row in rows[before:] if row["route"] == "frontier"]
    assert covered and all(row["reason"].startswith("fallback_") for row in covered)
    await back(service)


async def test_an_engine_whose_core_is_killed_is_not_called_ready(service: Service) -> None:
    """vLLM's own process: Ray's goes on for a quarter of a minute before Serve replaces it."""
    (engine,) = service.processes("ray::ServeReplica:engine:Engine")
    (core,) = service.processes("EngineCore")
    core.kill()
    await asyncio.to_thread(until, lambda: not service.tier_ready("small"), 5, "not ready")
    assert engine.is_running()
    refused = service.chat("Is anybody there?", model="small")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "upstream_unavailable")
    covered = service.chat("Who else?")
    assert (covered.status_code, covered.headers["x-farthing-route"]) == (200, "frontier")
    await back(service)


def test_a_second_instance_is_refused_and_says_why(service: Service) -> None:
    command = [sys.executable, "-m", "serving", "run", "--config", str(service.config)]
    port = service.url.rsplit(":", 1)[1]
    taken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"TEST_API_KEY": "x"})
    assert taken.returncode == 2
    assert f"port {port}" in taken.stderr and "held by process" in taken.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        other = str(probe.getsockname()[1])
    locked = subprocess.run(
        [*command, "--port", other], cwd=ROOT, capture_output=True, text=True, env={"TEST_API_KEY": "x"}
    )
    assert locked.returncode == 2
    assert f"in use by process {service.process.pid}" in locked.stderr


async def test_an_interrupt_lets_answers_finish_and_leaves_nothing(service: Service) -> None:
    await asyncio.to_thread(until, lambda: service.tier_ready("small"), 180, "the engine")
    family = psutil.Process(service.process.pid).children(recursive=True)
    assert any("haproxy" in p.name() for p in family)
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": "Tell a story."}],
        "max_tokens": 150,
        "stream": True,
        "ignore_eos": True,
    }
    async with aiohttp.ClientSession() as http, http.post(f"{service.url}/v1/chat/completions", json=body) as response:
        await response.content.readany()
        service.process.send_signal(signal.SIGINT)
        rest = await response.read()
    assert b"[DONE]" in rest
    assert await asyncio.to_thread(service.process.wait, 90) == 0
    _, alive = psutil.wait_procs(family, 5)
    assert alive == []
    assert not list((service.state / "run" / "secrets").glob("*"))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger; listeners may not
        probe.bind(("127.0.0.1", int(service.url.rsplit(":", 1)[1])))

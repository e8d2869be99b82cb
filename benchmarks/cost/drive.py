"""Asks a workload's requests at their arrival times, whatever the server does, and keeps what came back.

An open loop: a slow server is not spared, and a request that must wait for its turn in here counts from the moment it
was due. Streams, so that the time to the first token is seen. Knows no price and does not grade.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import aiohttp
import orjson

from benchmarks.cost.workload import Request

TIMEOUT_S: Final = 300.0
TOLD_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where, as whom and for which model to ask. keys: by the requests' tenant. extra: more fields of every body."""

    v1: str
    keys: Mapping[str, str]
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request brought. Times in seconds; `at_s` is when it was due, from the start of the workload.

    `cached_tokens` is the part of `input_tokens` that the provider had cached. `cost_usd` is what the service itself
    says; None where it says nothing. `error` is empty for a whole answer. `route` is empty where the headers had to
    leave before it was known (docs/api.md); the ledger knows it by `request_id`. `wasted_nusd`, too, is the ledger's:
    answers to this request that were begun and thrown away.
    """

    id: str
    at_s: float
    latency_s: float
    ttft_s: float | None = None
    text: str = ""
    route: str = ""
    model: str = ""
    cache: str = ""
    reason: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    error: str = ""
    answer_id: str = ""
    request_id: str = ""
    wasted_nusd: int = 0


@dataclass(slots=True)
class Driver:
    """One pass over a workload. `done` is told every reply as it comes; once it says False nothing further is sent.

    Where a request's phase is another than the one's before, all that was sent has been answered to its first token,
    and then `between` is called; arrivals after it are so much later.
    """

    target: Target
    done: Callable[[Reply], bool]
    say: Callable[[str], None]
    between: Callable[[Request], None] = lambda _: None
    _unheard: _Unheard = field(default_factory=lambda: _Unheard())
    _going: bool = True

    async def run(self, requests: Sequence[Request]) -> float:
        """The seconds from the first arrival to the last answer, pauses between phases left out."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        progress = _Progress(len(requests), self.say)
        connector = aiohttp.TCPConnector(limit=0)
        phase, paused_s = None, 0.0
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            began_s = time.perf_counter()
            for request in requests:
                if request.phase != phase:
                    phase, paused_s = request.phase, paused_s + await self._pause(request)
                due_s = began_s + paused_s + request.arrival_s - requests[0].arrival_s
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                if not self._going:
                    break
                self._unheard.add(request.id)
                tasks.create_task(self._ask(session, request, due_s, progress))
        return time.perf_counter() - began_s - paused_s

    async def _pause(self, request: Request) -> float:
        paused_s = time.perf_counter()
        await self._unheard.none.wait()
        await asyncio.to_thread(self.between, request)
        return time.perf_counter() - paused_s

    async def _ask(self, session: aiohttp.ClientSession, request: Request, due_s: float, progress: _Progress) -> None:
        reply = await self._answer(session, request, due_s)
        self._unheard.heard(request.id)
        progress.ended(reply.error)
        self._going = self.done(reply) and self._going

    async def _answer(self, session: aiohttp.ClientSession, request: Request, due_s: float) -> Reply:
        key = self.target.keys.get(request.tenant, "")
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        sent = orjson.dumps(body(request, self.target))
        try:
            url = f"{self.target.v1}/chat/completions"
            async with session.post(url, data=sent, headers=headers) as response:
                if response.status != 200:
                    return _failed(request, due_s, f"status {response.status}: {(await response.text())[:300]}")
                return await _read(response, request, due_s, self._unheard)
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as exc:
            return _failed(request, due_s, repr(exc))


async def drive(
    requests: Sequence[Request], target: Target, done: Callable[[Reply], bool], say: Callable[[str], None]
) -> float:
    """A workload without phases; see `Driver`."""
    return await Driver(target, done, say).run([replace(request, phase=0) for request in requests])


def body(request: Request, target: Target) -> dict[str, Any]:
    found: dict[str, Any] = {"model": target.model, "messages": list(request.messages), "stream": True}
    found["stream_options"] = {"include_usage": True}
    if request.max_tokens is not None:
        found["max_tokens"] = request.max_tokens
    return found | dict(target.extra)


async def _read(response: aiohttp.ClientResponse, request: Request, due_s: float, unheard: _Unheard) -> Reply:
    parts: list[str] = []
    usage: Mapping[str, Any] = {}
    ttft_s, ended, answer_id = None, False, ""
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        if line.strip() == b"data: [DONE]":
            ended = True
            break
        event = orjson.loads(line[5:])
        if "error" in event:
            return _failed(request, due_s, f"error event {event['error']}")
        usage = event.get("usage") or usage
        answer_id = answer_id or event.get("id", "")
        for choice in event.get("choices") or ():
            if text := choice["delta"].get("content"):
                if ttft_s is None:
                    ttft_s = time.perf_counter() - due_s
                    unheard.heard(request.id)
                parts.append(text)
    said = response.headers
    return Reply(
        id=request.id,
        at_s=request.arrival_s,
        latency_s=time.perf_counter() - due_s,
        ttft_s=ttft_s,
        text="".join(parts),
        route=said.get("x-farthing-route", ""),
        model=said.get("x-farthing-model", ""),
        cache=said.get("x-farthing-cache", ""),
        reason=said.get("x-farthing-reason", ""),
        input_tokens=int(usage.get("prompt_tokens", 0)),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens", 0)),
        cost_usd=usage.get("cost"),
        error="" if ended else "the stream has no [DONE]",
        answer_id=answer_id,
        request_id=said.get("x-request-id", ""),
    )


def _failed(request: Request, due_s: float, why: str) -> Reply:
    return Reply(request.id, request.arrival_s, time.perf_counter() - due_s, error=why)


class _Unheard:
    """Requests that were sent and have brought nothing yet. `none` is set while there are none."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self.none = asyncio.Event()
        self.none.set()

    def add(self, id: str) -> None:
        self._ids.add(id)
        self.none.clear()

    def heard(self, id: str) -> None:
        self._ids.discard(id)
        if not self._ids:
            self.none.set()


class _Progress:
    """A line every ten seconds, and the first failure in its own words."""

    def __init__(self, count: int, say: Callable[[str], None]) -> None:
        self._count, self._say = count, say
        self._done = self._failed = 0
        self._told_s = time.monotonic()

    def ended(self, error: str) -> None:
        self._done += 1
        if error and not self._failed:
            self._say(f"  failed: {error[:200]}")
        self._failed += bool(error)
        if time.monotonic() - self._told_s > TOLD_EVERY_S:
            self._told_s = time.monotonic()
            failures = f", {self._failed} failed" if self._failed else ""
            self._say(f"  {self._done:,} of {self._count:,} answered{failures}")

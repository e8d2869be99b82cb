"""Our own engine on this node: an OpenAI-shaped backend that is known at once to be gone.

Calls go through Serve's proxy, which holds a request for a dead engine until the next one is up. So none is sent to an
engine that is not there, and one that waits for its first byte is given up when the last engine goes. Whatever fails
while none is there is `NotUp`.

Ours takes the token of our own file. Who refuses it is another instance's engine, on the port of a dead one that the
proxy has not forgotten yet: no reason to leave ours alone for minutes, as a refused key is elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from models.backend import Health
from models.errors import KeyRejected, NotUp, Unavailable, UpstreamError
from models.local.presence import anyone
from models.types import Call, Json
from models.upstream.openai import OpenAIBackend

LOOK_EVERY_S = 0.1
START_S = 10.0  # no engine is up sooner, so a caller may well wait; the pool, which retries within seconds, need not


class EngineBackend(OpenAIBackend):
    """Implements `models.backend.Backend`; `presence` is the folder where its engines announce themselves."""

    def __init__(self, *arguments: Any, presence: Path, **facts: Any) -> None:
        super().__init__(*arguments, **facts)
        self._presence = presence
        self._waiting: set[asyncio.Timeout] = set()
        self._watch: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def _post(self, path: str, body: Json, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        if not anyone(self._presence):
            raise NotUp(f"{self.name}: the engine is not up", retry_after_s=START_S)
        try:
            async with AsyncExitStack() as stack:
                limit = asyncio.timeout(None)
                try:
                    async with limit:
                        self._waiting.add(limit)
                        self._keep_watch()
                        response = await stack.enter_async_context(super()._post(path, body, call))
                finally:
                    self._waiting.discard(limit)
                yield response
        except (UpstreamError, TimeoutError) as exc:
            if isinstance(exc, TimeoutError) or not anyone(self._presence):
                raise NotUp(f"{self.name}: the engine went away", retry_after_s=START_S) from exc
            if isinstance(exc, KeyRejected):
                raise Unavailable(f"{self.name}: the proxy asked an engine that is not ours") from exc
            raise

    def _keep_watch(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """While anybody waits: when no engine is left, let them all go."""
        while self._waiting:
            await asyncio.sleep(LOOK_EVERY_S)
            if not anyone(self._presence):
                for limit in self._waiting:
                    limit.reschedule(asyncio.get_running_loop().time())
                return

    async def health(self) -> Health:
        up = anyone(self._presence)
        return Health(up, "" if up else "the engine is not up")

    async def aclose(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

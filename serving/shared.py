"""What all gateways of an instance share: keys, the exact cache, kept texts, stored answers.

On the head it lies in files and the database beside them; a gateway on another node asks the head for it. Part of the
composition root, which need not know which of the two it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import aiohttp

from models.errors import Unavailable
from serving.asgi import Exchange
from serving.cache.exact import CacheLimits, ExactCache
from serving.cache.remote import AnswerCache, RemoteCache
from serving.config import Config
from serving.courier import Courier
from serving.desk import Head
from serving.ledger import texts
from serving.ledger.keys import KeySnapshot, Load, loader
from serving.ledger.store import Store
from serving.ledger.texts import Kept
from serving.runtime import Runtime
from serving.side import BODY_WAIT_S, MAX_SMALL_BODY_BYTES, Handler
from serving.texts.log import Save

MIB = 1 << 20
KEYS_WAIT_S = 5.0
SAVE_WAIT_S = 10.0
PASS_ON_WAIT_S = 30.0
PASSED_ON = "x-farthing-passed-on"


@dataclass(frozen=True, slots=True)
class Here:
    """On the head."""

    store: Store
    cache: ExactCache | None

    @property
    def load(self) -> Load:
        return loader(self.store)

    @property
    def save(self) -> Save:
        return partial(texts.put, self.store)

    async def close(self) -> None:
        if self.cache is not None:
            await self.cache.close()
        self.store.close()


@dataclass(frozen=True, slots=True)
class Away:
    """On another node. `courier` brings the journal to the head."""

    head: Head
    courier: Courier
    url: str  # of the head's gateways
    cache: AnswerCache | None

    @property
    def load(self) -> Load:
        return self._keys

    @property
    def save(self) -> Save:
        return _from_thread(self.head.keep_texts, asyncio.get_running_loop())

    def passes_on(self, session: aiohttp.ClientSession) -> Handler:
        """Feedback and deletions: stored answers have one owner."""

        async def pass_on(exchange: Exchange) -> None:
            if exchange.header(PASSED_ON) is not None:  # the head's HAProxy had none of its own to ask
                raise Unavailable("the head's gateways are not up; try again shortly", retry_after_s=2.0)
            body = await exchange.body(MAX_SMALL_BODY_BYTES, BODY_WAIT_S)
            headers = {n: v for n in ("authorization", "content-type") if (v := exchange.header(n)) is not None}
            headers[PASSED_ON] = "1"
            url = f"{self.url}{exchange.path}" + (f"?{exchange.query}" if exchange.query else "")
            timeout = aiohttp.ClientTimeout(total=PASS_ON_WAIT_S)
            try:
                async with session.request(exchange.method, url, data=body, headers=headers, timeout=timeout) as answer:
                    told = {"content-type": answer.content_type}
                    if (after := answer.headers.get("retry-after")) is not None:
                        told["retry-after"] = after
                    await exchange.reply(answer.status, told, await answer.read())
            except (aiohttp.ClientError, TimeoutError) as exc:
                raise Unavailable("the head does not answer; try again shortly", retry_after_s=2.0) from exc

        return pass_on

    async def _keys(self, version: int) -> KeySnapshot | None:
        """Bounded: who waited for ever for one answer would never hear of a revoked key again."""
        async with asyncio.timeout(KEYS_WAIT_S):
            return await self.head.keys(version)

    async def close(self) -> None:
        """After the journal has been released."""
        if self.cache is not None:
            await self.cache.close()
        await self.courier.close()


async def open_here(config: Config, runtime: Runtime) -> Here:
    store = await asyncio.to_thread(Store.open, config.ledger_url)
    return Here(store, await open_cache(config, runtime))


async def open_away(config: Config, runtime: Runtime, head: Head, url: str) -> Away:
    """Raises StartError when the head does not answer. The node's folder is ready when this returns."""
    courier = Courier(runtime, head)
    await courier.start()
    return Away(
        head, courier, url, RemoteCache(head, CacheLimits().max_entry_bytes) if config.cache.exact.enabled else None
    )


async def open_cache(config: Config, runtime: Runtime) -> ExactCache | None:
    exact = config.cache.exact
    if not exact.enabled:
        return None
    limits = CacheLimits(exact.max_mib * MIB, exact.memory_mib * MIB, ttl_s=float(exact.ttl_s))
    return await ExactCache.open(runtime.cache_file, limits)


def _from_thread(send: Callable[[Sequence[Kept]], Awaitable[int]], loop: asyncio.AbstractEventLoop) -> Save:
    """A call on the loop, made from a thread that waits for it."""

    async def sent(kept: Sequence[Kept]) -> int:
        async with asyncio.timeout(SAVE_WAIT_S):
            return await send(kept)

    def save(kept: Sequence[Kept]) -> int:
        return asyncio.run_coroutine_threadsafe(sent(kept), loop).result()

    return save

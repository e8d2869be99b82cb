"""Texts that come at the same time, encoded together: one thread, and whatever waited while it worked is one batch.

Nothing waits for company: an idle encoder starts at once, so a single request pays no batching delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.embedding.encoder import Encoder

Vectors = NDArray[np.float32]
_MOST_TEXTS: Final = 256  # of one call to the encoder: what comes after it waits for the next


@dataclass(slots=True)
class _Wanted:
    texts: Sequence[str]
    ready: asyncio.Future[Vectors]


class Batcher:
    """Belongs to one event loop; `close` ends its thread."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._waiting: list[_Wanted] = []
        self._working: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "encoder")

    async def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, dim). Raises what the encoder raises."""
        if not texts:
            return np.empty((0, self.encoder.dim), np.float32)
        wanted = _Wanted(texts, asyncio.get_running_loop().create_future())
        self._waiting.append(wanted)
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())
        return await wanted.ready

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._encode(batch)
        finally:
            self._working = None

    def _next(self) -> list[_Wanted]:
        """Those still wanted, in their order, up to `_MOST_TEXTS` texts but at least one caller's."""
        self._waiting = [wanted for wanted in self._waiting if not wanted.ready.done()]
        count = texts = 0
        for wanted in self._waiting:
            texts += len(wanted.texts)
            if count and texts > _MOST_TEXTS:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _encode(self, batch: list[_Wanted]) -> None:
        texts = [text for wanted in batch for text in wanted.texts]
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self.encoder.encode, texts)
        except Exception as error:  # noqa: BLE001 - the edge of a task: each caller gets it
            for wanted in batch:
                if not wanted.ready.done():
                    wanted.ready.set_exception(error)
            return
        at = 0
        for wanted in batch:
            if not wanted.ready.done():  # its caller may have stopped waiting meanwhile
                wanted.ready.set_result(vectors[at : at + len(wanted.texts)])
            at += len(wanted.texts)

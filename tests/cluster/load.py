"""Callers of a gateway, as its users are: OpenAI's client, no retries of its own, as many at once as asked for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import openai


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its caller saw it. `outcome`: answered, cut (a stream that broke off after its first text), or
    what was wrong. `first_s` is the time to the first text of a stream."""

    began_s: float
    took_s: float
    streamed: bool
    outcome: str
    first_s: float | None = None

    def under_way(self, at_s: float) -> bool:
        return self.began_s <= at_s <= self.began_s + self.took_s


@dataclass
class Load:
    """`callers` ask one after the other, every other one streaming, until stopped. No question about a `topic` comes
    twice."""

    url: str
    callers: int
    max_tokens: int
    topic: str
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last request under way has ended."""
        self._stop.set()
        self._thread.join()

    async def _all(self) -> None:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0) as client:
            await asyncio.gather(*(self._one_caller(client, number) for number in range(self.callers)))

    async def _one_caller(self, client: openai.AsyncOpenAI, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            question = f"Caller {number} asks for story {turn} about {self.topic}."
            began_s = time.monotonic()
            outcome, first_s = await self._ask(client, question, streamed=bool(number % 2))
            took_s = time.monotonic() - began_s
            self.asked.append(Asked(began_s, took_s, bool(number % 2), outcome, first_s))
            turn += 1

    async def _ask(self, client: openai.AsyncOpenAI, question: str, *, streamed: bool) -> tuple[str, float | None]:
        body: Any = {
            "model": "auto",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": self.max_tokens,
        }
        began_s, first_s = time.monotonic(), None
        try:
            if not streamed:
                whole = await client.chat.completions.create(**body)
                return ("answered" if whole.choices[0].message.content else "no text"), None
            finished = False
            async for chunk in await client.chat.completions.create(**body, stream=True):
                for choice in chunk.choices:
                    if choice.delta.content and first_s is None:
                        first_s = time.monotonic() - began_s
                    finished = finished or choice.finish_reason is not None
            return ("answered" if finished and first_s is not None else "cut"), first_s
        except openai.OpenAIError as error:
            wrong = f"{type(error).__name__}: {error}"
            return ("cut" if first_s is not None else wrong), first_s


def outcomes(asked: Iterable[Asked]) -> Counter[str]:
    return Counter(one.outcome for one in asked)


def latencies(asked: Iterable[Asked]) -> str:
    """`p50 1.2 s, p95 3.4 s, slowest 5.6 s` of those that were answered."""
    took_s = sorted(one.took_s for one in asked if one.outcome == "answered")
    if not took_s:
        return "none answered"
    at = [took_s[min(len(took_s) - 1, round(share * (len(took_s) - 1)))] for share in (0.5, 0.95, 1.0)]
    return f"p50 {at[0]:.1f} s, p95 {at[1]:.1f} s, slowest {at[2]:.1f} s"

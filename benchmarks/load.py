"""A closed loop of N callers against one OpenAI-compatible server, in a process of its own.

    python -m benchmarks.load --url http://127.0.0.1:8000/v1 --model small --clients 32 --seconds 5 --stream

Every caller has one connection and asks again as soon as its answer is whole. Every answer is checked whole; one that is
not right is an error, and any error makes the exit code 1. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks import scripted
from benchmarks.client import Caller, Expected
from benchmarks.measure import Sample, Targets, summarize

MAX_ERRORS = 20
WATCH_EVERY_S = 0.25
COUNTER = b"00000000"
VOCABULARY = (
    "river market letter window summer engine paper garden bridge number village captain morning copper island winter "
    "doctor record silver forest station teacher harbour picture message history kitchen journey question mountain"
).split()


@dataclass(frozen=True, slots=True)
class Plan:
    """One measurement. `nonce` opens every prompt: another nonce, other prompts, as long as they are not repeated."""

    url: str
    model: str
    key: str = ""
    stream: bool = False
    clients: int = 1
    seconds: float | None = 5.0
    count: int | None = None
    warmup: int = 0
    tokens: int | None = None
    prompt_words: int = 16
    repeat: bool = False
    nonce: str = "0"
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    expected: Expected = Expected()
    targets: Targets = Targets()
    timeout_s: float = 120.0


def prompt(plan: Plan) -> str:
    """Number first: two prompts differ from their first token on, so that no prefix cache shortens one."""
    words = random.Random(plan.seed).choices(VOCABULARY, k=plan.prompt_words)
    return f"{COUNTER.decode()} {plan.nonce}: {' '.join(words)}"


class Requests:
    """Whole HTTP requests as bytes: all but the prompt's number is made once."""

    def __init__(self, plan: Plan) -> None:
        address = urlsplit(plan.url)
        body: dict[str, Any] = {"model": plan.model, "messages": [{"role": "user", "content": prompt(plan)}]}
        if plan.stream:
            body["stream"] = True
        if plan.tokens is not None:
            body["max_tokens"] = plan.tokens
        raw = orjson.dumps({**body, **plan.extra})
        head = f"POST {address.path.rstrip('/')}/chat/completions HTTP/1.1\r\nhost: {address.netloc}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n"
        head += f"authorization: Bearer {plan.key}\r\n\r\n" if plan.key else "\r\n"
        whole = head.encode() + raw
        at = whole.index(COUNTER + b" ")
        self._before, self._after = whole[:at], whole[at + len(COUNTER) :]
        self._repeat = plan.repeat
        self._next = 0

    def next(self) -> bytes:
        number = 0 if self._repeat else self._next
        self._next += 1
        return b"%b%08d%b" % (self._before, number, self._after)


class Load:
    """Implements `client.Source` for all callers of one measurement."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = Requests(plan)
        self._callers: set[Caller] = set()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._quota = 0
        self._until_s = float("inf")
        self._in_flight = 0
        self._idle = asyncio.Event()
        self.expected = Expected(stream=plan.stream)
        self.samples: list[Sample] = []
        self.errors: list[str] = []
        self.last_s = 0.0

    def next_request(self) -> bytes | None:
        if self._quota <= 0 or len(self.errors) >= MAX_ERRORS or perf_counter() >= self._until_s:
            return None
        self._quota -= 1
        self._in_flight += 1
        return self._requests.next()

"""A closed loop of N callers against one OpenAI-compatible server, in a process of its own.

    python -m benchmarks.load --url http://127.0.0.1:8000/v1 --model small --clients 32 --seconds 5 --stream

Every caller has one connection and asks again as soon as its answer is whole. Every answer is checked whole; one that
is not right is an error, and any error makes the exit code 1. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks import scripted
from benchmarks.client import Caller, Expected
from benchmarks.measure import Sample, Targets, summarize

MAX_ERRORS = 20
KEY_ENV = "FARTHING_KEY"
WATCH_EVERY_S = 0.25
COUNTER = b"00000000"
VOCABULARY = (
    *("river", "market", "letter", "window", "summer", "engine", "paper", "garden", "bridge", "number"),
    *("village", "captain", "morning", "copper", "island", "winter", "doctor", "record", "silver", "forest"),
    *("station", "teacher", "harbour", "picture", "message", "history", "kitchen", "journey", "question", "mountain"),
)


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
    expected: Expected = field(default_factory=Expected)
    targets: Targets = field(default_factory=Targets)
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

    def answered(self, sample: Sample) -> None:
        self._ended()
        self.samples.append(sample)

    def failed(self, why: str) -> None:
        self._ended()
        self.errors.append(why)

    def _ended(self) -> None:
        self.last_s = perf_counter()
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    def disconnected(self) -> None:
        """Drop the caller that lost its connection; while requests are left another takes its place."""
        self._callers = {caller for caller in self._callers if caller.connected}
        if self._quota > 0 and len(self.errors) < MAX_ERRORS and perf_counter() < self._until_s:
            task = asyncio.create_task(self._reconnect())
            self._reconnecting.add(task)
            task.add_done_callback(self._reconnecting.discard)

    async def _reconnect(self) -> None:
        try:
            caller = await self._connect()
        except OSError as exc:
            self.errors.append(f"no connection: {exc}")
            return
        caller.ask()

    async def _connect(self) -> Caller:
        address = urlsplit(self._plan.url)
        loop = asyncio.get_running_loop()
        host = address.hostname or "127.0.0.1"
        _, caller = await loop.create_connection(lambda: Caller(self), host, address.port or 80)
        self._callers.add(caller)
        return caller

    async def run(self) -> dict[str, Any]:
        """Warm up, measure. Raises OSError where nobody listens."""
        plan = self._plan
        try:
            if plan.warmup:
                await self._phase(plan.warmup, None)
                if self.errors:
                    return self._report(0.0, 0.0)
                self.samples.clear()
            self.expected = replace(plan.expected, stream=plan.stream)
            # The answers of a run are many small objects that die young: the collector would only add its pauses.
            gc.collect()
            gc.disable()
            began_s, began_cpu_s = perf_counter(), time.process_time()
            await self._phase(sys.maxsize if plan.count is None else plan.count, plan.seconds)
            return self._report(self.last_s - began_s, time.process_time() - began_cpu_s)
        finally:
            gc.enable()
            for caller in self._callers:
                caller.close()

    async def _phase(self, quota: int, seconds: float | None) -> None:
        """Let every caller ask until the quota or the time is used up, and wait for the last answer."""
        missing = self._plan.clients - len(self._callers)  # a server may hang up on one that rests
        await asyncio.gather(*(self._connect() for _ in range(missing)))
        self._quota = quota
        self._until_s = float("inf") if seconds is None else perf_counter() + seconds
        self._idle.clear()
        for caller in list(self._callers):
            caller.ask()
        while self._in_flight or self._reconnecting or any(caller.leaving for caller in self._callers):
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), WATCH_EVERY_S)
            self._give_up_late()

    def _give_up_late(self) -> None:
        """A request without an end counts as an error, and must not hold up the others."""
        oldest_s = perf_counter() - self._plan.timeout_s
        for caller in list(self._callers):
            if caller.reply is not None and caller.reply.asked_s < oldest_s:
                caller.give_up(f"not whole after {self._plan.timeout_s:g} s")

    def _report(self, elapsed_s: float, cpu_s: float) -> dict[str, Any]:
        figures: dict[str, Any] = {"requests": 0}
        if self.samples and elapsed_s:
            figures = summarize(self.samples, elapsed_s, self._plan.targets)
        # Near 1 the caller is the bottleneck, and the figures are its own.
        figures["client_cpu_share"] = round(cpu_s / elapsed_s, 3) if elapsed_s else 0.0
        return {**figures, "errors": len(self.errors), "first_errors": self.errors[:3]}


async def drive(plan: Plan) -> dict[str, Any]:
    """Run one measurement in this process. Raises OSError where nobody listens."""
    return await Load(plan).run()


def arguments_of(plan: Plan) -> list[str]:
    """The command line that runs this plan in a process of its own; the key goes by the environment."""
    pairs: dict[str, Any] = {
        "--url": plan.url,
        "--model": plan.model,
        "--clients": plan.clients,
        "--seconds": plan.seconds if plan.count is None else None,
        "--count": plan.count,
        "--warmup": plan.warmup,
        "--tokens": plan.tokens,
        "--expect-tokens": plan.expected.tokens,
        "--expect-header": "=".join(plan.expected.header) if plan.expected.header else None,
        "--prompt-words": plan.prompt_words,
        "--nonce": plan.nonce,
        "--seed": plan.seed,
        "--extra": json.dumps(plan.extra) if plan.extra else None,
        "--ttft-target-ms": plan.targets.ttft_ms,
        "--tpot-target-ms": plan.targets.tpot_ms,
        "--timeout-s": plan.timeout_s,
    }
    switches = {"--stream": plan.stream, "--repeat": plan.repeat, "--scripted": plan.expected.text is not None}
    return [f"{k}={v}" for k, v in pairs.items() if v is not None] + [k for k, on in switches.items() if on]


def _plan(arguments: argparse.Namespace) -> Plan:
    tokens = arguments.expect_tokens
    wanted = arguments.tokens or scripted.DEFAULT_TOKENS
    header: tuple[str, str] | None = None
    if arguments.expect_header:
        name, _, value = arguments.expect_header.partition("=")
        header = (name.lower(), value)
    text = scripted.text(wanted) if arguments.scripted else None
    return Plan(
        url=arguments.url,
        model=arguments.model,
        key=os.environ.get(arguments.key_env, ""),
        stream=arguments.stream,
        clients=arguments.clients,
        seconds=arguments.seconds if arguments.count is None else None,
        count=arguments.count,
        warmup=arguments.warmup,
        tokens=arguments.tokens,
        prompt_words=arguments.prompt_words,
        repeat=arguments.repeat,
        nonce=arguments.nonce,
        seed=arguments.seed,
        extra=json.loads(arguments.extra),
        expected=Expected(text=text, tokens=tokens, header=header),
        targets=Targets(arguments.ttft_target_ms, arguments.tpot_target_ms),
        timeout_s=arguments.timeout_s,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="up to and with /v1; plain HTTP")
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--key-env", default=KEY_ENV, metavar="NAME", help=f"variable with the key (default: {KEY_ENV})"
    )
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--clients", type=positive, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--count", type=positive, help="so many requests instead of so many seconds")
    parser.add_argument("--warmup", type=int, default=0, metavar="N", help="requests before the measurement")
    parser.add_argument("--tokens", type=positive, help="max_tokens of every request")
    parser.add_argument("--prompt-words", type=positive, default=16)
    parser.add_argument("--repeat", action="store_true", help="always the same prompt")
    parser.add_argument("--nonce", default="0", help="opens every prompt: another one, other prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extra", default="{}", metavar="JSON", help="more fields of the body")
    parser.add_argument("--scripted", action="store_true", help="every answer must be benchmarks.scripted's")
    parser.add_argument("--expect-tokens", type=positive, metavar="N", help="every answer must have so many")
    parser.add_argument("--expect-header", metavar="NAME=VALUE", help="every answer must have it")
    parser.add_argument("--ttft-target-ms", type=float, help="counts towards goodput_rps")
    parser.add_argument("--tpot-target-ms", type=float)
    parser.add_argument("--timeout-s", type=float, default=120.0)
    return parser


def positive(text: str) -> int:
    """For argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not at least 1")
    return number


def counts(text: str) -> tuple[int, ...]:
    """For argparse: `1,32`, in ascending order."""
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers of clients, such as 1,32")
    return numbers


def main(argv: list[str] | None = None) -> int:
    plan = _plan(_parser().parse_args(argv))
    try:
        report = uvloop.run(drive(plan))
    except OSError as exc:
        print(f"benchmarks.load: cannot reach {plan.url}: {exc}", file=sys.stderr)
        return 2
    print(json.dumps(report))
    return 1 if report["errors"] or not report["requests"] else 0


if __name__ == "__main__":
    sys.exit(main())

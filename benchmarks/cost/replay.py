"""An OpenAI-compatible server that says what one model once said: recorded texts and token counts, at a stated speed.

    python -m benchmarks.cost.replay --folder WORKLOAD --model gpt-4o-2024-08-06 --ttft-ms 400 --tokens-per-s 80

A question is found by its whole conversation. A hosted model answers each request at the same speed. A GPU's speed is
shared (`--prefill-tokens-per-s`, `--decode-tokens-per-s`, `--running`): prompts are read one after the other, and all
answers under way share the decoding rate, none faster than `--tokens-per-s`. Knows no gateway and no price.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from aiohttp import web

from benchmarks.cost.workload import (
    ANSWERS,
    REQUESTS,
    Answer,
    by_conversation,
    conversation,
    read_answers,
    read_requests,
)

TICK_S: Final = 0.1
"""Tokens of so long come in one event. A real stream's are finer, and cost more CPU than two cores have."""
CREATED: Final = 1_760_000_000  # seconds
WARM_UP: Final = Answer("", "", "Hello.", 12, 2)
"""For what was never asked in the workload: an engine's warm-up, a probe."""


@dataclass(frozen=True, slots=True)
class Speed:
    """`ttft_s`: before the first token, beside the reading of the prompt. `tokens_per_s`: of one answer at most.

    The rest is a GPU's, shared by all requests; None: a hosted model, which has as many GPUs as it takes.
    """

    ttft_s: float
    tokens_per_s: float
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    running: int = 100_000

    def flags(self) -> dict[str, float]:
        found = {"ttft-ms": self.ttft_s * 1000, "tokens-per-s": self.tokens_per_s, "running": self.running}
        shared = {"prefill-tokens-per-s": self.prefill_tokens_per_s, "decode-tokens-per-s": self.decode_tokens_per_s}
        return found | {name: value for name, value in shared.items() if value is not None}


class Pace:
    """Says when how many tokens are there."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._read_until_s = 0.0
        self.decoding = 0
        self._places = asyncio.Semaphore(int(speed.running))

    async def tokens(self, answer: Answer) -> AsyncIterator[float]:
        """Tokens so far, at least once, up to `answer.output_tokens`."""
        async with self._places:
            await self._read(answer.input_tokens)
            self.decoding += 1
            try:
                done = min(1.0, answer.output_tokens)
                yield done
                while done < answer.output_tokens:
                    rate = self.rate(self.decoding)
                    step_s = min(TICK_S, (answer.output_tokens - done) / rate)
                    await asyncio.sleep(step_s)
                    done = min(float(answer.output_tokens), done + rate * step_s + 1e-9)
                    yield done
            finally:
                self.decoding -= 1

    async def _read(self, input_tokens: int) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._speed.prefill_tokens_per_s is not None:
            self._read_until_s = max(now_s, self._read_until_s) + input_tokens / self._speed.prefill_tokens_per_s
        await asyncio.sleep(self._speed.ttft_s + max(0.0, self._read_until_s - now_s))

    def rate(self, decoding: int) -> float:
        """Tokens a second of one of so many answers under way."""
        shared = self._speed.decode_tokens_per_s
        return self._speed.tokens_per_s if shared is None else min(self._speed.tokens_per_s, shared / decoding)


class Recording:
    """What one model said to each question of a workload."""

    def __init__(self, questions: Mapping[str, str], answers: Mapping[str, Answer], model: str) -> None:
        self._questions, self._answers, self.model = questions, answers, model
        self._numbers = itertools.count()

    @classmethod
    def read(cls, folder: Path, model: str) -> Recording:
        """Raises BenchmarkError."""
        answers = {a.question: a for a in read_answers(folder / ANSWERS) if a.model == model}
        return cls(by_conversation(read_requests(folder / REQUESTS)), answers, model)

    def next_id(self) -> str:
        """No two answers have the same: whoever sees one twice has got a copy."""
        return f"chatcmpl-{self.model}-{next(self._numbers)}"

    def find(self, body: Mapping[str, Any]) -> Answer:
        """Raises LookupError for a question of the workload that this model was never asked."""
        question = self._questions.get(conversation(body["messages"]))
        return WARM_UP if question is None else self._answers[question]


async def events(body: Mapping[str, Any], answer: Answer, of: Recording, pace: Pace) -> AsyncIterator[bytes]:
    """Server-sent events of a streamed answer."""
    head, sent = _head(of, "chat.completion.chunk"), 0
    async for done in pace.tokens(answer):
        upto = len(answer.text) if done >= answer.output_tokens else int(len(answer.text) * done / answer.output_tokens)
        if not (upto > sent or done >= answer.output_tokens):
            continue
        delta = {"content": answer.text[sent:upto]} | ({"role": "assistant"} if sent == 0 else {})
        finish = "stop" if done >= answer.output_tokens else None
        yield _event(head, {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        sent = upto
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event(head, {"choices": [], "usage": usage(answer)})
    yield b"data: [DONE]\n\n"


async def whole(answer: Answer, of: Recording, pace: Pace) -> bytes:
    async for _ in pace.tokens(answer):
        pass
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps(_head(of, "chat.completion") | {"choices": [choice], "usage": usage(answer)})


def usage(answer: Answer) -> dict[str, int]:
    total = answer.input_tokens + answer.output_tokens
    counts = {"prompt_tokens": answer.input_tokens, "completion_tokens": answer.output_tokens}
    return counts | {"total_tokens": total}


def _head(of: Recording, kind: str) -> dict[str, Any]:
    return {"id": of.next_id(), "object": kind, "created": CREATED, "model": of.model}


def _event(head: Mapping[str, Any], rest: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({**head, **rest})


def application(recording: Recording, speed: Speed) -> web.Application:
    """The HTTP side, for the hosted tiers."""
    pace = Pace(speed)

    async def complete(request: web.Request) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
            answer = recording.find(body)
        except (ValueError, LookupError, TypeError) as exc:
            return web.json_response({"error": {"message": f"never recorded: {exc!r}", "code": "replay"}}, status=400)
        if not body.get("stream"):
            return web.Response(body=await whole(answer, recording, pace), content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        async for event in events(body, answer, recording, pace):
            await response.write(event)
        return response

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": recording.model, "object": "model"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", models)
    return app


async def _serve(app: web.Application, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await stop.wait()
    await runner.cleanup()


def add_flags(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """The recording and the speed as flags; `prefix` where others share the command line."""
    parser.add_argument(f"--{prefix}folder", type=Path, required=True, help="a workload with answers")
    parser.add_argument(f"--{prefix}model", required=True, help="whose answers")
    parser.add_argument(f"--{prefix}ttft-ms", type=float, default=0.0)
    parser.add_argument(f"--{prefix}tokens-per-s", type=float, default=80.0, help="of one answer")
    parser.add_argument(f"--{prefix}prefill-tokens-per-s", type=float, help="shared: a GPU's")
    parser.add_argument(f"--{prefix}decode-tokens-per-s", type=float, help="shared: a GPU's")
    parser.add_argument(f"--{prefix}running", type=float, default=100_000, help="answers under way at most")


def from_flags(found: argparse.Namespace, prefix: str = "") -> tuple[Recording, Speed]:
    """Raises BenchmarkError."""
    given = {name.removeprefix(prefix): value for name, value in vars(found).items() if name.startswith(prefix)}
    speed = Speed(
        given["ttft_ms"] / 1000,
        given["tokens_per_s"],
        given["prefill_tokens_per_s"],
        given["decode_tokens_per_s"],
        int(given["running"]),
    )
    return Recording.read(given["folder"], given["model"]), speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    found = parser.parse_args()
    uvloop.run(_serve(application(*from_flags(found)), found.port))


if __name__ == "__main__":
    main()

"""A deterministic backend in this process, shipped with the product: tests and trials run the real path over it.

What it answers is a script: each call takes the next step, the last one stays. Knows no wire format but OpenAI's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import orjson

from models.backend import Health
from models.errors import FarthingError, StreamCut
from models.types import Call, Capabilities, Chunk, Completion, Json, Usage


@dataclass(frozen=True, slots=True)
class Step:
    """One answer. `error` is raised instead of it; with `cut_after` the stream breaks after so many words. `logprob` is
    that of every word, told in streams to who asks; None is a server that knows of none. `counts`: usage is told with
    every event to who asks for `continuous_usage_stats`, as vLLM does. Of a beginning that is to be continued
    (`continue_final_message`) a stream says the rest, and breaks after so many words of that."""

    text: str = "a farthing is a quarter of a penny"
    error: FarthingError | None = None
    delay_s: float = 0.0
    word_s: float = 0.0
    cut_after: int | None = None
    usage: bool = True
    logprob: float | None = None
    counts: bool = False


@dataclass(slots=True, eq=False)
class FakeBackend:
    """Implements `models.backend.Backend`. `calls` records what was asked, `ended` how many calls have ended."""

    name: str = "fake/0"
    model: str = "fake"
    capabilities: Capabilities = field(default_factory=Capabilities)
    script: Sequence[Step] = (Step(),)
    ready: bool = True
    calls: list[Call] = field(default_factory=list)
    ended: int = 0

    async def complete(self, call: Call) -> Completion:
        step = self._next(call)
        try:
            await asyncio.sleep(step.delay_s + step.word_s * len(step.text.split()))
            if step.error is not None:
                raise step.error
            usage = _usage(call, step.text)
            message = {"role": "assistant", "content": step.text}
            body = {
                "id": f"chatcmpl-{len(self.calls)}",
                "object": "chat.completion",
                "created": 1,
                "model": self.model,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
            if step.usage:
                body["usage"] = usage.to_openai()
            return Completion(body, usage if step.usage else None)
        finally:
            self.ended += 1

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        step = self._next(call)
        try:
            await asyncio.sleep(step.delay_s)
            if step.error is not None:
                raise step.error
            begun = _begun(call)
            words = step.text.removeprefix(begun).lstrip(" ").split(" ")
            counts = step.counts and (call.body.get("stream_options") or {}).get("continuous_usage_stats")
            usages = [_usage(call, " ".join(words[:at])) if counts else None for at in range(len(words) + 1)]
            yield Chunk(self._event({"role": "assistant", "content": ""}, usage=usages[0]), usage=usages[0])
            for at, word in enumerate(words):
                if at == step.cut_after:
                    raise StreamCut("the answer broke off: the script says so")
                await asyncio.sleep(step.word_s)
                delta, told = (
                    {"content": word if at == 0 and not begun else f" {word}"},
                    _logprobs(call, word, step.logprob),
                )
                usage = usages[at + 1]
                yield Chunk(self._event(delta, logprobs=told, usage=usage), content=True, usage=usage)
            yield Chunk(self._event({}, "stop", usage=usages[-1]), content=True, usage=usages[-1])
            if step.usage:
                yield Chunk(b"", content=True, usage=_usage(call, " ".join(words)))
        finally:
            self.ended += 1

    async def health(self) -> Health:
        return Health(self.ready, "" if self.ready else "told not to be")

    async def aclose(self) -> None:
        self.ready = False

    def _next(self, call: Call) -> Step:
        self.calls.append(call)
        return self.script[min(len(self.calls), len(self.script)) - 1]

    def _event(
        self, delta: Json, finish: str | None = None, logprobs: Json | None = None, usage: Usage | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        head = {"id": f"chatcmpl-{len(self.calls)}", "object": "chat.completion.chunk", "created": 1}
        told = {} if usage is None else {"usage": usage.to_openai()}
        return b"data: " + orjson.dumps({**head, "model": self.model, "choices": [choice], **told}) + b"\n\n"


def _begun(call: Call) -> str:
    """The beginning of the answer that the caller gives."""
    return str(call.body["messages"][-1]["content"]) if call.body.get("continue_final_message") else ""


def _logprobs(call: Call, word: str, logprob: float | None) -> Json | None:
    """The word itself, and as many alternatives as were asked for, each half as likely as the one before."""
    if logprob is None or not call.body.get("logprobs"):
        return None
    count = int(call.body.get("top_logprobs") or 0)
    top = [{"token": word, "logprob": logprob - at * math.log(2), "bytes": None} for at in range(count)]
    return {"content": [{"token": word, "logprob": logprob, "bytes": None, "top_logprobs": top}]}


def _usage(call: Call, text: str) -> Usage:
    """One token a word, of the question and of the answer."""
    chat = call.endpoint == "chat/completions"
    asked = [m.get("content") for m in call.body["messages"]] if chat else [call.body["prompt"]]
    return Usage(input_tokens=sum(len(str(words or "").split()) for words in asked), output_tokens=len(text.split()))

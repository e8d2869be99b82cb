"""An engine of known timing in vLLM's place, so that what Serve and the gateway add to a token can be measured.

The service loads it when `FARTHING_ENGINE_MODULE` names this module; flags `--scripted-ttft-ms` and `--scripted-itl-ms`
set its timing, all others are vLLM's and ignored. Same words, same schedule as `benchmarks.scripted`. Knows no Ray.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Self

import orjson

from benchmarks.scripted import DEFAULT_TOKENS, Question, Timing, sse_end, sse_events, text, unary_body
from models.errors import BadRequest
from models.local.vocabulary import EngineLoad
from models.types import Endpoint, Json


class Vllm:
    """The part of `models.local.vllm_compat.Vllm` that its callers use."""

    has_priorities = False
    alive = True

    def __init__(self, model: str, timing: Timing) -> None:
        self._model, self._timing = model, timing

    @classmethod
    async def start(cls, flags: Sequence[str], observer: Callable[[EngineLoad], None]) -> Self:
        del observer  # there is no load to tell of
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--served-model-name", default="scripted")
        parser.add_argument("--scripted-ttft-ms", type=float, default=0.0)
        parser.add_argument("--scripted-itl-ms", type=float, default=0.0)
        found, _ = parser.parse_known_args(list(flags))
        return cls(found.served_model_name, Timing(found.scripted_ttft_ms / 1000, found.scripted_itl_ms / 1000))

    async def answer(self, endpoint: Endpoint, body: Json) -> bytes | AsyncGenerator[str, None]:
        """As vLLM's: a whole answer, or SSE events. Raises BadRequest."""
        began_s = asyncio.get_running_loop().time()
        if endpoint == "completions":  # asked by the warm-up only
            return orjson.dumps({"choices": [{"text": text(1)}]})
        try:
            asked = Question.of({**body, "model": self._model}, DEFAULT_TOKENS)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise BadRequest(f"not a chat request: {exc!r}") from exc
        if asked.stream:
            return self._events(asked, began_s)
        await self._until(began_s, asked.tokens - 1)
        return unary_body(asked)

    async def _events(self, asked: Question, began_s: float) -> AsyncGenerator[str, None]:
        for index, event in enumerate(sse_events(asked.model, asked.tokens)):
            await self._until(began_s, index)
            yield event.decode()
        yield sse_end(asked).decode()

    async def _until(self, began_s: float, index: int) -> None:
        due_s = began_s + self._timing.ttft_s + index * self._timing.itl_s
        await asyncio.sleep(due_s - asyncio.get_running_loop().time())

    async def models(self) -> bytes:
        return orjson.dumps({"object": "list", "data": [{"id": self._model, "object": "model"}]})

    def load(self) -> EngineLoad:
        return EngineLoad()

    def shutdown(self) -> None: ...

"""The replayed model of the owned GPU, in vLLM's place behind Ray Serve: texts and pace of `benchmarks.cost.replay`.

The service loads it when `FARTHING_ENGINE_MODULE` names this module; its flags begin with `--replay-`, all others are
vLLM's and ignored. So the tier is priced, metered and reached as one that runs here. Knows no Ray.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Self

import orjson

from benchmarks.cost.replay import Pace, Recording, add_flags, events, from_flags, whole
from models.errors import BadRequest
from models.local.vocabulary import EngineLoad
from models.types import Endpoint, Json

PREFIX = "replay_"


class Vllm:
    """The part of `models.local.vllm_compat.Vllm` that its callers use."""

    has_priorities = False
    alive = True

    def __init__(self, recording: Recording, pace: Pace) -> None:
        self._recording, self._pace = recording, pace

    @classmethod
    async def start(cls, flags: Sequence[str], observer: Callable[[EngineLoad], None]) -> Self:
        """Raises BenchmarkError."""
        del observer  # there is no load to tell of
        parser = argparse.ArgumentParser(allow_abbrev=False)
        add_flags(parser, PREFIX.replace("_", "-"))
        found, _ = parser.parse_known_args(list(flags))
        recording, speed = from_flags(found, PREFIX)
        return cls(recording, Pace(speed))

    async def answer(self, endpoint: Endpoint, body: Json) -> bytes | AsyncGenerator[str, None]:
        """As vLLM's: a whole answer, or SSE events. Raises BadRequest."""
        if endpoint == "completions":  # asked by the warm-up only
            return orjson.dumps({"choices": [{"text": "Hello."}]})
        try:
            answer = self._recording.find(body)
        except (LookupError, TypeError) as exc:
            raise BadRequest(f"never recorded: {exc!r}") from exc
        if not body.get("stream"):
            return await whole(answer, self._recording, self._pace)

        async def stream() -> AsyncGenerator[str, None]:
            async for event in events(body, answer, self._recording, self._pace):
                yield event.decode()

        return stream()

    async def models(self) -> bytes:
        return orjson.dumps({"object": "list", "data": [{"id": self._recording.model, "object": "model"}]})

    def load(self) -> EngineLoad:
        return EngineLoad()

    def shutdown(self) -> None: ...

"""vLLM as an ASGI application: an engine that starts, warms up, answers, reports its load and ends.

`python -m models.local.engine --port N --token-file F -- <flags of vllm serve>` runs it bare, for a benchmark or a box
of its own; it prints `ready` when it is, and SIGTERM lets running requests finish. Knows no Ray; imports vLLM only when
started.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import uvicorn
from starlette.applications import Starlette

from models.errors import FarthingError, StartError
from models.local.asgi import create_app
from models.local.vocabulary import EngineDead, EngineLoad
from models.types import Endpoint, Json

if TYPE_CHECKING:
    from models.local.vllm_compat import Vllm

__all__ = ["Engine", "EngineLoad", "create_app"]

CACHE_SALT_HEADER = "x-farthing-cache-salt"  # requests with another salt share no cached prefix: one per tenant
PRIORITY_HEADER = "x-farthing-priority"  # an integer, lower first; ignored unless --scheduling-policy priority
REQUEST_ID_HEADER = "x-request-id"
DRAIN_S = 30
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # weights are here already; set it to 0 to let vLLM fetch them
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # fork breaks CUDA, and threads of this process
}
"""Read by vLLM when it is imported; what is set already stays."""
MODULE_VARIABLE = "FARTHING_ENGINE_MODULE"
"""Names a module whose `Vllm` stands in for vLLM's: an engine of known timing, to measure all that is around it."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Engine:
    """One vLLM engine. `observer` gets the figures after each of its steps, on the event loop."""

    def __init__(self, flags: Sequence[str], observer: Callable[[EngineLoad], None] | None = None) -> None:
        self._flags = list(flags)
        self._observer = observer or (lambda _: None)
        self._vllm: Vllm | None = None
        self._warm = False

    async def start(self) -> None:
        """Load the model; about half a minute for a small one. Raises StartError."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._vllm = await (await asyncio.to_thread(_vllm)).start(self._flags, self._observer)

    async def warm_up(self) -> None:
        """Pay the first request's seconds before a caller does, and see that text comes. Raises StartError."""
        short = {"max_tokens": 8, "temperature": 0}
        chat = await self._text("chat/completions", {"messages": [{"role": "user", "content": "Say hello."}], **short})
        if not (chat["message"].get("content") or chat["message"].get("reasoning")):
            raise StartError("the model gave no text to a chat request; its weights or its chat template are wrong")
        if not (await self._text("completions", {"prompt": "Hello, my name is", **short}))["text"]:
            raise StartError("the model gave no text to a completion request; its weights are wrong")
        self._warm = True

    async def _text(self, endpoint: Endpoint, body: Json) -> Json:
        try:
            answer = await self._started().answer(endpoint, body)
        except FarthingError as exc:
            raise StartError(f"the warm-up request to {endpoint} failed: {exc.message}") from exc
        choice: Json = orjson.loads(answer)["choices"][0]  # type: ignore[arg-type] # bytes: no stream was asked for
        return choice

    @property
    def ready(self) -> bool:
        return self._warm and self._vllm is not None and self._vllm.alive

    async def answer(
        self, endpoint: Endpoint, body: Json, headers: Mapping[str, str]
    ) -> bytes | AsyncGenerator[str, None]:
        """A JSON body, or SSE events when the body asks for a stream. Raises FarthingErrors."""
        vllm = self._started()
        if salt := headers.get(CACHE_SALT_HEADER):
            body["cache_salt"] = salt
        if request_id := headers.get(REQUEST_ID_HEADER):
            body["request_id"] = request_id
        if vllm.has_priorities and (priority := headers.get(PRIORITY_HEADER)):
            body["priority"] = priority
        return await vllm.answer(endpoint, body)

    async def models(self) -> bytes:
        return await self._started().models()

    def load(self) -> EngineLoad:
        return self._started().load()

    async def check_health(self) -> None:
        """Raises EngineDead once vLLM's core process has ended."""
        if not self._started().alive:
            raise EngineDead

    def shutdown(self) -> None:
        """End vLLM's processes. Blocks for seconds at worst; safe to call twice, or before `start`."""
        self._warm = False
        if self._vllm is not None:
            self._vllm.shutdown()

    def _started(self) -> Vllm:
        if self._vllm is None:
            raise EngineDead
        return self._vllm


def _vllm() -> type[Vllm]:
    """Ten seconds and half a gigabyte: imported only where an engine runs, and where another stands in, not at all."""
    found: type[Vllm] = importlib.import_module(os.environ.get(MODULE_VARIABLE, "models.local.vllm_compat")).Vllm
    return found


class _Server(uvicorn.Server):
    """Says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print("ready", flush=True)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m models.local.engine", description="vLLM behind its own small server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-file", type=Path, required=True, help="its content is what callers must present")
    parser.add_argument("flags", nargs="*", help="after --: flags of `vllm serve`")
    options = parser.parse_args(argv)
    engine = Engine(options.flags)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            await engine.start()
            await engine.warm_up()
            watch = asyncio.create_task(_stop_when_dead(engine, server))
            yield
            watch.cancel()
        finally:
            await asyncio.to_thread(engine.shutdown)

    app = create_app(engine, options.token_file.read_text(encoding="utf-8").strip(), lifespan)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        lifespan="on",
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = _Server(config)
    server.run(sockets=[config.bind_socket()])  # bound first: a port that is taken shows before the model loads
    return 0 if server.started else 1


async def _stop_when_dead(engine: Engine, server: uvicorn.Server) -> None:
    """A bare engine whose core has ended is of no use to anybody: let the supervisor start another."""
    while engine.ready:  # noqa: ASYNC110 - vLLM offers a state to look at, no event
        await asyncio.sleep(1.0)
    server.should_exit = True


def _live_and_die_with_parent() -> None:
    """For vLLM's own processes: out of reach of the terminal's Ctrl-C, which the parent turns into a drain, and never
    outliving the parent, whatever ends it. Under Ray its process-group clean-up does this."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__mp_main__":  # multiprocessing runs the main module under this name in each process it spawns
    _live_and_die_with_parent()
elif __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

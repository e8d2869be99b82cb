"""Where vLLM keeps things: the only module that imports it, so that a new version is one file's work.

Runs vLLM's `AsyncLLM` under vLLM's own OpenAI layer: chat templates, tool calls, structured outputs, logprobs,
reasoning and usage are vLLM's. Run with vLLM 0.32; the import that 0.33 moved is tried first. Importing it takes
seconds and memory: import it where an engine is started, nowhere else. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Self

from pydantic import ValidationError
from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import PrometheusStatLogger

from models.errors import FarthingError, StartError
from models.local.vocabulary import EngineDead, EngineLoad, invalid_fields, refusal
from models.types import Endpoint, Json

try:
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args  # 0.33
except ImportError:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args  # 0.32

log = logging.getLogger(__name__)


class Vllm:
    """A running engine. Make it with `start`."""

    def __init__(self, llm: Any, layer: State, meter: Meter) -> None:
        self._llm, self._layer, self._meter = llm, layer, meter
        self.has_priorities: bool = llm.vllm_config.scheduler_config.policy == "priority"

    @classmethod
    async def start(cls, flags: Sequence[str], observer: Callable[[EngineLoad], None]) -> Self:
        """Load the model. `flags` are those of `vllm serve`. Raises StartError."""
        meter = Meter(observer)
        try:
            llm, args = await asyncio.to_thread(_build, flags, meter)
        except (ValueError, TypeError, OSError, RuntimeError, ImportError) as exc:
            raise StartError(f"vLLM did not start: {exc} (its log above says more; flags: {' '.join(flags)})") from exc
        layer = State()
        try:
            await llm.reset_mm_cache()  # as vLLM's own server: drops the dummy data of its memory profiling
            await init_app_state(llm, layer, args, await llm.get_supported_tasks())
        except BaseException:
            await asyncio.to_thread(llm.shutdown)
            raise
        return cls(llm, layer, meter)

    async def answer(self, endpoint: Endpoint, body: Json) -> bytes | AsyncGenerator[str, None]:
        """A whole JSON answer, or vLLM's SSE events. Raises FarthingErrors; later ones are events of the stream."""
        try:
            if endpoint == "chat/completions":
                chat = ChatCompletionRequest.model_validate(body)
                found = await self._layer.openai_serving_chat.create_chat_completion(chat)
            else:
                completion = CompletionRequest.model_validate(body)
                found = await self._layer.openai_serving_completion.create_completion(completion)
        except ValidationError as exc:
            raise invalid_fields(exc.errors(include_context=False, include_url=False)) from exc
        except Exception as exc:  # a bad request may surface as ValueError, TypeError or jinja's own errors
            raise _translated(exc) from exc
        if isinstance(found, ErrorResponse):
            raise refusal(found.error.model_dump())
        return found if isinstance(found, AsyncGenerator) else found.model_dump_json().encode()

    async def models(self) -> bytes:
        listed = await self._layer.openai_serving_models.show_available_models()
        body: str = listed.model_dump_json()
        return body.encode()

    def load(self) -> EngineLoad:
        return self._meter.load

    @property
    def alive(self) -> bool:
        return not self._llm.errored

    def shutdown(self) -> None:
        """End vLLM's processes. Blocks for up to five seconds; safe to call twice."""
        self._llm.shutdown()


class Meter:
    """Keeps the newest figures of what vLLM reports at each step, and hands them on."""

    def __init__(self, observer: Callable[[EngineLoad], None]) -> None:
        self.load = EngineLoad()
        self._observer = observer
        self._latest: dict[int, Any] = {}  # by engine: several only under data parallelism

    def step(self, scheduler: Any, iteration: Any, engine: int) -> None:
        load = self.load
        if scheduler is not None:
            self._latest[engine] = scheduler
            every = self._latest.values()
            load = replace(
                load,
                running=sum(s.num_running_reqs for s in every),
                waiting=sum(s.num_waiting_reqs + s.num_skipped_waiting_reqs for s in every),
                kv_usage=max(s.kv_cache_usage for s in every),
                prefix_query_tokens=load.prefix_query_tokens + scheduler.prefix_cache_stats.queries,
                prefix_hit_tokens=load.prefix_hit_tokens + scheduler.prefix_cache_stats.hits,
            )
        if iteration is not None:
            load = replace(
                load,
                generated_tokens=load.generated_tokens + iteration.num_generation_tokens,
                preemptions=load.preemptions + iteration.num_preempted_reqs,
            )
        self._publish(load)

    def rejected(self) -> None:
        self._publish(replace(self.load, rejections=self.load.rejections + 1))

    def _publish(self, load: EngineLoad) -> None:
        self.load = load
        # beside vLLM's output loop, not in it: an observer that fails (a full disk) must not end the engine
        asyncio.get_running_loop().call_soon(self._observer, load)


def _stat_logger(meter: Meter) -> type:
    """vLLM wants a class. It is one of vLLM's Prometheus loggers by name only: with one in the list vLLM adds no other,
    whose hundred series would be written at each step, into files that belong to this service's own metrics."""

    class Logger(PrometheusStatLogger):  # type: ignore[misc] # vLLM is not type-checked here
        def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
            del vllm_config, engine_indexes

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            del mm_cache_stats
            meter.step(scheduler_stats, iteration_stats, engine_idx)

        def record_admission_rejection(self, reason: str) -> None:
            del reason
            meter.rejected()

        def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
            del sleep, level

        def log_engine_initialized(self) -> None: ...

    return Logger


class _Parser(FlexibleArgumentParser):  # type: ignore[misc] # vLLM is not type-checked here
    def error(self, message: str) -> NoReturn:
        raise StartError(f"vLLM does not take these flags: {message}")


def _build(flags: Sequence[str], meter: Meter) -> tuple[Any, Namespace]:
    args = make_arg_parser(_Parser()).parse_args(list(flags))
    validate_parsed_serve_args(args)
    if args.tool_parser_plugin:
        ToolParserManager.import_tool_parser(args.tool_parser_plugin)
    if args.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
    usage = UsageContext.OPENAI_API_SERVER
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(usage_context=usage)
    llm = AsyncLLM.from_vllm_config(
        config,
        usage_context=usage,
        stat_loggers=[_stat_logger(meter)],
        enable_log_requests=args.enable_log_requests,
        disable_log_stats=True,  # its own loggers; ours is called all the same
    )
    return llm, args


def _translated(exc: Exception) -> FarthingError:
    """By vLLM's own table of what is a bad request."""
    if isinstance(exc, EngineDeadError):
        return EngineDead()
    error = refusal(create_error_response(exc).error.model_dump())
    if error.http_status == 500:
        log.error("vLLM failed on a request", exc_info=exc)
    return error

"""The contract of tests/contract, asked of the real engine over its own route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from models.types import Call, Capabilities, Deadline
from models.upstream.engine import EngineBackend
from models.upstream.openai import make_session
from tests.contract.questions import QUESTIONS, Fault, Subject
from tests.stack.conftest import Service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


class Vllm(Subject):
    def __init__(self, service: Service, backend: EngineBackend) -> None:
        self.backend, self._service = backend, service

    def provoke(self, fault: Fault) -> dict[str, Any]:
        fields: dict[Fault, dict[str, Any]] = {
            "slow": {"max_tokens": 8000, "ignore_eos": True},
            "bad_parameter": {"min_p": "high"},
            "too_long": {"messages": [{"role": "user", "content": "word " * 9000}]},
        }
        return fields[fault]

    async def running(self) -> int:
        return int((await asyncio.to_thread(self._service.engine_load))["running"])


@pytest.fixture
async def subject(service: Service) -> AsyncIterator[Subject]:
    run = service.state / "run"
    token = (run / "engine.token").read_text
    async with make_session() as session:
        backend = EngineBackend(
            "small/0",
            f"{service.url}/engine/small/v1",
            "embedded",
            session,
            token,
            Capabilities(context_tokens=8192),
            presence=run / "engines" / "small",
        )
        yield Vllm(service, backend)
        await backend.aclose()


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
async def test_vllm(subject: Subject, question: Callable[[Subject], Awaitable[None]]) -> None:
    await question(subject)


async def test_vllm_counts_along_where_it_is_asked_to(subject: Subject) -> None:
    """What the cascade's accounts of a dropped answer rest on."""
    body = {
        "messages": [{"role": "user", "content": "Count from one to ten."}],
        "max_tokens": 12,
        "stream_options": {"continuous_usage_stats": True},
    }
    call = Call("chat/completions", body, "req_counts", Deadline.after(120), stream=True)
    told = [chunk.used() async for chunk in subject.backend.stream(call)]
    usages = [usage for usage in told if usage is not None]
    assert len(usages) == len(told) > 3
    counts = [usage.output_tokens for usage in usages]
    assert counts == sorted(counts) and counts[0] < counts[-1] <= 12
    assert {usage.input_tokens for usage in usages} == {usages[-1].input_tokens} and usages[-1].input_tokens > 5

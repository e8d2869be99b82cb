"""The contract of tests/contract, asked of the real engine over its own route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from models.types import Capabilities
from models.upstream.engine import EngineBackend
from models.upstream.openai import make_session
from tests.contract.questions import QUESTIONS, Fault, Subject
from tests.stack.conftest import Service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


class Vllm(Subject):
    def __init__(self, service: Service, backend: EngineBackend) -> None:
        self.backend, self._service = backend, service

    def provoke(self, fault: Fault) -> dict[str, Any]:
        fields: dict[Fault, dict[str, Any]] = {
            "slow": {"max_tokens": 4000, "ignore_eos": True},
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

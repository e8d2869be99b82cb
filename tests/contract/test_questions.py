"""One contract for every backend: the fake and each provider's wire here, vLLM itself in tests/stack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from models.errors import BadRequest, ContextExceeded
from models.fake import FakeBackend, Step
from models.upstream.openai import make_session
from tests.contract.questions import QUESTIONS, Fault, Subject
from tests.contract.servers import AnthropicServer, OpenAIServer
from tests.contract.upstream import Script, ScriptedServer


class Fake(Subject):
    def __init__(self) -> None:
        self.backend = self._fake = FakeBackend()

    def provoke(self, fault: Fault) -> dict[str, Any]:
        steps = {
            "slow": Step(word_s=1.0),
            "bad_parameter": Step(error=BadRequest("n is odd", param="n")),
            "too_long": Step(error=ContextExceeded("too long")),
        }
        self._fake.script = [steps[fault]]
        return {}

    async def running(self) -> int:
        return len(self._fake.calls) - self._fake.ended


class Scripted(Subject):
    def __init__(self, server: ScriptedServer, backend: Any) -> None:
        self.backend, self._server = backend, server

    def provoke(self, fault: Fault) -> dict[str, Any]:
        scripts = {
            "slow": Script(word_s=1.0),
            "bad_parameter": Script(400, error_code="invalid_request_error"),
            "too_long": Script(400, error_code="invalid_request_error", message="prompt is too long: 9 tokens"),
        }
        self._server.script = scripts[fault]
        return {}

    async def running(self) -> int:
        return len(self._server.received) - self._server.finished


@pytest.fixture(params=["fake", OpenAIServer, AnthropicServer], ids=["fake", "openai", "anthropic"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "fake":
        yield Fake()
        return
    server: ScriptedServer = request.param()
    async with server.running(request.param.path), make_session() as session:
        yield Scripted(server, server.backend(session))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__)
async def test_every_backend(subject: Subject, question: Callable[[Subject], Awaitable[None]]) -> None:
    await question(subject)

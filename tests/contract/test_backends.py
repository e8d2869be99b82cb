"""One contract for every backend over HTTP: the same questions and the same faults, whatever the wire format."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from models.errors import (
    BadRequest,
    ContextExceeded,
    CreditExhausted,
    DeadlineExceeded,
    FarthingError,
    KeyRejected,
    Overloaded,
    ProtocolViolation,
    StreamCut,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from models.types import Usage
from models.upstream.openai import make_session
from serving.wire.assemble import assemble
from tests.contract.servers import AnthropicServer, OpenAIServer
from tests.contract.upstream import CACHED_TOKENS, INPUT_TOKENS, TEXT, WORDS, Script, ScriptedServer, call

WIRES = [OpenAIServer, AnthropicServer]
Wire = ScriptedServer


@pytest.fixture(params=WIRES, ids=["openai", "anthropic"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedServer]:
    found: ScriptedServer = request.param()
    async with found.running(request.param.path):
        yield found


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with make_session() as found:
        yield found


async def streamed(server: Wire, session: aiohttp.ClientSession, **fields: Any) -> tuple[bytes, Usage | None]:
    """All data of a stream, and the last usage it told."""
    data, usage = b"", None
    async for chunk in server.backend(session).stream(call(stream=True, **fields)):
        data += chunk.data
        usage = chunk.usage or usage
    return data, usage


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize("one_write", [False, True])
async def test_a_stream_spells_what_the_whole_answer_says(
    server: Wire, session: aiohttp.ClientSession, crlf: bool, comments: bool, one_write: bool
) -> None:
    server.script = Script(crlf=crlf, comments=comments, one_write=one_write)
    whole = await server.backend(session).complete(call())
    data, usage = await streamed(server, session)
    spelt = assemble(data)
    assert spelt is not None
    assert spelt["choices"][0]["message"]["content"] == whole.body["choices"][0]["message"]["content"] == TEXT
    assert spelt["choices"][0]["finish_reason"] == whole.body["choices"][0]["finish_reason"] == "stop"
    expected = Usage(INPUT_TOKENS, cached_input_tokens=CACHED_TOKENS, output_tokens=len(WORDS))
    assert whole.usage == usage == expected
    assert b"[DONE]" not in data


async def test_our_model_name_and_key_are_sent_and_the_callers_are_not(
    server: Wire, session: aiohttp.ClientSession
) -> None:
    await server.backend(session, extra_headers={"x-extra": "1"}).complete(call())
    assert server.received[0]["model"] == "theirs"
    sent = {name.lower(): value for name, value in server.request_headers[0].items()}
    assert "sk-secret" in (sent.get("authorization", "") + sent.get("x-api-key", ""))
    assert sent["x-extra"] == "1"


async def test_a_tool_call_comes_through_both_ways(server: Wire, session: aiohttp.ClientSession) -> None:
    server.script = Script(tool=True)
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    whole = await server.backend(session).complete(call(tools=[tool]))
    data, _ = await streamed(server, session, tools=[tool])
    spelt = assemble(data)
    assert spelt is not None
    for body in (whole.body, spelt):
        (found,) = body["choices"][0]["message"]["tool_calls"]
        assert (found["id"], found["function"]["name"]) == ("call_1", "weather")
        assert found["function"]["arguments"].replace(" ", "") == '{"city":"Paris"}'
        assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert server.received[0]["tools"]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (Script(400, error_code="invalid_request_error"), BadRequest),
        (Script(400, error_code="x", message="prompt is too long: 300000 tokens"), ContextExceeded),
        (Script(401, error_code="authentication_error"), KeyRejected),
        (Script(403, error_code="permission_error"), KeyRejected),
        (Script(402, error_code="billing_error"), CreditExhausted),
        (Script(400, error_code="x", message="Your credit balance is too low"), CreditExhausted),
        (Script(429, error_code="insufficient_quota"), CreditExhausted),
        (Script(429, error_code="rate_limit_error"), Overloaded),
        (Script(503, error_code="x"), Overloaded),
        (Script(529, error_code="overloaded_error"), Overloaded),
        (Script(500, error_code="api_error"), Unavailable),
        (Script(404, error_code="not_found_error"), UpstreamError),
        (Script(504, error_code="x"), UpstreamTimeout),
    ],
    ids=lambda v: f"{v.status}-{v.error_code}" if isinstance(v, Script) else "",
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_translated_by_its_status_and_code(
    server: Wire, session: aiohttp.ClientSession, script: Script, kind: type[FarthingError], stream: bool
) -> None:
    server.script = script
    with pytest.raises(kind) as caught:
        await (streamed(server, session) if stream else server.backend(session).complete(call()))
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [({"retry-after": "3"}, 3.0), ({"retry-after-ms": "250"}, 0.25), ({}, None), ({"retry-after": "soon"}, None)],
)
async def test_retry_after_is_read(
    server: Wire, session: aiohttp.ClientSession, headers: dict[str, str], expected_s: float | None
) -> None:
    server.script = Script(429, headers, "rate_limit_error")
    with pytest.raises(Overloaded) as caught:
        await server.backend(session).complete(call())
    assert caught.value.retry_after_s == expected_s


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_no_json_is_a_violation(
    server: Wire, session: aiohttp.ClientSession, stream: bool
) -> None:
    server.script = Script(garbage_after=0)
    with pytest.raises(ProtocolViolation):
        await (streamed(server, session) if stream else server.backend(session).complete(call()))


@pytest.mark.parametrize("fault", ["cut_after", "error_after"])
async def test_before_the_first_word_a_broken_stream_can_be_asked_again(
    server: Wire, session: aiohttp.ClientSession, fault: str
) -> None:
    server.script = Script(**{fault: 0})
    with pytest.raises(FarthingError) as caught:
        await streamed(server, session)
    assert not isinstance(caught.value, StreamCut)
    assert caught.value.retryable


@pytest.mark.parametrize("fault", ["cut_after", "garbage_after", "error_after"])
async def test_after_the_first_word_a_broken_stream_is_cut(
    server: Wire, session: aiohttp.ClientSession, fault: str
) -> None:
    server.script = Script(**{fault: 3})
    seen = b""
    with pytest.raises(StreamCut):
        async for chunk in server.backend(session).stream(call(stream=True)):
            seen += chunk.data
    assert b"farthing" in seen


@pytest.mark.parametrize("stream", [False, True])
async def test_the_deadline_ends_a_slow_answer(server: Wire, session: aiohttp.ClientSession, stream: bool) -> None:
    server.script = Script(delay_s=5)
    began_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await (
            streamed(server, session, deadline_s=0.3)
            if stream
            else server.backend(session).complete(call(deadline_s=0.3))
        )
    assert time.monotonic() - began_s < 2


async def test_a_silent_stream_times_out_before_the_deadline(server: Wire, session: aiohttp.ClientSession) -> None:
    server.script = Script(delay_s=5)
    with pytest.raises(UpstreamTimeout):
        async for _ in server.backend(session, idle_timeout_s=0.3).stream(call(stream=True)):
            pass


async def test_an_answer_in_one_piece_may_take_until_the_deadline(server: Wire, session: aiohttp.ClientSession) -> None:
    """A model that thinks says nothing meanwhile."""
    server.script = Script(delay_s=1)
    found = await server.backend(session, idle_timeout_s=0.3).complete(call())
    assert found.body["choices"]


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_ends_the_upstream_request(server: Wire, session: aiohttp.ClientSession, stream: bool) -> None:
    server.script = Script(word_s=0.3)

    async def ask() -> None:
        await (streamed(server, session) if stream else server.backend(session).complete(call()))

    task = asyncio.create_task(ask())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end_s = time.monotonic() + 2
    while not server.left and time.monotonic() < end_s:
        await asyncio.sleep(0.05)
    assert server.left == 1


async def test_nobody_listening_is_unavailable(server: Wire, session: aiohttp.ClientSession) -> None:
    server.url = "http://127.0.0.1:9"
    with pytest.raises(Unavailable):
        await server.backend(session).complete(call())


async def test_openai_fields_nobody_here_knows_pass_untouched(session: aiohttp.ClientSession) -> None:
    server = OpenAIServer()
    async with server.running(OpenAIServer.path):
        await server.backend(session).complete(call(novel={"a": [1]}, temperature=0.5))
        await streamed(server, session, stream_options={"other": True})
    assert server.received[0]["novel"] == {"a": [1]}
    assert server.received[1]["stream_options"] == {"other": True, "include_usage": True}


async def test_a_server_without_usage_says_none(session: aiohttp.ClientSession) -> None:
    server = OpenAIServer()
    server.script = Script(usage=False)
    async with server.running(OpenAIServer.path):
        assert (await server.backend(session).complete(call())).usage is None
        assert (await streamed(server, session))[1] is None

"""Backends that answer nonsense: the caller gets an error of the tree or a usable answer, never a 500, and one row."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from models.types import Capabilities
from models.upstream.anthropic import AnthropicBackend
from models.upstream.openai import OpenAIBackend, make_session
from tests.serving.conftest import Running, Setup, running

HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "theirs"}
MESSAGE = {"role": "assistant", "content": "hello there"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@contextlib.asynccontextmanager
async def over(setup: Setup, wire: str, reply: bytes, headers: dict[str, str]) -> AsyncIterator[Running]:
    """The gateway with a small tier that answers every call with these bytes, and no other tier."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        status = int(headers.get("x-status", "200"))
        response = web.StreamResponse(status=status, headers={"content-type": "application/json", **headers})
        await response.prepare(request)
        await response.write(reply)
        return response

    app = web.Application()
    app.router.add_post("/v1/{rest:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    kind = AnthropicBackend if wire == "anthropic" else OpenAIBackend
    try:
        async with make_session() as session:
            setup.small = kind("small/0", url, "tiny", session, lambda: "sk-secret", Capabilities())
            setup.frontier = None
            async with running(setup) as service:
                yield service
    finally:
        await runner.cleanup()


def completion(**changed: Any) -> bytes:
    choice = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}
    return json.dumps({**body, "usage": USAGE, **changed}).encode()


def sse(*events: Any, done: bool = True) -> bytes:
    lines = [e if isinstance(e, str) else json.dumps({**HEAD, **e}) for e in events]
    return "".join(f"data: {line}\n\n" for line in [*lines, *(["[DONE]"] if done else [])]).encode()


def delta(text: Any, finish: Any = None, index: Any = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


USELESS = {
    "empty": b"",
    "no json": b"<html>",
    "null": b"null",
    "a list": b"[]",
    "a number": b"5",
    "no choices": b"{}",
    "choices null": completion(choices=None),
    "choices a string": completion(choices="hello"),
    "choices empty": completion(choices=[]),
    "choices of null": completion(choices=[None]),
    "choices of numbers": completion(choices=[1]),
    "no message": completion(choices=[{"index": 0, "finish_reason": "stop"}]),
    "message a string": completion(choices=[{"index": 0, "message": "hi", "finish_reason": "stop"}]),
    "an error": b'{"error": {"message": "boom", "code": 500}}',
    "an error text": b'{"error": "boom"}',
    "an error list": b'{"error": ["boom"]}',
}


@pytest.mark.parametrize("reply", USELESS.values(), ids=USELESS)
async def test_a_useless_whole_answer_is_a_502_and_one_row(setup: Setup, reply: bytes) -> None:
    async with over(setup, "openai", reply, {}) as service:
        response, body = await service.ask("x")
        (row,) = await service.rows(1)
    assert (response.status, row["status"], row["http_status"]) == (502, "failed", 502)
    assert body["error"]["code"].startswith("upstream_")
    assert row["cost_nusd"] == 0


USAGES: dict[str, Any] = {
    "null": None,
    "a string": "many",
    "a list": [1],
    "a number": 7,
    "true": True,
    "empty": {},
    "negative": {"prompt_tokens": -5, "completion_tokens": 2},
    "negative output": {"prompt_tokens": 5, "completion_tokens": -2},
    "strings": {"prompt_tokens": "5", "completion_tokens": "x"},
    "floats": {"prompt_tokens": 5.5, "completion_tokens": 2.0},
    "nested": {"prompt_tokens": {"a": 1}, "completion_tokens": [2]},
    "huge": {"prompt_tokens": 10**18, "completion_tokens": 2},
    "beyond 64 bits": {"prompt_tokens": 10**30, "completion_tokens": 2},
    "details a list": {**USAGE, "prompt_tokens_details": [1]},
    "details of strings": {**USAGE, "prompt_tokens_details": {"cached_tokens": "x"}},
    "more cached than asked": {**USAGE, "prompt_tokens_details": {"cached_tokens": 50}},
    "negative details": {**USAGE, "completion_tokens_details": {"reasoning_tokens": -9}},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("usage", USAGES.values(), ids=USAGES)
async def test_usage_nobody_can_believe_costs_no_answer_and_no_row(setup: Setup, usage: Any, stream: bool) -> None:
    reply = completion(usage=usage)
    if stream:
        reply = sse(delta("hello there", "stop"), {"choices": [], "usage": usage})
    async with over(setup, "openai", reply, {}) as service:
        response, body = await (service.stream if stream else service.ask)("x")
        (row,) = await service.rows(1)
        assert response.status == 200
        assert b"hello there" in (body if stream else body["choices"][0]["message"]["content"].encode())
        if stream:
            assert body.endswith(b"data: [DONE]\n\n")
    assert (row["status"], row["http_status"]) == ("answered", 200)
    assert 0 <= row["input_tokens"] < 10**9 and 0 <= row["output_tokens"] < 10**9
    assert 0 < row["cost_nusd"] < 10**15


BROKEN_STREAMS = {
    "nothing": b"",
    "only done": sse(),
    "json, no events": completion(),
    "choices a string": sse({"choices": "x"}),
    "choices of numbers": sse({"choices": [1]}),
    "delta a string": sse({"choices": [{"index": 0, "delta": "x"}]}),
    "an event that is a list": sse("[]"),
    "an event that is no json": sse("{bad"),
    "half an event": b'data: {"choices": [{"delta"',
    "error text": sse({"error": "boom"}),
    "error list": sse({"error": ["boom"]}),
    "role, then the end": sse({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}, done=False),
}


@pytest.mark.parametrize("reply", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
async def test_a_stream_that_is_broken_from_the_start_is_a_502(setup: Setup, reply: bytes) -> None:
    async with over(setup, "openai", reply, {"content-type": "text/event-stream"}) as service:
        response, body = await service.stream("x")
        (row,) = await service.rows(1)
    assert response.status == 502, body
    assert (row["status"], row["http_status"], row["cost_nusd"]) == ("failed", 502, 0)


BREAKING_STREAMS = {
    "no end": sse(delta("hello"), delta(" there"), done=False),
    "no json": sse(delta("hello"), "{bad", done=False),
    "a list": sse(delta("hello"), "[1]"),
    "cut inside a character": sse(delta("hello"), done=False)
    + 'data: {"choices":[{"delta":{"content":"é'.encode()[:-1],
    "error text": sse(delta("hello"), {"error": "boom"}),
    "error list": sse(delta("hello"), {"error": ["boom"]}),
    "choices a string at the end": sse(delta("hello"), {"choices": "x", "usage": USAGE}),
    "usage of numbers without choices": sse(delta("hello"), {"choices": [5], "usage": USAGE}),
}


@pytest.mark.parametrize("reply", BREAKING_STREAMS.values(), ids=BREAKING_STREAMS)
async def test_a_stream_that_breaks_ends_with_an_error_and_no_done(setup: Setup, reply: bytes) -> None:
    async with over(setup, "openai", reply, {"content-type": "text/event-stream"}) as service:
        response, body = await service.stream("x")
        (row,) = await service.rows(1)
    assert response.status == 200
    assert b"[DONE]" not in body
    assert json.loads(body.split(b"data: ")[-1])["error"]["code"] == "upstream_stream_cut"
    assert (row["status"], row["error_code"]) == ("failed", "upstream_stream_cut")
    assert row["cost_nusd"] > 0 and row["usage_estimated"]


ODD_STREAMS = {
    "an empty chunk first": sse({"choices": [], "prompt_filter_results": []}, delta("hello"), delta("", "stop")),
    "no finish reason": sse(delta("hello")),
    "content after done": sse(delta("hello", "stop")) + sse(delta(" again")),
    "index null": sse(delta("hello", index=None), delta("", "stop", index=0)),
    "index a list": sse(delta("hello", index=[1]), delta("", "stop")),
    "mixed indexes": sse(delta("hello", "stop", index="a"), delta("x", "stop", index=1)),
    "delta null": sse(delta("hello"), {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}),
    "junk after content": sse(delta("hello"), {"choices": [5]}, {"choices": {}}, delta("", "stop")),
    "two choices": sse(delta("hello"), delta("hi", index=1), delta("", "stop"), delta("", "stop", index=1)),
    "tool calls of junk": sse(
        delta("hello"), {"choices": [{"index": 0, "delta": {"tool_calls": [1, "x"]}}]}, delta("", "stop")
    ),
    "tool indexes of junk": sse(
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": "b"}, {"index": 1}, {}]}}]}, delta("", "stop")
    ),
    "comment inside an event": b": note\n" + sse(delta("hello", "stop")),
}


@pytest.mark.parametrize("reply", ODD_STREAMS.values(), ids=ODD_STREAMS)
async def test_an_odd_stream_is_passed_on_and_ends(setup: Setup, reply: bytes) -> None:
    async with over(setup, "openai", reply, {"content-type": "text/event-stream"}) as service:
        response, body = await service.stream("x", stream_options={"include_usage": True})
        (row,) = await service.rows(1)
    assert response.status == 200
    assert body.count(b"[DONE]") == 1 and body.endswith(b"data: [DONE]\n\n")
    assert b"again" not in body
    assert b"hello" in body or b"tool_calls" in body
    assert (row["status"], row["http_status"]) == ("answered", 200)


@pytest.mark.parametrize(
    "wait", ["inf", "nan", "1e308", "-5", "9" * 400, "Fri, 31 Dec 9999999999999 23:59:59 GMT", "1e"]
)
async def test_an_absurd_retry_after_is_no_fault_of_ours(setup: Setup, wait: str) -> None:
    async with over(setup, "openai", b"{}", {"x-status": "429", "retry-after": wait}) as service:
        response, body = await service.ask("x")
        (row,) = await service.rows(1)
    assert (response.status, body["error"]["code"], row["error_code"]) == (503, "overloaded", "overloaded")
    assert int(response.headers.get("retry-after", "1")) <= 3600


def anthropic(**changed: Any) -> bytes:
    content = [{"type": "text", "text": "hello there"}]
    usage = {"input_tokens": 3, "output_tokens": 2}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "theirs", "content": content}
    return json.dumps({**message, "stop_reason": "end_turn", "usage": usage, **changed}).encode()


def named(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)


def spoken(usage: Any = None, start: Any = None) -> bytes:
    told = {"input_tokens": 3, "output_tokens": 1} if start is None else start
    message = {"id": "m", "type": "message", "role": "assistant", "model": "theirs", "content": [], "usage": told}
    return named(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello there"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage or {"output_tokens": 2}},
        {"type": "message_stop"},
    )


ANTHROPIC_USELESS = {
    "no json": b"<html>",
    "null": b"null",
    "a list": b"[]",
    "an error": b'{"type": "error", "error": {"type": "api_error", "message": "boom"}}',
    "content a string": anthropic(content="hello"),
    "content of numbers": anthropic(content=[1]),
    "no stop reason": anthropic(stop_reason=None),
    "stop reason a list": anthropic(stop_reason=[]),
    "stop details a string": anthropic(stop_details="x"),
}


@pytest.mark.parametrize("reply", ANTHROPIC_USELESS.values(), ids=ANTHROPIC_USELESS)
async def test_a_useless_answer_of_anthropics_is_a_502(setup: Setup, reply: bytes) -> None:
    async with over(setup, "anthropic", reply, {}) as service:
        response, _ = await service.ask("x")
        (row,) = await service.rows(1)
    assert (response.status, row["status"], row["http_status"]) == (502, "failed", 502)


ANTHROPIC_USAGES: dict[str, Any] = {
    "a string": "many",
    "a list": [1],
    "strings": {"input_tokens": "5", "output_tokens": "x"},
    "floats": {"input_tokens": 5.5, "output_tokens": 2.5},
    "negative": {"input_tokens": -5, "output_tokens": -2},
    "huge": {"input_tokens": 10**18, "output_tokens": 10**30},
    "details": {"input_tokens": 3, "output_tokens": 2, "output_tokens_details": "x"},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("usage", ANTHROPIC_USAGES.values(), ids=ANTHROPIC_USAGES)
async def test_usage_of_anthropics_nobody_can_believe_costs_no_answer(setup: Setup, usage: Any, stream: bool) -> None:
    reply = spoken(usage=usage, start=usage) if stream else anthropic(usage=usage)
    async with over(setup, "anthropic", reply, {}) as service:
        response, body = await (service.stream if stream else service.ask)("x")
        (row,) = await service.rows(1)
        assert response.status == 200
        assert b"hello there" in (body if stream else body["choices"][0]["message"]["content"].encode())
    assert (row["status"], row["http_status"]) == ("answered", 200)
    assert 0 < row["cost_nusd"] < 10**15


ANTHROPIC_BROKEN = {
    "error a string": named({"type": "error", "error": "boom"}),
    "error a list": named({"type": "error", "error": ["boom"]}),
    "error null": named({"type": "error", "error": None}),
    "a block that is a string": named({"type": "content_block_start", "index": 0, "content_block": "text"}),
    "a delta of no block": named(
        {"type": "content_block_delta", "index": 4, "delta": {"type": "text_delta", "text": "x"}}
    ),
    "no type": b"data: {}\n\n",
    "nothing": b"",
}


@pytest.mark.parametrize("reply", ANTHROPIC_BROKEN.values(), ids=ANTHROPIC_BROKEN)
async def test_a_stream_of_anthropics_that_is_broken_from_the_start_is_a_502(setup: Setup, reply: bytes) -> None:
    async with over(setup, "anthropic", reply, {"content-type": "text/event-stream"}) as service:
        response, body = await service.stream("x")
        (row,) = await service.rows(1)
    assert response.status == 502, body
    assert (row["status"], row["http_status"]) == ("failed", 502)


@pytest.mark.parametrize("status", ["200", "500"])
async def test_an_answer_without_end_is_given_up(setup: Setup, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    monkeypatch.setattr("models.upstream.openai.MAX_ANSWER_BYTES", 10_000)
    endless = completion(choices=[{"index": 0, "message": {"content": "x" * 50_000}, "finish_reason": "stop"}])
    async with over(setup, "openai", endless, {"x-status": status}) as service:
        response, body = await service.ask("x")
        (row,) = await service.rows(1)
    assert (response.status, body["error"]["code"], row["status"]) == (502, "upstream_protocol", "failed")


@pytest.mark.parametrize("text", ["", "text", None])
async def test_text_completions_without_an_object_or_a_text(setup: Setup, text: str | None) -> None:
    """Some servers leave `object` out; the stored answer is replayed as what it was asked for."""
    body = json.loads(completion(choices=[{"index": 0, "text": text, "finish_reason": "stop"}]))
    del body["object"]
    async with over(setup, "openai", json.dumps(body).encode(), {}) as service:
        for stream in (False, True):
            asked = {"model": "small", "prompt": "x", "stream": stream}
            async with service.http.post(f"{service.url}/v1/completions", json=asked) as response:
                raw = await response.read()
                if text is None:
                    assert response.status == 502
                else:
                    assert response.status == 200 and text.encode() in raw
        await service.rows(2)

"""Errors on the wire: the OpenAI shape, the table, what the openai SDK makes of a broken stream."""

from __future__ import annotations

import json

import openai
import pytest
from aiohttp import web

from models import errors
from serving.wire.errors import error_body, http_error, sse_error


def tree(root: type[errors.FarthingError]) -> list[type[errors.FarthingError]]:
    """The tree as models/errors.py draws it; other modules add leaves with words of their own."""
    children = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(leaf for child in children for leaf in tree(child))]


@pytest.mark.parametrize("kind", tree(errors.RequestError) + tree(errors.UpstreamError) + [errors.DeadlineExceeded])
def test_every_error_of_the_tree_says_its_class_on_the_wire(kind: type[errors.FarthingError]) -> None:
    status, headers, body = http_error(kind("do this", param="messages[0]"))
    assert status == kind.http_status
    assert headers == {"content-type": "application/json"}
    assert json.loads(body) == {
        "error": {"message": "do this", "type": kind.type, "param": "messages[0]", "code": kind.code}
    }


@pytest.mark.parametrize(("wait_s", "header"), [(0.01, "1"), (2.2, "3"), (30.0, "30")])
def test_retry_after_is_whole_seconds_never_too_early(wait_s: float, header: str) -> None:
    assert http_error(errors.RateLimited("wait", retry_after_s=wait_s))[1]["retry-after"] == header


def test_a_fault_of_ours_shows_no_inside() -> None:
    status, _, body = http_error(KeyError("/secret/path"))
    assert status == 500
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert b"secret" not in body
    assert b"secret" not in sse_error(KeyError("/secret/path"))
    assert error_body(ValueError("x"))["error"]["param"] is None


async def test_the_openai_sdk_raises_a_broken_streams_error() -> None:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunk["choices"] = [{"index": 0, "delta": {"content": "half"}, "finish_reason": None}]

    async def broken(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await answer.write(sse_error(errors.StreamCut("the upstream broke off; ask again")))
        return answer

    app = web.Application()
    app.router.add_post("/v1/chat/completions", broken)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], stream=True
            )
            seen = []
            with pytest.raises(openai.APIError, match="broke off") as caught:
                async for part in stream:
                    seen.append(part.choices[0].delta.content)
        assert seen == ["half"]
        assert (caught.value.code, caught.value.type) == ("upstream_stream_cut", "upstream_error")
    finally:
        await runner.cleanup()

"""The scripted server: the same words for everybody, on its schedule, and it counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from benchmarks import scripted

Upstream = Callable[[scripted.Script], Awaitable[str]]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "one two three"}], **fields}


async def test_a_stream_and_a_whole_answer_say_the_same(upstream: Upstream) -> None:
    url = f"{await upstream(scripted.Script())}/chat/completions"
    async with httpx2.AsyncClient() as client:
        whole = (await client.post(url, json=body(max_tokens=4))).json()
        wanted = {"stream": True, "stream_options": {"include_usage": True}}
        stream = await client.post(url, json=body(max_tokens=4, **wanted))
    events = [httpx2.Response(200, content=line[6:]).json() for line in stream.text.split("\n\n") if "{" in line]
    assert whole["choices"][0]["message"]["content"] == scripted.text(4) == " w0 w1 w2 w3"
    assert "".join(e["choices"][0]["delta"]["content"] for e in events if e["choices"]) == scripted.text(4)
    assert events[-1]["usage"] == whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert stream.text.endswith("data: [DONE]\n\n")


async def test_its_schedule_holds_however_many_ask(upstream: Upstream) -> None:
    url = f"{await upstream(scripted.Script(scripted.Timing(0.1, 0.02)))}/chat/completions"
    async with httpx2.AsyncClient() as client:
        began_s = time.monotonic()
        await asyncio.gather(*(client.post(url, json=body(max_tokens=6, stream=n % 2 == 0)) for n in range(8)))
    assert 0.2 <= time.monotonic() - began_s < 8 * 0.2


@pytest.mark.parametrize("raw", [b"{", b"[]", b'{"model":"m"}', b'{"model":"m","messages":[],"max_tokens":-1}'])
async def test_what_is_no_request_is_refused_and_not_counted(upstream: Upstream, raw: bytes) -> None:
    script = scripted.Script()
    url = await upstream(script)
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{url}/chat/completions", content=raw)
        assert answer.status_code == 400
        assert "not a chat request" in answer.json()["error"]["message"]
        assert (await client.get(f"{url}/nothing")).status_code == 404
        assert (await client.get(f"{url}/models")).json()["data"][0]["id"] == "scripted"
    assert script.counts.completions == 0


async def test_a_client_that_leaves_is_counted(upstream: Upstream) -> None:
    script = scripted.Script(scripted.Timing(30.0))
    url = await upstream(script)
    async with httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(f"{url}/chat/completions", json=body(), timeout=0.2)
    async with asyncio.timeout(5):
        while not script.counts.cut:
            await asyncio.sleep(0.01)
    assert (script.counts.completions, script.counts.cut) == (1, 1)

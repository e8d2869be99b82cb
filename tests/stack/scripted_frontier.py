"""A frontier that answers at once and counts its tokens, or breaks when asked to; a process of the stack tests."""

from __future__ import annotations

import asyncio
import sys

import orjson
from aiohttp import web

BREAK = "Answer with status 500."
WORDS = ["The", " frontier", " has", " spoken", "."]


async def chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if BREAK in body["messages"][-1]["content"]:
        return web.json_response({"error": {"message": "broken on demand"}}, status=500)
    usage = {"prompt_tokens": 20, "completion_tokens": len(WORDS), "total_tokens": 20 + len(WORDS)}
    head = {"id": "chatcmpl-frontier", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": "".join(WORDS)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for at, word in enumerate(WORDS):
        finish = "stop" if at == len(WORDS) - 1 else None
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": finish}
        await _send(response, {**head, "object": "chat.completion.chunk", "choices": [choice]})
        await asyncio.sleep(0.01)
    await _send(response, {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, event: object) -> None:
    await response.write(b"data: " + orjson.dumps(event) + b"\n\n")


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)

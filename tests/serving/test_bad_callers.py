"""Callers who send anything at all: an error of the tree or an answer, never a 500, and exactly one row each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from models.fake import FakeBackend
from models.types import Call, Capabilities, Completion
from models.upstream.anthropic_request import to_messages
from tests.serving.conftest import Running, Setup, running

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
ANYTHING: list[Any] = [None, True, False, 0, -1, 1.5, 2**53, 2**64 - 1, 10**25, "", "x", "\x00", [], [None], [[]], {}]
ANYTHING += [{"a": None}, {"type": 5}, {"type": "function"}, [{"type": "function"}], [1], ["x"], [{}]]
FIELDS = """
messages model stream stream_options temperature top_p n presence_penalty frequency_penalty seed stop
logit_bias user metadata store service_tier response_format max_tokens max_completion_tokens logprobs
top_logprobs tools tool_choice
parallel_tool_calls reasoning_effort functions function_call best_of echo suffix prompt farthing safety_identifier
prompt_cache_key modalities audio prediction verbosity web_search_options thinking output_config top_k cache_control
cache_salt request_id priority""".split()  # noqa: SIM905 - a list of words
MESSAGE_FIELDS = """
role content name tool_calls tool_call_id function_call refusal audio reasoning_content
thinking_blocks cache_control""".split()  # noqa: SIM905 - a list of words
PART_FIELDS = "type text image_url file input_audio cache_control".split()  # noqa: SIM905 - a list of words


class Translating(FakeBackend):
    """Translates each request as the Anthropic backend does before it answers."""

    async def complete(self, call: Call) -> Completion:
        if call.endpoint == "chat/completions":
            json.dumps(to_messages(call.body, "theirs", False, 1000))
        return await FakeBackend.complete(self, call)


def bodies() -> list[tuple[str, dict[str, Any]]]:
    """(endpoint, body) with one thing after another replaced by anything."""
    made = []
    for name in FIELDS:
        for value in ANYTHING:
            made.append(("chat/completions", {"model": "auto", "messages": HI, name: value}))
            made.append(("completions", {"model": "auto", "prompt": "hi", name: value}))
    for role in ("user", "assistant", "tool", "system"):
        for name in MESSAGE_FIELDS:
            for value in ANYTHING:
                message = {"role": role, "content": "hi", "tool_call_id": "t", name: value}
                made.append(("chat/completions", {"model": "auto", "messages": [*HI, message]}))
    for kind in ("text", "image_url", "file", "refusal", "input_audio", "tool_use", "x"):
        for name in PART_FIELDS:
            for value in ANYTHING:
                part = {"type": kind, "text": "hi", "image_url": {"url": "https://x"}, name: value}
                made.append(("chat/completions", {"model": "auto", "messages": [{"role": "user", "content": [part]}]}))
    for value in ANYTHING:
        calls = [{"id": "t", "type": "function", "function": {"name": "f", "arguments": value}}]
        message = {"role": "assistant", "tool_calls": calls}
        made.append(("chat/completions", {"model": "auto", "messages": [*HI, message]}))
        file = {"type": "file", "file": {"file_data": value, "filename": value}}
        made.append(("chat/completions", {"model": "auto", "messages": [{"role": "user", "content": [file]}]}))
        for name in ("name", "description", "parameters", "strict"):
            tool = {"type": "function", "function": {**TOOL["function"], name: value}}
            made.append(("chat/completions", {"model": "auto", "messages": HI, "tools": [tool], "tool_choice": "auto"}))
        for choice in ({"type": "function", "function": value}, {"type": value}, {"type": "tool", "name": value}):
            made.append(("chat/completions", {"model": "auto", "messages": HI, "tools": [TOOL], "tool_choice": choice}))
        shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": value}}
        made.append(("chat/completions", {"model": "auto", "messages": HI, "response_format": shape}))
    return made


async def test_any_value_in_any_field_is_answered_or_refused_and_has_a_row(setup: Setup) -> None:
    takes = Capabilities(completions=True)
    setup.small, setup.frontier = Translating("small/0", "tiny", takes), Translating("frontier/0", "huge", takes)
    setup.max_in_flight = 1000
    gate = asyncio.Semaphore(16)
    bad: list[Any] = []

    async def one(service: Running, endpoint: str, body: dict[str, Any]) -> None:
        headers = {"cache-control": "no-store", "content-type": "application/json"}
        async with gate, service.http.post(f"{service.url}/v1/{endpoint}", data=json.dumps(body), headers=headers) as r:
            raw = await r.read()
            if r.status != 200 and not (400 <= r.status < 500 and json.loads(raw)["error"]["message"]):
                bad.append((r.status, endpoint, body, raw[:200]))

    asked = bodies()
    async with running(setup) as service:
        await asyncio.gather(*(one(service, *ask) for ask in asked))
        rows = await service.rows(len(asked))
    assert bad == []
    assert {row["status"] for row in rows} <= {"answered", "refused", "failed"}
    assert len({row["request_id"] for row in rows}) == len(asked)

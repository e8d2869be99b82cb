"""The questions every backend is asked, whatever it is: scripted, a provider's wire, our own engine, the fake.

A `Subject` is a backend with what a test must know to provoke it. Each question is a coroutine over one.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import orjson
import pytest

from models.backend import Backend
from models.errors import BadRequest, ContextExceeded
from models.types import Call, Completion, Deadline, Usage
from serving.wire.assemble import assemble

Fault = Literal["slow", "bad_parameter", "too_long"]
FREE_WITHIN_S = 5.0


class Subject(ABC):
    backend: Backend

    @abstractmethod
    def provoke(self, fault: Fault) -> dict[str, Any]:
        """Make the next answers go so; returns the fields to ask with."""

    @abstractmethod
    async def running(self) -> int:
        """How many answers are being made now."""

    def call(self, stream: bool, **fields: Any) -> Call:
        body = {"messages": [{"role": "user", "content": "What is a farthing?"}], "max_tokens": 24, "temperature": 0}
        return Call("chat/completions", body | fields, "req_contract", Deadline.after(60.0), stream=stream)

    async def whole(self, **fields: Any) -> Completion:
        return await self.backend.complete(self.call(False, **fields))

    async def streamed(self, **fields: Any) -> tuple[list[bytes], Usage | None]:
        """The chunks' data, and the last usage told."""
        data, usage = [], None
        async with contextlib.aclosing(self.backend.stream(self.call(True, **fields))) as chunks:
            async for chunk in chunks:
                data.append(chunk.data)
                usage = chunk.usage or usage
        return data, usage


async def a_stream_spells_what_the_whole_answer_says(subject: Subject) -> None:
    whole = await subject.whole()
    spelt = assemble(b"".join((await subject.streamed())[0]))
    assert spelt is not None
    told, heard = whole.body["choices"][0], spelt["choices"][0]
    assert told["message"]["content"] and heard["message"]["content"] == told["message"]["content"]
    assert heard["finish_reason"] == told["finish_reason"]


async def usage_is_told_and_is_the_same_both_ways(subject: Subject) -> None:
    whole = (await subject.whole()).usage
    _, streamed = await subject.streamed()
    assert whole is not None and streamed is not None
    assert whole.input_tokens == streamed.input_tokens > 0
    assert whole.output_tokens == streamed.output_tokens > 0
    assert not whole.estimated and not streamed.estimated


async def chunks_are_whole_events_without_done_and_without_mere_usage(subject: Subject) -> None:
    data, _ = await subject.streamed()
    for event in b"".join(data).split(b"\n\n")[:-1]:
        lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
        assert orjson.loads(lines[0][5:])["choices"]
    assert all(block.endswith(b"\n\n") for block in data if block)


async def content_is_marked_from_its_first_word_on(subject: Subject) -> None:
    marks = []
    async for chunk in subject.backend.stream(subject.call(True)):
        marks.append((chunk.content, b'"content":"' in chunk.data.replace(b'"content":""', b"").replace(b": ", b":")))
    first = next(at for at, (_, has_text) in enumerate(marks) if has_text)
    assert [marked for marked, _ in marks] == [at >= first for at in range(len(marks))]


async def cancelling_a_whole_answer_frees_the_backend(subject: Subject) -> None:
    await _leaves(subject, lambda fields: subject.whole(**fields))


async def cancelling_a_stream_frees_the_backend(subject: Subject) -> None:
    await _leaves(subject, lambda fields: subject.streamed(**fields))


async def closing_a_stream_after_its_first_words_frees_the_backend(subject: Subject) -> None:
    chunks = subject.backend.stream(subject.call(True, **subject.provoke("slow")))
    async for chunk in chunks:
        if chunk.content:
            break
    assert await subject.running() == 1
    await chunks.aclose()
    await _until_free(subject)


async def a_bad_parameter_is_the_callers_fault(subject: Subject) -> None:
    fields = subject.provoke("bad_parameter")
    for ask in (subject.whole, subject.streamed):
        with pytest.raises(BadRequest) as caught:
            await ask(**fields)
        assert type(caught.value) is BadRequest and caught.value.message


async def a_prompt_that_is_too_long_is_told_apart(subject: Subject) -> None:
    fields = subject.provoke("too_long")
    for ask in (subject.whole, subject.streamed):
        with pytest.raises(ContextExceeded):
            await ask(**fields)


async def it_is_ready(subject: Subject) -> None:
    assert (await subject.backend.health()).ready
    assert subject.backend.name and subject.backend.model and subject.backend.capabilities.context_tokens > 0


async def several_at_once_get_each_its_own_answer(subject: Subject) -> None:
    answers = await asyncio.gather(*(subject.whole() for _ in range(4)), *(subject.streamed() for _ in range(4)))
    texts = {a.body["choices"][0]["message"]["content"] for a in answers if isinstance(a, Completion)}
    assert len(texts) == 1


QUESTIONS: list[Callable[[Subject], Awaitable[None]]] = [
    a_stream_spells_what_the_whole_answer_says,
    usage_is_told_and_is_the_same_both_ways,
    chunks_are_whole_events_without_done_and_without_mere_usage,
    content_is_marked_from_its_first_word_on,
    cancelling_a_whole_answer_frees_the_backend,
    cancelling_a_stream_frees_the_backend,
    closing_a_stream_after_its_first_words_frees_the_backend,
    a_bad_parameter_is_the_callers_fault,
    a_prompt_that_is_too_long_is_told_apart,
    it_is_ready,
    several_at_once_get_each_its_own_answer,
]


async def _leaves(subject: Subject, ask: Callable[[dict[str, Any]], Awaitable[Any]]) -> None:
    asked = asyncio.ensure_future(ask(subject.provoke("slow")))
    async with asyncio.timeout(30):
        while await subject.running() != 1:
            await asyncio.sleep(0.02)
    asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asked
    assert asked.cancelled()
    await _until_free(subject)


async def _until_free(subject: Subject) -> None:
    async with asyncio.timeout(FREE_WITHIN_S):
        while await subject.running():
            await asyncio.sleep(0.02)

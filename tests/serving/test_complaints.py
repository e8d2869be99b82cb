"""Complaints beside answers that are under way: what one must reach, and what it must leave alone."""

from __future__ import annotations

import asyncio
from typing import Any

from models.fake import FakeBackend, Step
from tests.serving.conftest import Running, Setup, running


async def complain(service: Running, response: Any) -> Any:
    told = {"request_id": response.headers["x-request-id"], "good": False}
    async with service.http.post(f"{service.url}/v1/farthing/feedback", json=told) as answer:
        return await answer.json()


async def begun(backend: FakeBackend, calls: int) -> None:
    while len(backend.calls) < calls:
        await asyncio.sleep(0.01)


async def test_an_answer_under_way_during_anothers_complaint_is_remembered(setup: Setup) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("bad"), Step("good", delay_s=0.5)])
    async with running(setup) as service:
        bad, _ = await service.ask("one question")
        await service.rows(1)
        under_way = asyncio.create_task(service.ask("another question"))
        await begun(setup.small, 2)
        assert (await complain(service, bad))["dropped"]
        await under_way
        again, body = await service.ask("another question")
    assert again.headers["x-farthing-cache"] == "exact"
    assert body["choices"][0]["message"]["content"] == "good"


async def test_an_answer_under_way_to_the_very_question_complained_about_is_not_remembered(setup: Setup) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("bad"), Step("bad", delay_s=0.5), Step("good")])
    async with running(setup) as service:
        bad, _ = await service.ask("one question")
        await service.rows(1)
        under_way = asyncio.create_task(service.ask("one question", farthing={"cache": "bypass"}))
        await begun(setup.small, 2)
        assert (await complain(service, bad))["dropped"]
        await under_way
        again, body = await service.ask("one question")
    assert again.headers["x-farthing-cache"] == "miss"
    assert body["choices"][0]["message"]["content"] == "good"

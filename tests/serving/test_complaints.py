"""Complaints: how many a key may make; beside answers under way, what one must reach and what it must leave alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from models.errors import RateLimited
from models.fake import FakeBackend, Step
from router.cache.entry_store import Batch, EntryStore, Which
from serving.admission import FEEDBACK_PER_MINUTE, FeedbackLimit
from serving.ledger import keys
from serving.ledger.keys import ApiKey, Limits
from serving.ledger.row import Row
from tests.serving.conftest import Running, Setup, running


async def complain(service: Running, response: Any) -> Any:
    told = {"request_id": response.headers["x-request-id"], "good": False}
    async with service.http.post(f"{service.url}/v1/farthing/feedback", json=told) as answer:
        return await answer.json()


async def test_a_key_may_speak_of_answers_as_often_as_it_may_ask_and_apart_from_that(setup: Setup) -> None:
    setup.required = True
    async with running(setup) as service:
        few, other = (keys.add(service.store, "acme", limits=Limits(requests_per_minute=n))[1] for n in (2, 60))
        await service.table.refresh()
        mine = {"authorization": f"Bearer {few}"}
        answers = [(await service.ask(question, headers=mine))[0] for question in ("a", "b")]
        await service.rows(2)
        about = {"request_id": answers[0].headers["x-request-id"], "good": True}

        async def tell(secret: str) -> tuple[int, Any, Any]:
            auth = {"authorization": f"Bearer {secret}"}
            async with service.http.post(f"{service.url}/v1/farthing/feedback", json=about, headers=auth) as answer:
                return answer.status, answer.headers, await answer.json()

        assert [(await tell(few))[0] for _ in answers] == [200, 200]
        status, headers, body = await tell(few)
        assert (status, body["error"]["code"], body["error"]["type"]) == (
            429,
            "rate_limit_exceeded",
            "rate_limit_error",
        )
        assert "2 times a minute" in body["error"]["message"] and 1 <= int(headers["retry-after"]) <= 30
        assert (await tell(other))[0] == 200
        assert len(await service.rows()) == 2


def test_feedback_of_a_key_without_a_limit_is_bounded_and_comes_back_with_time() -> None:
    now_s = [0.0]
    bound = FeedbackLimit(lambda: now_s[0])

    def taken(key: ApiKey, times: int) -> int:
        for done in range(times):
            try:
                bound.take(key)
            except RateLimited:
                return done
        return times

    free = ApiKey("k", "acme")
    assert taken(free, 2 * FEEDBACK_PER_MINUTE) == FEEDBACK_PER_MINUTE
    now_s[0] += 1
    assert taken(free, FEEDBACK_PER_MINUTE) == FEEDBACK_PER_MINUTE // 60
    assert taken(ApiKey("k", "acme", limits=Limits(requests_per_minute=60)), 9) == 0, "a limit that was changed holds"
    now_s[0] += 1
    assert taken(ApiKey("k", "acme", limits=Limits(requests_per_minute=60)), 9) == 1


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


@pytest.mark.parametrize("leader_first", [True, False])
@pytest.mark.parametrize("shared", [True, False], ids=["one flight", "two hits"])
async def test_complaints_about_one_hit_by_meaning_count_once_whoever_comes_first(
    setup: Setup, recall: Any, shared: bool, leader_first: bool
) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask("How do I reset my password?")
        assert service.semantics is not None and service.router.recall is not None
        await service.semantics.drain(5.0)

        async def slowly(question: str, cached: str) -> bool:
            await asyncio.sleep(0.3 if shared else 0)
            return True

        service.router.recall.second = slowly
        one, other = "How can I reset my password?", "How can I reset my password?" + ("" if shared else " ")
        answers = await asyncio.gather(service.ask(one), service.ask(other))
        await service.rows(3)
        hits = sorted((r for r, _ in answers), key=lambda r: r.headers["x-farthing-cache"], reverse=leader_first)
        told = [(await complain(service, hit))["dropped"] for hit in hits]
        counted = service.router.recall.monitor.labels
    assert [hit.headers["x-farthing-route"] for hit in hits] == ["cache", "cache"]
    assert told == [True, False] and counted == [False]


async def test_a_complaint_about_a_hit_whose_entry_has_gone_meanwhile_counts(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask("How do I reset my password?")
        assert service.semantics is not None and service.router.recall is not None and service.router.cache is not None
        await service.semantics.drain(5.0)
        hit, _ = await service.ask("How can I reset my password?")
        await service.rows(2)
        await service.router.cache.delete_all()
        told = await complain(service, hit)
        counted = service.router.recall.monitor.labels
    assert hit.headers["x-farthing-cache"] == "semantic" and not told["dropped"] and counted == [False]


async def test_a_complaint_about_a_question_asked_afresh_a_thousand_times_is_one_deletion(
    setup: Setup, recall: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.recall = recall()
    deletions: list[int] = []
    delete = EntryStore.delete

    def counted(self: EntryStore, which: Which, before: Batch) -> int:
        deletions.append(len(which.ids))
        return delete(self, which, before)

    monkeypatch.setattr(EntryStore, "delete", counted)
    async with running(setup) as service:
        await service.ask("How do I reset my password?")
        assert service.semantics is not None
        await service.semantics.drain(5.0)
        hit, _ = await service.ask("How do I reset my password?")
        made, _ = await service.rows(2)
        earlier = [
            Row(request_id=f"req_{i}", at_ms=i, route="small", cache_entry=made["cache_entry"]) for i in range(999)
        ]
        with service.store.write() as connection:
            service.store.put(connection, [replace(row, tenant=made["tenant"]) for row in earlier])
        assert (await complain(service, hit))["dropped"]
        again, _ = await service.ask("How can I reset my password?")
    assert deletions == [1 + 999 + 1]  # the one complained about, too
    assert again.headers["x-farthing-cache"] == "miss"

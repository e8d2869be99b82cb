"""What a complaint must reach, what may not leave the machine, and faults that come two at a time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from models.errors import BadRequest
from models.fake import FakeBackend, Step
from router import artifacts
from router.artifacts import Manifest
from router.cache import tune
from router.embedding.encoder import TextEncoder
from serving import routing
from serving.cache.key import meaning_scope
from serving.config import SemanticCache as SemanticConfig
from serving.ledger import keys
from serving.semantic import ended_well
from serving.wire.request import Limits, parse
from tests.serving.conftest import Running, Setup, running

ASKED = "How do I reset my password?"
AGAIN = "How can I reset my password?"


async def learnt(service: Running) -> None:
    assert service.semantics is not None
    await service.semantics.drain(5.0)


async def complain(service: Running, response: Any) -> Any:
    told = {"request_id": response.headers["x-request-id"], "good": False}
    async with service.http.post(f"{service.url}/v1/farthing/feedback", json=told) as answer:
        return await answer.json()


async def test_a_complaint_about_an_exact_hit_takes_its_copy_by_meaning_too(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        hit, _ = await service.ask(ASKED)
        await service.rows(2)
        told = await complain(service, hit)
        same, _ = await service.ask(ASKED)
    assert (hit.headers["x-farthing-cache"], told["dropped"]) == ("exact", True)
    assert same.headers["x-farthing-cache"] == "miss"


async def test_a_complaint_of_one_who_shared_a_flight_drops_the_answer(setup: Setup, recall: Any) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("wrong", delay_s=0.3), Step("right")])
    setup.recall = recall()
    async with running(setup) as service:
        answers = await asyncio.gather(service.ask(ASKED), service.ask(ASKED))
        await learnt(service)
        await service.rows(2)
        (follower,) = [r for r, _ in answers if r.headers["x-farthing-cache"] == "coalesced"]
        told = await complain(service, follower)
        after, _ = await service.ask(ASKED)
    assert told["dropped"] is True
    assert after.headers["x-farthing-cache"] == "miss"


async def test_a_complaint_of_one_who_shared_a_hit_by_meaning_drops_it(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        assert service.router.recall is not None

        async def slowly(question: str, cached: str) -> bool:
            await asyncio.sleep(0.3)
            return True

        service.router.recall.second = slowly
        answers = await asyncio.gather(service.ask(AGAIN), service.ask(AGAIN))
        await service.rows(3)
        (follower,) = [r for r, _ in answers if r.headers["x-farthing-cache"] == "coalesced"]
        told = await complain(service, follower)
        after, _ = await service.ask(AGAIN)
        counted = service.router.recall.monitor.labels
    assert follower.headers["x-farthing-route"] == "cache"
    assert told["dropped"] is True
    assert after.headers["x-farthing-cache"] == "miss"
    assert counted == [False]


async def test_a_complaint_counts_after_the_router_has_forgotten_the_question_and_once_an_entry(
    setup: Setup, recall: Any
) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        hits = [(await service.ask(AGAIN))[0] for _ in range(2)]
        assert {hit.headers["x-farthing-cache"] for hit in hits} == {"semantic"}
        await service.rows(3)
        assert service.router.recall is not None
        service.router.recall._asked.clear()
        assert [(await complain(service, hit))["dropped"] for hit in hits] == [True, False]
        counted = service.router.recall.monitor.labels
    assert counted == [False]


async def test_what_must_stay_here_is_not_shown_to_a_hosted_judge(setup: Setup, recall: Any) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("go to settings"), Step("open settings")])
    setup.recall, setup.compare, setup.judge = recall("shadow"), "judge", "frontier"
    async with running(setup) as service:
        await service.ask(ASKED, farthing={"local_only": True})
        await learnt(service)
        await service.ask(AGAIN, farthing={"local_only": True})
        await learnt(service)
        assert service.router.cache is not None
        entries = (await service.router.cache.stats())["entries"]
    assert len(setup.small.calls) == 2
    assert setup.frontier.calls == []
    assert entries == 2  # remembered all the same


@pytest.mark.parametrize(("models", "judged"), [(("small",), 0), (("auto", "small"), 1), (("small", "frontier"), 1)])
async def test_a_judge_is_asked_only_for_a_key_that_may_come_to_its_tier(
    setup: Setup, recall: Any, models: tuple[str, ...], judged: int
) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("go to settings"), Step("open settings")])
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step("yes")])
    setup.recall, setup.compare, setup.judge, setup.required = recall("shadow"), "judge", "frontier", True
    async with running(setup) as service:
        _, secret = await asyncio.to_thread(keys.add, service.store, "acme", limits=keys.Limits(models=models))
        await service.table.refresh()
        headers = {"authorization": f"Bearer {secret}"}
        for question in (ASKED, AGAIN):
            await service.ask(question, headers, model="small")
            await learnt(service)
    assert len(setup.frontier.calls) == judged


async def test_a_judge_that_fails_costs_a_label_and_no_entry(setup: Setup, recall: Any) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("go to settings"), Step("open settings")])
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(error=BadRequest("no"))])
    setup.recall, setup.compare, setup.judge = recall("shadow"), "judge", "frontier"
    async with running(setup) as service:
        for text in (ASKED, AGAIN):
            await service.ask(text)
            await learnt(service)
        assert service.router.cache is not None and service.router.recall is not None
        entries, labels = (await service.router.cache.stats())["entries"], service.router.recall.monitor.labels
    assert (entries, labels) == (2, [])


@pytest.mark.parametrize("query", ["all=false", "all=", "tenant=a&tenant=default", "tenant=", "namespace=", "entry="])
async def test_a_deletion_that_is_not_clear_deletes_nothing(setup: Setup, recall: Any, query: str) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        async with service.http.delete(f"{service.url}/v1/farthing/cache?{query}") as response:
            assert response.status == 400
        kept, _ = await service.ask(ASKED)
    assert kept.headers["x-farthing-cache"] == "exact"


async def test_labels_that_come_together_are_all_kept(setup: Setup, recall: Any, tmp_path: Path) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        service.router.labels_file = tmp_path / "labels.json"
        await asyncio.gather(*(service.router.label(f"req_{n}", True) for n in range(200)))
        assert json.loads(service.router.labels_file.read_text(encoding="utf-8")) == []


async def test_counting_the_tokens_of_embeddings_holds_up_no_decision(
    setup: Setup, recall: Any, encoder: TextEncoder
) -> None:
    seen: list[int] = []

    class Counting:
        dim = encoder.dim

        def count_tokens(self, texts: list[str]) -> list[int]:
            seen.append(threading.get_ident())
            return encoder.count_tokens(texts)

    setup.recall = recall()
    async with running(setup) as service:
        service.router.text_encoder = cast(Any, Counting())
        await service.router.embed(["a farthing"])
    assert seen and threading.get_ident() not in seen


async def test_a_question_on_its_way_holds_its_own_vector_and_not_a_whole_batch(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        assert service.router.recall is not None and service.router.encoder is not None
        many = asyncio.gather(*(service.router.encoder.encode([f"text {n}"]) for n in range(50)))
        response, _ = await service.ask(ASKED)
        await many
        asked = service.router.recall._asked.get(response.headers["x-request-id"])
    assert asked is not None
    assert asked.vector.base is None


async def test_messages_beside_a_prompt_are_no_fault_of_ours(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    body = {"model": "small", "prompt": "Once upon a time", "messages": "x"}
    async with (
        running(setup) as service,
        service.http.post(f"{service.url}/v1/completions", json=body) as response,
    ):
        assert response.status < 500


async def test_new_thresholds_are_taken_up_while_it_serves_and_bad_ones_are_not(
    setup: Setup, recall: Any, encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "ARTIFACT_LOOK_S", 0.01)
    sha256, root = encoder.identity.sha256, tmp_path / "thresholds"
    prior = tune.shipped(sha256).decider.pooled.to_json()

    def publish(version: str, rules: bytes, encoder_sha256: str = sha256) -> None:
        metrics = {"hits": 500, "wrong_hits": 3}
        manifest = Manifest(tune.KIND, version, "2026-11-26", encoder_sha256, metrics=metrics)
        artifacts.write(root, manifest, {"prior.json": prior, "rules.json": rules})

    setup.recall = recall()
    wanted = SemanticConfig(mode="serve", artifacts=root, max_wrong_hit_rate=0.03)
    async with running(setup) as service:
        router = service.router
        assert router.recall is not None and router.cache is not None
        before = router.recall.rules
        tend = asyncio.create_task(router._tend(router.recall, router.cache, wanted, sha256, ""))
        router.tasks.append(tend)
        for version, rules, made_with in [
            ("a", b"{}", "0" * 64),
            ("b", b'{"nonsense": 1}', sha256),
            ("c", b"[1", sha256),
        ]:
            publish(version, rules, made_with)
            await asyncio.sleep(0.1)
            router.check()
            assert router.recall.rules is before
        publish("d", b"{}")
        until_s = time.monotonic() + 5
        while router.recall.rules is before and time.monotonic() < until_s:
            await asyncio.sleep(0.01)
        router.check()
        assert router.recall.rules.rules.max_wrong_hit_rate == 0.03  # the operator's, not the artifact's
        assert (router.recall.monitor.evidence_hits, router.recall.monitor.evidence_wrong) == (500, 3)
        first, _ = await service.ask(ASKED)
    assert first.status == 200


@pytest.mark.parametrize("part", [{"type": "refusal", "refusal": "No."}, {"type": "text", "text": "x", "extra": 1}])
def test_a_part_that_is_more_than_text_is_not_compared_by_meaning(part: dict[str, Any]) -> None:
    content = [{"type": "text", "text": ASKED}, part]
    body = {"model": "auto", "messages": [{"role": "user", "content": content}]}
    assert meaning_scope(parse("chat/completions", orjson.dumps(body), Limits()), "") is None


def test_a_call_of_a_function_in_the_old_form_is_no_answer_in_text_alone() -> None:
    message = {"content": "a", "function_call": {"name": "f", "arguments": "{}"}}
    assert not ended_well({"choices": [{"finish_reason": "stop", "message": message}]})

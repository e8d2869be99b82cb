"""Answers found by meaning, through the real gateway, router process and encoder: what hits, what must not, who may."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.errors import BadRequest
from models.fake import FakeBackend, Step
from router.embedding.encoder import TextEncoder
from serving.embeddings import parse_embeddings
from serving.ledger.keys import add
from serving.routing import RouterProcess
from tests.serving.conftest import Running, Setup, running

ASKED = "How do I reset my password?"
PARAPHRASES = [
    "How can I reset my password?",
    "Please tell me how I can reset my password.",
    "how do i reset my password",
]
OTHERS = [
    "How do I not reset my password?",
    "How do I reset my username?",
    "How do I reset her password?",
    "How do I reset my password 2 times?",
    "Why do I reset my password?",
]


async def learnt(service: Running) -> None:
    """Until what has been answered so far is remembered."""
    assert service.semantics is not None
    await service.semantics.drain(5.0)


async def test_a_paraphrase_is_answered_from_the_cache_and_its_row_says_so(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        _, first = await service.ask(ASKED)
        await learnt(service)
        for text in PARAPHRASES:
            response, body = await service.ask(text)
            assert response.headers["x-farthing-cache"] == "semantic", text
            assert body["choices"] == first["choices"]
        rows = await service.rows(1 + len(PARAPHRASES))
    assert len(setup.small.calls) == 1
    assert response.headers["x-farthing-route"] == "cache"
    assert 0.8 < float(response.headers["x-farthing-similarity"]) <= 1.0001
    assert int(response.headers["x-farthing-cache-age-s"]) < 60
    hit = rows[-1]
    assert (hit["status"], hit["route"], hit["cache"], hit["reason"]) == ("cached", "cache", "semantic", "semantic")
    assert (hit["cost_nusd"], hit["saved_nusd"]) == (0, rows[0]["cost_nusd"])
    assert hit["cache_entry"] == response.headers["x-farthing-cache-entry"]
    assert body["usage"]["cost"] == 0


@pytest.mark.parametrize("text", OTHERS)
async def test_a_near_miss_is_asked_afresh(setup: Setup, recall: Any, text: str) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        response, _ = await service.ask(text)
    assert response.headers["x-farthing-cache"] == "miss"
    assert len(setup.small.calls) == 2


async def test_a_hit_replays_as_a_stream_with_usage(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        response, stream = await service.stream(PARAPHRASES[0], stream_options={"include_usage": True})
    assert response.headers["x-farthing-cache"] == "semantic"
    assert stream.endswith(b"data: [DONE]\n\n") and b'"cost":0' in stream


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PARAPHRASES[0]}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": PARAPHRASES[0]}]},
        {"max_tokens": 7},
        {"model": "small"},
        {"temperature": 0.5},
        {"farthing": {"cache": "exact"}},
        {"farthing": {"cache": "off"}},
        {"farthing": {"cache": "bypass"}},
        {"farthing": {"local_only": True}},
    ],
    ids=lambda fields: "-".join(fields),
)
async def test_what_is_not_compared_by_meaning_must_be_equal(setup: Setup, recall: Any, other: dict[str, Any]) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        response, _ = await service.ask(PARAPHRASES[0], **other)
    assert response.headers["x-farthing-cache"] in ("miss", "bypass")
    assert len(setup.small.calls) == 2


async def test_tenants_never_share(setup: Setup, recall: Any) -> None:
    setup.recall, setup.required = recall(), True
    async with running(setup) as service:
        keys = [(await asyncio.to_thread(add, service.store, tenant))[1] for tenant in ("a", "b")]
        await service.table.refresh()
        mine, theirs = ({"authorization": f"Bearer {key}"} for key in keys)
        await service.ask(ASKED, headers=mine)
        await learnt(service)
        foreign, _ = await service.ask(PARAPHRASES[0], headers=theirs)
        own, _ = await service.ask(PARAPHRASES[1], headers=mine)
    assert foreign.headers["x-farthing-cache"] == "miss"
    assert own.headers["x-farthing-cache"] == "semantic"


async def test_the_answer_of_a_weaker_tier_never_serves_a_stronger_want(setup: Setup, recall: Any) -> None:
    """Degraded answers are not remembered either: the small model answered because the frontier was down."""
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(error=BadRequest("no"))])
    setup.recall = recall()
    hard = "Prove step by step why you must analyze at least two proofs of the theorem that 2 has no rational root."
    async with running(setup) as service:
        refused, _ = await service.ask(hard)
        await learnt(service)
        again, _ = await service.ask(hard.replace("Prove", "Please prove"))
    assert refused.status == again.status == 400


@pytest.mark.parametrize("text", ["What is the weather today?", "Where is my order?", "And what about that one?"])
async def test_questions_that_only_look_alike_are_not_matched_by_meaning(setup: Setup, recall: Any, text: str) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(text)
        await learnt(service)
        response, _ = await service.ask("please: " + text)
        assert service.router.cache is not None and (await service.router.cache.stats())["entries"] == 0
    assert response.headers["x-farthing-cache"] == "miss"


async def test_shadow_mode_serves_nothing_and_learns(setup: Setup, recall: Any) -> None:
    setup.recall, setup.compare = recall("shadow"), "exact"
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        response, _ = await service.ask(PARAPHRASES[0])
        await learnt(service)
        assert service.router.recall is not None
        labels = service.router.recall.monitor.labels
    assert response.headers["x-farthing-cache"] == "miss"
    assert labels == [True]


async def test_a_wrong_label_of_a_would_be_hit_quarantines_the_entry(setup: Setup, recall: Any) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("use the settings page"), Step("ask the administrator")])
    setup.recall, setup.compare = recall(draw=0.0), "normalised"  # every would-be hit is answered afresh
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        explored, _ = await service.ask(PARAPHRASES[0])
        await learnt(service)
        assert service.router.recall is not None and service.router.cache is not None
        labels, stats = service.router.recall.monitor.labels, await service.router.cache.stats()
    assert explored.headers["x-farthing-cache"] == "miss"
    assert labels == [False]
    assert stats["quarantined"] == 1


async def test_the_kill_switch_stops_hits_while_the_bound_is_above_its_budget(setup: Setup, recall: Any) -> None:
    setup.recall = recall(evidence=10)
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        response, _ = await service.ask(PARAPHRASES[0])
    assert response.headers["x-farthing-cache"] == "miss"


@pytest.mark.parametrize(("agrees", "cache"), [(True, "semantic"), (False, "miss")])
async def test_a_second_opinion_can_only_refuse(setup: Setup, recall: Any, agrees: bool, cache: str) -> None:
    setup.recall = recall()
    asked: list[tuple[str, str]] = []

    async def second(question: str, cached: str) -> bool:
        asked.append((question, cached))
        return agrees

    async with running(setup) as service:
        assert service.router.recall is not None
        service.router.recall.second = second
        await service.ask(ASKED)
        await learnt(service)
        response, _ = await service.ask(PARAPHRASES[0])
        await service.ask(OTHERS[0])
    assert response.headers["x-farthing-cache"] == cache
    assert asked == [(PARAPHRASES[0], ASKED)]  # never about what the gates refuse


async def test_a_judge_is_asked_and_has_a_row_of_its_own(setup: Setup, recall: Any) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step("go to settings"), Step("open settings")])
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step("YES")])
    setup.recall, setup.compare, setup.judge = recall("shadow"), "judge", "frontier"
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        await service.ask(PARAPHRASES[0])
        await learnt(service)
        assert service.router.recall is not None
        labels, rows = service.router.recall.monitor.labels, await service.rows(3)
    assert labels == [True]
    (judged,) = [row for row in rows if row["tags"] == ["judge"]]
    assert (judged["route"], judged["status"]) == ("frontier", "answered") and judged["cost_nusd"] > 0


async def test_thumbs_down_drops_what_was_served(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        await service.ask(ASKED)
        await learnt(service)
        hit, _ = await service.ask(PARAPHRASES[0])
        await service.rows(2)
        complaint = {"request_id": hit.headers["x-request-id"], "good": False}
        async with service.http.post(f"{service.url}/v1/farthing/feedback", json=complaint) as response:
            told = await response.json()
        after, _ = await service.ask(PARAPHRASES[1])
        assert service.router.recall is not None
        labels = service.router.recall.monitor.labels
    assert hit.headers["x-farthing-cache"] == "semantic"
    assert told["dropped"] is True
    assert after.headers["x-farthing-cache"] == "miss"
    assert labels == [False]


async def test_thumbs_down_on_a_fresh_answer_drops_it_from_both_caches(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        fresh, _ = await service.ask(ASKED)
        await learnt(service)
        await service.rows(1)
        complaint = {"request_id": fresh.headers["x-request-id"], "good": False}
        async with service.http.post(f"{service.url}/v1/farthing/feedback", json=complaint) as response:
            assert (await response.json())["dropped"] is True
        same, _ = await service.ask(ASKED)
        assert same.headers["x-farthing-cache"] == "miss"


async def test_deletion_over_http_reaches_both_caches_and_needs_the_right(setup: Setup, recall: Any) -> None:
    setup.recall, setup.required = recall(), True
    async with running(setup) as service:
        user = (await asyncio.to_thread(add, service.store, "a"))[1]
        admin = (await asyncio.to_thread(add, service.store, "ops", "admin"))[1]
        await service.table.refresh()
        mine, ops = ({"authorization": f"Bearer {key}"} for key in (user, admin))
        await service.ask(ASKED, headers=mine)
        await learnt(service)

        async def delete(query: str, headers: dict[str, str]) -> tuple[int, Any]:
            async with service.http.delete(f"{service.url}/v1/farthing/cache?{query}", headers=headers) as response:
                return response.status, await response.json()

        assert (await delete("all=true", mine))[0] == 403
        assert (await delete("tenant=ops", mine))[0] == 403
        assert (await delete("", ops))[0] == 400
        assert await delete("tenant=a", ops) == (200, {"deleted": 2})
        after, _ = await service.ask(PARAPHRASES[0], headers=mine)
    assert after.headers["x-farthing-cache"] == "miss"


async def test_a_router_that_is_gone_costs_hits_and_no_request(setup: Setup, recall: Any) -> None:
    setup.recall, setup.router_fails = recall(), True
    async with running(setup) as service:
        response, _ = await service.ask(ASKED)
        named, _ = await service.ask(ASKED, model="frontier")
    assert (response.status, named.status) == (200, 200)
    assert named.headers["x-farthing-reason"] == "named"


async def test_embeddings_are_the_encoders_own_and_have_a_row(setup: Setup, recall: Any, encoder: TextEncoder) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        body = {"model": "minilm", "input": ["a farthing", "a penny"]}
        async with service.http.post(f"{service.url}/v1/embeddings", json=body) as response:
            answer = await response.json()
        async with service.http.post(f"{service.url}/v1/embeddings", json={"model": "nope", "input": "x"}) as refused:
            error = await refused.json()
        rows = await service.rows(2)
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["data"][0]["embedding"] == pytest.approx(encoder.encode(["a farthing"])[0].tolist(), abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == rows[0]["input_tokens"] > 0
    assert (refused.status, error["error"]["param"]) == (404, "model")
    assert [(row["endpoint"], row["status"]) for row in rows] == [("embeddings", "answered"), ("embeddings", "refused")]


async def test_embeddings_are_under_the_gateways_limits_too(
    setup: Setup, recall: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.recall, setup.max_in_flight, setup.deadline_s = recall(), 1, 0.3
    async with running(setup) as service:
        never = asyncio.Event()
        monkeypatch.setattr(RouterProcess, "embed", lambda *_: never.wait())
        question = {"model": "auto", "input": "x"}

        async def embedded() -> tuple[int, str]:
            async with service.http.post(f"{service.url}/v1/embeddings", json=question) as answer:
                return answer.status, (await answer.json())["error"]["code"]

        first = asyncio.create_task(embedded())
        await asyncio.sleep(0.1)
        assert await embedded() == (503, "overloaded")
        assert await first == (504, "deadline_exceeded")
        assert sorted(row["error_code"] for row in await service.rows(2)) == ["deadline_exceeded", "overloaded"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "minilm"}', "input"),
        (b'{"model": "minilm", "input": []}', "input"),
        (b'{"model": "minilm", "input": [1, 2]}', "input"),
        (b'{"model": "minilm", "input": "x", "dimensions": 12}', "dimensions"),
        (b'{"model": "minilm", "input": "x", "encoding_format": "hex"}', "encoding_format"),
        (b"[]", None),
        (b"{", None),
    ],
)
def test_a_wrong_embeddings_request_says_which_field(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_embeddings(body, "minilm")
    assert caught.value.param == param

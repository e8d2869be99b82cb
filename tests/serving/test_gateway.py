"""The gateway over HTTP with fake backends: routes, headers, failover, cache, coalescing, one row for every request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from models.errors import (
    BadRequest,
    ContextExceeded,
    CreditExhausted,
    FarthingError,
    KeyRejected,
    Overloaded,
    Unavailable,
)
from models.fake import FakeBackend, Step
from serving.ledger import keys
from tests.serving.conftest import HARD, Setup, running


def events(stream: bytes) -> list[Any]:
    """The parsed events of a stream; `[DONE]` as text."""
    found = [e.removeprefix("data: ") for e in stream.decode().split("\n\n") if e]
    return [e if e == "[DONE]" else json.loads(e) for e in found]


def text(stream: bytes) -> str:
    return "".join(
        c["delta"].get("content") or "" for e in events(stream) if e != "[DONE]" for c in e.get("choices", [])
    )


async def test_an_easy_question_is_answered_by_the_small_tier_with_its_price(setup: Setup) -> None:
    async with running(setup) as service:
        response, body = await service.ask("what is a farthing")
        assert response.status == 200
        assert response.headers["x-farthing-route"] == "small"
        assert response.headers["x-farthing-model"] == "tiny"
        assert response.headers["x-farthing-cache"] == "miss"
        assert response.headers["x-farthing-reason"] == "easy"
        assert body["usage"]["cost"] == pytest.approx((4 * 1 + 8 * 2) / 1e6)
        (row,) = await service.rows(1)
    assert row["request_id"] == response.headers["x-request-id"]
    assert (row["status"], row["route"], row["cost_nusd"], row["billed_nusd"]) == ("answered", "small", 20_000, 0)
    assert row["all_frontier_nusd"] == row["all_cheapest_nusd"] == (4 * 100 + 8 * 500) * 1000


async def test_a_hard_question_goes_to_the_frontier_and_is_billed(setup: Setup) -> None:
    async with running(setup) as service:
        response, _ = await service.ask(HARD)
        (row,) = await service.rows(1)
    assert (response.headers["x-farthing-route"], response.headers["x-farthing-reason"]) == ("frontier", "hard")
    assert row["billed_nusd"] == row["cost_nusd"] > 0


async def test_a_stream_carries_its_usage_and_cost_only_when_asked(setup: Setup) -> None:
    async with running(setup) as service:
        response, plain = await service.stream("one")
        _, asked = await service.stream("two", stream_options={"include_usage": True})
        rows = await service.rows(2)
    assert response.headers["x-farthing-route"] == "small"
    assert text(plain) == text(asked) == setup.small.script[0].text
    assert events(plain)[-1] == events(asked)[-1] == "[DONE]"
    assert not any("usage" in e for e in events(plain)[:-1])
    assert events(asked)[-2]["usage"]["cost"] == pytest.approx(rows[1]["cost_nusd"] / 1e9)
    assert all(row["ttft_ms"] <= row["latency_ms"] for row in rows)


async def test_the_second_identical_request_costs_nothing(setup: Setup) -> None:
    async with running(setup) as service:
        await service.ask("same")
        response, body = await service.ask("same")
        streamed, stream = await service.stream("same", stream_options={"include_usage": True})
        rows = await service.rows(3)
    assert len(setup.small.calls) == 1
    assert response.headers["x-farthing-route"] == streamed.headers["x-farthing-route"] == "cache"
    assert response.headers["x-farthing-cache"] == "exact"
    assert body["usage"]["cost"] == 0
    assert text(stream) == setup.small.script[0].text
    assert events(stream)[-2]["usage"]["cost"] == 0
    assert [row["status"] for row in rows] == ["answered", "cached", "cached"]
    assert [row["cost_nusd"] > 0 for row in rows] == [True, False, False]
    assert [row["saved_nusd"] for row in rows] == [0, rows[0]["cost_nusd"], rows[0]["cost_nusd"]]
    assert {row["cache_entry"] for row in rows} == {response.headers["x-farthing-cache-entry"]}
    assert 0 <= int(response.headers["x-farthing-cache-age-s"]) < 60


async def test_a_caller_who_wants_the_cache_alone_costs_no_call(setup: Setup) -> None:
    async with running(setup) as service:
        missed, error = await service.ask("same", farthing={"cache": "only"})
        await service.ask("same")
        hit, _ = await service.ask("same", headers={"cache-control": "only-if-cached"})
        rows = await service.rows(3)
    assert (missed.status, error["error"]["code"]) == (404, "not_cached")
    assert (hit.status, hit.headers["x-farthing-cache"]) == (200, "exact")
    assert len(setup.small.calls) == 1
    assert [row["status"] for row in rows] == ["refused", "answered", "cached"]


@pytest.mark.parametrize(
    ("fields", "headers", "calls"),
    [
        ({"temperature": 0.7}, {}, 2),
        ({"n": 2}, {}, 2),
        ({"temperature": 0}, {}, 1),
        ({"temperature": 0.7, "farthing": {"cache": "exact"}}, {}, 1),
        ({}, {"cache-control": "no-cache"}, 2),
        ({}, {"cache-control": "no-store"}, 2),
        ({"farthing": {"cache": "bypass"}}, {}, 2),
    ],
)
async def test_what_the_caller_says_of_caching_is_honoured(
    setup: Setup, fields: dict[str, Any], headers: dict[str, str], calls: int
) -> None:
    async with running(setup) as service:
        for _ in range(2):
            response, _ = await service.ask("again", headers=headers, **fields)
            assert response.status == 200
        assert len(setup.small.calls) == calls


async def test_our_options_never_reach_the_backend_and_unknown_fields_do(setup: Setup) -> None:
    async with running(setup) as service:
        await service.ask("x", farthing={"tags": ["a"]}, novel_parameter={"deep": 1})
        (row,) = await service.rows(1)
    assert "farthing" not in setup.small.calls[0].body
    assert setup.small.calls[0].body["novel_parameter"] == {"deep": 1}
    assert row["tags"] == ["a"]


async def test_identical_requests_in_flight_share_one_call_streams_included(setup: Setup) -> None:
    setup.small.script = [Step(delay_s=0.1, word_s=0.02)]
    async with running(setup) as service:
        unary = [service.ask("twin") for _ in range(4)]
        streams = [service.stream("twin") for _ in range(4)]
        answers = await asyncio.gather(*unary, *streams)
        rows = await service.rows(8)
    assert len(setup.small.calls) == 1
    assert {r.headers["x-farthing-cache"] for r, _ in answers} == {"miss", "coalesced"}
    assert {a["choices"][0]["message"]["content"] for _, a in answers[:4]} == {setup.small.script[0].text}
    assert {text(a) for _, a in answers[4:]} == {setup.small.script[0].text}
    assert sorted(row["status"] for row in rows) == ["answered"] + ["coalesced"] * 7
    assert sum(row["cost_nusd"] > 0 for row in rows) == 1


async def test_a_late_joiner_gets_the_part_already_produced(setup: Setup) -> None:
    setup.small.script = [Step(word_s=0.05)]
    async with running(setup) as service:
        first = asyncio.create_task(service.stream("late"))
        await asyncio.sleep(0.2)
        _, late = await service.stream("late")
        assert text(late) == text((await first)[1]) == setup.small.script[0].text
        assert len(setup.small.calls) == 1


async def test_one_client_leaving_does_not_cancel_it_for_the_others(setup: Setup) -> None:
    setup.small.script = [Step(word_s=0.05)]
    async with running(setup) as service:
        leader = asyncio.create_task(service.stream("shared"))
        await asyncio.sleep(0.12)
        follower = asyncio.create_task(service.stream("shared"))
        await asyncio.sleep(0.05)
        leader.cancel()
        _, answer = await follower
        assert text(answer) == setup.small.script[0].text
        rows = await service.rows(2)
    assert sorted(row["status"] for row in rows) == ["cancelled", "coalesced"]
    assert sum(row["cost_nusd"] for row in rows) > 0


async def test_when_all_have_left_the_backend_is_told_and_the_row_says_so(setup: Setup) -> None:
    setup.small.script = [Step(word_s=0.2)]
    async with running(setup) as service:
        asked = [asyncio.create_task(service.stream("bye")), asyncio.create_task(service.ask("bye too"))]
        await asyncio.sleep(0.3)
        for task in asked:
            task.cancel()
        await asyncio.sleep(0.3)
        assert setup.small.ended == 2
        assert len(service.flights) == 0
        rows = await service.rows(2)
    assert {row["status"] for row in rows} == {"cancelled"}
    assert all(row["usage_estimated"] for row in rows if row["stream"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("down"), "fallback_upstream_unavailable"),
        (Overloaded("full"), "fallback_overloaded"),
        (ContextExceeded("too long"), "fallback_context_length_exceeded"),
    ],
)
async def test_when_the_small_tier_fails_the_next_answers(setup: Setup, error: FarthingError, reason: str) -> None:
    setup.small.script = [Step(error=error)]
    async with running(setup) as service:
        response, _ = await service.ask("easy")
        streamed, answer = await service.stream("easy too")
        await service.rows(2)
    assert response.headers["x-farthing-route"] == streamed.headers["x-farthing-route"] == "frontier"
    assert response.headers["x-farthing-reason"] == streamed.headers["x-farthing-reason"] == reason
    assert events(answer)[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Unavailable("down"), "upstream_unavailable"),
        (KeyRejected("key"), "upstream_auth"),
        (CreditExhausted("credit"), "upstream_credit"),
    ],
)
async def test_when_the_frontier_fails_the_small_tier_answers_says_so_and_is_not_stored(
    setup: Setup, error: FarthingError, cause: str
) -> None:
    assert setup.frontier is not None
    setup.frontier.script = [Step(error=error)]
    async with running(setup) as service:
        for _ in range(2):
            response, _ = await service.ask(HARD)
            assert response.headers["x-farthing-route"] == "small"
            assert response.headers["x-farthing-reason"].startswith("degraded_")
            assert response.headers["x-farthing-cache"] == "miss"
        rows = await service.rows(2)
    assert rows[0]["reason"] == f"degraded_{cause}"


async def test_without_a_key_for_the_frontier_the_small_tier_answers_and_says_so(setup: Setup) -> None:
    setup.frontier = None
    async with running(setup) as service:
        response, _ = await service.ask(HARD)
        named, body = await service.ask("x", model="frontier")
    assert response.headers["x-farthing-reason"] == "degraded_no_key"
    assert named.status == 502
    assert "no key" in body["error"]["message"]


async def test_the_callers_own_fault_is_not_moved_on(setup: Setup) -> None:
    setup.small.script = [Step(error=BadRequest("temperature is odd", param="temperature"))]
    async with running(setup) as service:
        response, body = await service.ask("easy")
        (row,) = await service.rows(1)
    assert setup.frontier is not None and setup.frontier.calls == []
    assert (response.status, body["error"]["param"]) == (400, "temperature")
    assert (row["status"], row["error_code"]) == ("failed", "invalid_request")


async def test_a_named_tier_is_not_left(setup: Setup) -> None:
    setup.small.script = [Step(error=Unavailable("down"))]
    async with running(setup) as service:
        response, body = await service.ask("x", model="small")
        assert (response.status, body["error"]["code"]) == (502, "upstream_unavailable")
        for name in ("huge", "best", "frontier"):
            response, _ = await service.ask("x", model=name, headers={"cache-control": "no-store"})
            assert response.headers["x-farthing-model"] == "huge"


async def test_a_stream_that_breaks_ends_with_an_error_and_costs_what_was_made(setup: Setup) -> None:
    setup.small.script = [Step("word " * 50, cut_after=3)]
    async with running(setup) as service:
        response, answer = await service.stream("x")
        again, _ = await service.stream("x")
        rows = await service.rows(2)
    assert response.status == 200
    last = events(answer)[-1]
    assert last["error"]["code"] == "upstream_stream_cut"
    assert again.headers["x-farthing-cache"] == "miss"
    assert rows[0]["status"] == "failed" and rows[0]["error_code"] == "upstream_stream_cut"
    assert rows[0]["cost_nusd"] > 0 and rows[0]["usage_estimated"]


async def test_a_backend_without_usage_is_billed_by_estimate_and_not_stored(setup: Setup) -> None:
    setup.small.script = [Step(usage=False)]
    async with running(setup) as service:
        await service.ask("x")
        response, _ = await service.ask("x")
        rows = await service.rows(2)
    assert response.headers["x-farthing-cache"] == "miss"
    assert all(row["usage_estimated"] and row["cost_nusd"] > 0 for row in rows)


async def test_a_deadline_that_passes_is_a_504_and_a_timed_out_row(setup: Setup) -> None:
    setup.small.script = [Step(delay_s=5)]
    async with running(setup) as service:
        response, body = await service.ask("x", farthing={"deadline_ms": 100})
        (row,) = await service.rows(1)
    assert (response.status, body["error"]["code"], row["status"]) == (504, "deadline_exceeded", "timed_out")


async def test_a_router_that_fails_falls_to_the_default_tier(setup: Setup) -> None:
    setup.router_fails = True
    async with running(setup) as service:
        response, _ = await service.ask(HARD)
    assert (response.headers["x-farthing-route"], response.headers["x-farthing-reason"]) == ("small", "router_down")


async def test_tenants_never_share_answers(setup: Setup) -> None:
    async with running(setup) as service:
        secrets = [keys.add(service.store, tenant)[1] for tenant in ("a", "b")]
        await service.table.refresh()
        for secret in secrets:
            response, _ = await service.ask("same", headers={"authorization": f"Bearer {secret}"})
            assert response.headers["x-farthing-cache"] == "miss"


async def test_models_health_and_ready(setup: Setup) -> None:
    setup.small.ready = False
    async with running(setup) as service:
        async with service.http.get(f"{service.url}/v1/models") as response:
            names = [m["id"] for m in (await response.json())["data"]]
        async with service.http.get(f"{service.url}/ready") as response:
            ready = await response.json()
        async with service.http.get(f"{service.url}/health") as response:
            assert response.status == 200
    assert names == ["auto", "small", "frontier", "tiny", "huge", "best"]
    assert ready["ready"] and ready["tiers"]["frontier"]["ready"] and not ready["tiers"]["small"]["ready"]


async def test_every_mixture_leaves_exactly_one_row_a_request(setup: Setup) -> None:
    setup.small = FakeBackend(
        "small/0", "tiny", script=[Step(word_s=0.01), Step(error=Unavailable("x")), Step(cut_after=1)] * 20
    )
    async with running(setup) as service:

        async def one(n: int) -> None:
            try:
                async with asyncio.timeout(0.05 if n % 7 == 0 else 10):
                    await (service.stream if n % 2 else service.ask)(f"q{n % 11}", model="auto" if n % 3 else "small")
            except (TimeoutError, aiohttp.ClientError):
                pass

        await asyncio.gather(*(one(n) for n in range(60)))
        await asyncio.sleep(0.3)
        rows = await service.rows()
        assert 50 < service.door.received <= 60  # a client that leaves at once may not have asked
        assert len({row["request_id"] for row in rows}) == len(rows) == service.door.received
    assert not [row for row in rows if row["status"] == "lost"]

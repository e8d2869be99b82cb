"""Who gets in, with what: bad input, keys, limits, budgets, and a gateway that is full or stopping."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import KeyRejected
from models.fake import Step
from models.pace import LEAST_ANSWERS
from serving.ledger import keys
from serving.ledger.grants import Budgets
from serving.ledger.keys import Limits
from tests.serving.conftest import HARD, Setup, running

HURRY = {"deadline_ms": 2_000}  # what has to be in time is so on a machine that stands still for a second, too


@pytest.mark.parametrize(
    ("raw", "status", "param"),
    [
        (b"{bad", 400, None),
        (b"[]", 400, None),
        (b'{"model": "auto", "messages": []}', 400, "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', 400, "model"),
        (b'{"model": "none", "messages": [{"role": "user", "content": "x"}]}', 404, "model"),
        (b'{"model": "auto", "messages": [{"role": "user", "content": 5}]}', 400, "messages[0].content"),
        (b'{"model": "auto", "temperature": 9, "messages": [{"role": "user", "content": "x"}]}', 400, "temperature"),
        (b'{"model": "auto", "farthing": {"x": 1}, "messages": [{"role": "user", "content": "x"}]}', 400, "farthing.x"),
        (b'{"model": "auto", "messages": [{"role": "user", "content": "' + b"x" * 200_000 + b'"}]}', 413, None),
    ],
)
async def test_bad_input_is_refused_with_the_field_and_leaves_one_row(
    setup: Setup, raw: bytes, status: int, param: str | None
) -> None:
    async with running(setup) as service:
        async with service.http.post(f"{service.url}/v1/chat/completions", data=raw) as response:
            body = await response.json()
        (row,) = await service.rows(1)
    assert (response.status, body["error"]["param"]) == (status, param)
    assert len(body["error"]["message"]) > 10
    assert (row["status"], row["http_status"]) == ("refused", status)
    assert setup.small.calls == []


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("POST", "/nowhere", 404)]
)
async def test_wrong_paths_and_methods_get_the_error_shape(setup: Setup, method: str, path: str, status: int) -> None:
    async with running(setup) as service, service.http.request(method, service.url + path) as response:
        assert response.status == status
        assert "error" in await response.json()


async def test_keys_open_the_door_and_limits_close_it(setup: Setup) -> None:
    setup.required = True
    async with running(setup) as service:
        response, body = await service.ask("x")
        assert (response.status, body["error"]["code"]) == (401, "invalid_api_key")
        assert await service.rows() == []
        _, secret = keys.add(service.store, "acme", limits=Limits(requests_per_minute=2, models=("auto",)))
        await service.table.refresh()
        mine = {"authorization": f"Bearer {secret}"}
        response, _ = await service.ask("a", headers=mine)
        assert response.status == 200
        assert response.headers["x-ratelimit-limit-requests"] == "2"
        response, body = await service.ask("a", headers=mine, model="frontier")
        assert (response.status, body["error"]["code"]) == (403, "permission_denied")
        await service.ask("b", headers=mine)
        response, body = await service.ask("c", headers=mine)
        assert (response.status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(response.headers["retry-after"]) >= 1
        rows = await service.rows(4)
    assert {row["tenant"] for row in rows} == {"acme"}
    assert sorted(row["status"] for row in rows) == ["answered", "answered", "refused", "refused"]


async def test_over_the_budget_the_small_tier_answers_and_says_so(setup: Setup) -> None:
    setup.budgets = Budgets(deployment_nusd_per_day=1)
    async with running(setup) as service:
        response, _ = await service.ask(HARD)
        named, body = await service.ask(HARD, model="frontier")
    assert (response.headers["x-farthing-route"], response.headers["x-farthing-reason"]) == ("small", "degraded_budget")
    assert (named.status, body["error"]["code"]) == (429, "insufficient_quota")


async def test_a_full_gateway_says_so(setup: Setup) -> None:
    setup.max_in_flight = 1
    setup.small.script = [Step(delay_s=0.3)]
    async with running(setup) as service:
        first = asyncio.create_task(service.ask("one"))
        await asyncio.sleep(0.1)
        response, body = await service.ask("two")
        assert (response.status, body["error"]["code"]) == (503, "overloaded")
        assert (await first)[0].status == 200
        await service.rows(2)


async def test_a_stopping_service_takes_nothing_new(setup: Setup) -> None:
    async with running(setup) as service:
        (setup.folder / "draining").touch()
        response, body = await service.ask("x")
        assert (response.status, body["error"]["code"]) == (503, "overloaded")
        async with service.http.get(f"{service.url}/ready") as ready:
            assert ready.status == 503


async def test_a_tier_that_would_be_late_at_its_load_is_passed_over_while_another_may_be_in_time(setup: Setup) -> None:
    setup.small.script = [Step(delay_s=3)]
    async with running(setup) as service:
        await asyncio.gather(*(service.ask(f"question {n}") for n in range(LEAST_ANSWERS)))
        hurried, _ = await service.ask("in a hurry", farthing=HURRY)
        patient, _ = await service.ask("not in a hurry", farthing={"deadline_ms": 20_000})
        named, body = await service.ask("small or nothing", model="small", farthing=HURRY)
    assert (hurried.headers["x-farthing-route"], hurried.headers["x-farthing-reason"]) == ("frontier", "fallback_late")
    assert (patient.headers["x-farthing-route"], patient.headers["x-farthing-reason"]) == ("small", "easy")
    assert (named.status, body["error"]["code"]) == (504, "deadline_exceeded")


async def test_when_every_tier_would_be_late_the_wanted_one_is_asked(setup: Setup) -> None:
    setup.small.script = setup.frontier.script = [Step(delay_s=3)]
    async with running(setup) as service:
        questions = [f"question {n}" for n in range(LEAST_ANSWERS)]
        await asyncio.gather(*(service.ask(one, model=tier) for one in questions for tier in ("small", "frontier")))
        setup.small.script = [Step()]
        response, _ = await service.ask("in a hurry", farthing=HURRY)
    assert (response.status, response.headers["x-farthing-route"]) == (200, "small")


@pytest.mark.parametrize("asked_before", [0, 1])
async def test_a_late_tier_is_asked_where_the_others_fail_or_cannot_be_asked(setup: Setup, asked_before: int) -> None:
    setup.small.script = [Step(delay_s=3)]
    setup.frontier.script = [Step(error=KeyRejected("no"))]
    async with running(setup) as service:
        await asyncio.gather(*(service.ask(f"question {n}") for n in range(LEAST_ANSWERS)))
        for n in range(asked_before):  # then it is left alone
            await service.ask(f"{n}", model="frontier")
        setup.small.script = [Step()]
        response, _ = await service.ask("in a hurry", farthing=HURRY)
    assert (response.status, response.headers["x-farthing-route"]) == (200, "small")
    assert response.headers["x-farthing-reason"] == "easy"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tier_that_is_in_time_for_nobody_is_known_to_be_late(setup: Setup, stream: bool) -> None:
    setup.small.script = [Step(word_s=3)]
    patience = {"deadline_ms": 3_000}  # more than the next has, so that a start held up is no matter
    async with running(setup) as service:
        ask = service.stream if stream else service.ask
        await asyncio.gather(*(ask(f"question {n}", farthing=patience) for n in range(LEAST_ANSWERS)))
        response, _ = await ask("and one more", farthing=HURRY)
    assert (response.headers["x-farthing-route"], response.headers["x-farthing-reason"]) == (
        "frontier",
        "fallback_late",
    )

"""Races and edges of the gateway: deadlines, deletions, leaving at each stage, full disks, slow bodies, headers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from models.errors import KeyRejected, Overloaded, Unavailable
from models.fake import Step
from serving.cache.exact import ExactCache
from serving.deciding import RemoteDecider
from serving.ledger import keys
from serving.ledger.allowance import Allowance
from serving.ledger.grants import Budgets
from serving.wire.options import Options
from tests.serving.conftest import HARD, Running, Setup, running


async def test_a_twin_with_a_shorter_deadline_does_not_cut_the_longer_ones_answer(setup: Setup) -> None:
    setup.small.script = [Step(delay_s=0.4)]
    async with running(setup) as service:
        short = asyncio.create_task(service.ask("same", farthing={"deadline_ms": 100}))
        await asyncio.sleep(0.05)
        long, _ = await service.ask("same")
        assert ((await short)[0].status, long.status) == (504, 200)
        rows = await service.rows(2)
    assert sorted(row["status"] for row in rows) == ["answered", "timed_out"]


async def test_a_twin_with_a_deadline_of_its_own_is_not_held_longer_than_that(setup: Setup) -> None:
    setup.small.script = [Step(delay_s=3)]
    async with running(setup) as service:
        long = asyncio.create_task(service.ask("same"))
        await asyncio.sleep(0.05)
        short, body = await service.ask("same", farthing={"deadline_ms": 100})
        assert not long.done()
        assert (short.status, body["error"]["code"]) == (504, "deadline_exceeded")
        assert (await long)[0].status == 200
        await service.rows(2)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_of_a_millisecond_is_a_504_that_costs_nothing(setup: Setup, stream: bool) -> None:
    setup.small.script = [Step(delay_s=0.2)]
    async with running(setup) as service:
        response, _ = await (service.stream if stream else service.ask)("x", farthing={"deadline_ms": 1})
        (row,) = await service.rows(1)
    assert (response.status, row["status"], row["http_status"]) == (504, "timed_out", 504)


async def test_a_call_that_was_sent_and_ran_out_of_time_is_charged_for_its_prompt(setup: Setup) -> None:
    setup.frontier.script = [Step(delay_s=5)]
    async with running(setup) as service:
        response, _ = await service.ask(HARD, model="frontier", farthing={"deadline_ms": 2_000})
        (row,) = await service.rows(1)
    assert (response.status, row["status"], row["route"]) == (504, "timed_out", "frontier")
    assert row["billed_nusd"] > 0 and row["usage_estimated"]


async def test_every_choice_asked_for_is_reserved(setup: Setup) -> None:
    """One choice of 100 tokens costs at most about $0.051 here; two cost twice that."""
    setup.budgets = Budgets(deployment_nusd_per_day=70_000_000)
    async with running(setup) as service:
        two, body = await service.ask("x", model="frontier", n=2, max_tokens=100)
        one, _ = await service.ask("x", model="frontier", n=1, max_tokens=100)
        await service.rows(2)
    assert (two.status, body["error"]["code"], one.status) == (429, "insufficient_quota", 200)


async def test_requests_at_once_do_not_overspend_a_budget_for_one(setup: Setup) -> None:
    setup.budgets = Budgets(deployment_nusd_per_day=60_000_000)
    setup.frontier.script = [Step(delay_s=0.1)]
    async with running(setup) as service:
        asked = (service.ask(f"x{n}", model="frontier", max_tokens=100) for n in range(8))
        statuses = sorted(response.status for response, _ in await asyncio.gather(*asked))
        rows = await service.rows(8)
    assert statuses[0] == 200 and set(statuses[1:]) <= {200, 429} and 429 in statuses
    assert sum(row["billed_nusd"] for row in rows) <= 60_000_000


async def test_what_was_answered_while_the_router_was_down_is_not_kept(setup: Setup) -> None:
    setup.router_fails = True
    async with running(setup) as service:
        await service.ask(HARD)
        setup.router_fails = False
        response, _ = await service.ask(HARD)
        assert (response.headers["x-farthing-route"], response.headers["x-farthing-cache"]) == ("frontier", "miss")


async def test_a_makeshift_order_is_not_stored_whoever_of_it_answers(setup: Setup) -> None:
    """What the policy would have wanted is not known: whoever stood in for the first may be weaker than that."""
    setup.router_fails, setup.small.script = True, [Step(error=KeyRejected("no"))]
    async with running(setup) as service:
        first, _ = await service.ask("hello")
        again, _ = await service.ask("hello")
    assert first.headers["x-farthing-reason"].startswith("fallback_")
    assert again.headers["x-farthing-cache"] == "miss"


async def test_an_answer_under_way_during_a_deletion_is_not_kept(setup: Setup) -> None:
    setup.small.script = [Step(delay_s=0.2)]
    async with running(setup) as service:
        asked = asyncio.create_task(service.ask("x"))
        await asyncio.sleep(0.1)
        await service.cache.delete_tenant("somebody else")
        await asked
        response, _ = await service.ask("x")
        assert response.headers["x-farthing-cache"] == "miss"
        again, _ = await service.ask("x")
        assert again.headers["x-farthing-cache"] == "exact"


@pytest.mark.parametrize("name", ["frontier", "huge", "best"])
@pytest.mark.parametrize("by_key", [False, True], ids=["asked", "by its key"])
async def test_what_must_stay_local_is_not_sent_away_by_naming_a_hosted_tier(
    setup: Setup, name: str, by_key: bool
) -> None:
    async with running(setup) as service:
        options, headers = {"local_only": True}, {}
        if by_key:
            _, secret = keys.add(service.store, "acme", defaults=Options(local_only=True))
            await service.table.refresh()
            options, headers = {}, {"authorization": f"Bearer {secret}"}
        response, body = await service.ask("secret", headers=headers, model=name, farthing=options)
        assert (response.status, body["error"]["param"]) == (400, "farthing.local_only")
        local, _ = await service.ask("secret", headers=headers, model="small", farthing=options)
        assert local.status == 200
        await service.rows(2)
    assert setup.frontier.calls == []


async def test_a_full_small_tier_and_an_absent_frontier_say_when_to_come_back(setup: Setup) -> None:
    setup.small.script = [Step(error=Overloaded("full", retry_after_s=7.0))]
    setup.frontier = None
    async with running(setup) as service:
        response, body = await service.ask("x")
    assert (response.status, body["error"]["code"], response.headers["retry-after"]) == (503, "overloaded", "7")


STAGES = {
    "before the answer": (Step(delay_s=0.6), 0.15),
    "between its words": (Step(word_s=0.1), 0.35),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("step", "leave_s"), STAGES.values(), ids=STAGES)
async def test_the_first_of_twins_leaves_and_the_others_get_their_answer(
    setup: Setup, step: Step, leave_s: float, stream: bool
) -> None:
    setup.small.script = [step]
    async with running(setup) as service:
        leader = asyncio.create_task((service.stream if stream else service.ask)("twins"))
        await asyncio.sleep(0.1)
        others = [asyncio.create_task(ask("twins")) for ask in (service.ask, service.stream)]
        await asyncio.sleep(leave_s - 0.1)
        leader.cancel()
        whole, events = await asyncio.gather(*others)
        assert (whole[0].status, events[0].status) == (200, 200)
        assert events[1].endswith(b"data: [DONE]\n\n")
        rows = await service.rows(3)
        again, _ = await service.ask("twins")
        assert again.headers["x-farthing-cache"] == "exact"
    assert len(setup.small.calls) == 1
    assert sorted(row["status"] for row in rows) == ["cancelled", "coalesced", "coalesced"]
    assert sum(row["cost_nusd"] > 0 for row in rows) == 1


async def test_a_failure_reaches_every_twin_and_each_has_its_row(setup: Setup) -> None:
    setup.small.script = [Step(delay_s=0.2, error=Unavailable("down"))]
    async with running(setup) as service:
        asked = [ask("twins", model="small") for ask in (service.ask, service.stream, service.ask)]
        answers = await asyncio.gather(*asked)
        rows = await service.rows(3)
    assert [response.status for response, _ in answers] == [502] * 3
    assert {(row["status"], row["error_code"]) for row in rows} == {("failed", "upstream_unavailable")}


async def test_a_full_disk_refuses_before_a_model_is_asked_and_recovers(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.small.script = [Step(delay_s=0.2)]
    full = False
    write = os.write

    def refusing(fd: int, data: bytes) -> int:
        if full and data.startswith((b'{"open"', b'{"close"')):
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", refusing)
    async with running(setup) as service:
        under_way = asyncio.create_task(service.ask("under way"))
        await asyncio.sleep(0.1)
        full = True
        response, body = await service.ask("new")
        assert (response.status, body["error"]["code"]) == (503, "journal_unavailable")
        assert (await under_way)[0].status == 200
        assert len(setup.small.calls) == 1
        full = False
        assert (await service.ask("after"))[0].status == 200
        rows = await service.rows(2)
    assert [row["status"] for row in rows] == ["answered", "answered"]


async def raw(service: Running, data: bytes, then: Callable[[Any], Any] | None = None) -> bytes:
    """Bytes on a socket of its own, and all that comes back."""
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    if then is not None:
        await then(writer)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_a_body_that_never_ends_is_given_up_at_the_deadline(setup: Setup) -> None:
    setup.deadline_s = 0.4
    async with running(setup) as service:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 50\r\n\r\n{"
        answer = await raw(service, head)
        (row,) = await service.rows(1)
    assert answer.startswith(b"HTTP/1.1 408"), answer[:200]
    assert row["http_status"] == 408


async def test_a_client_that_leaves_within_its_body_has_a_row(setup: Setup) -> None:
    async with running(setup) as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
            await asyncio.sleep(0.2)
        (row,) = await service.rows(1)
    assert (row["status"], row["http_status"]) == ("cancelled", 499)


HEADERS = {
    "two lengths": "content-length: 2\r\ncontent-length: 3",
    "a length in words": "content-length: many",
    "a length of 5000 digits": "content-length: " + "9" * 5000,
    "a negative length": "content-length: -1",
    "chunked nonsense": "transfer-encoding: chunked",
    "70 KB": "content-length: 2\r\nx-big: " + "a" * 70_000,
    "bytes that are no text": "content-length: 2\r\nauthorization: Bearer \xff\xfe\r\ncache-control: \xff",
    "an id of theirs": "content-length: 2\r\nx-request-id: ' OR 1=1 --",
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
async def test_header_abuse_is_a_client_error(setup: Setup, headers: str) -> None:
    async with running(setup) as service:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n\r\n"
        answer = await raw(service, head.encode("latin-1") + b"{}\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 4"), answer[:300]
        assert b"Traceback" not in answer
        assert (await service.ask("still here"))[0].status == 200


BODIES = {
    "deep": b'{"model":"auto","messages":[{"role":"user","content":"x"}],"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "a lone surrogate": b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}',
    "bad utf-8": b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}',
    "NaN": b'{"model":"auto","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
    "1e999": b'{"model":"auto","temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
    "nothing": b"",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_bodies_that_are_no_json_of_ours_are_refused_with_a_row(setup: Setup, body: bytes) -> None:
    async with running(setup) as service:
        async with service.http.post(f"{service.url}/v1/chat/completions", data=body) as response:
            assert response.status == 400
            assert json.loads(await response.read())["error"]["code"] == "invalid_request"
        (row,) = await service.rows(1)
    assert row["status"] == "refused"


async def test_what_the_cache_did_is_counted_for_every_kind(setup: Setup) -> None:
    counted: list[str] = []
    async with running(setup) as service:
        metrics = service.accounts.metrics
        plain = metrics._cache.labels

        def labels(event: str) -> Any:
            counted.append(event)
            return plain(event)

        metrics._cache.labels = labels  # type: ignore[method-assign]
        await service.ask("x")
        await service.ask("x")
        await service.ask("x", headers={"cache-control": "no-store"})
        await service.ask("x", temperature=9)
        await service.rows(4)
    assert counted == ["miss", "exact", "bypass"]


@pytest.mark.parametrize("stage", ["recall", "admit", "decide"])
async def test_a_client_that_leaves_before_a_model_is_asked_has_one_row_that_cost_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    reached = asyncio.Event()

    async def stuck(*_: Any, **__: Any) -> Any:
        reached.set()
        await asyncio.sleep(60)

    owner, method = {
        "recall": (ExactCache, "get"),
        "admit": (Allowance, "admit"),
        "decide": (RemoteDecider, "__call__"),
    }[stage]
    monkeypatch.setattr(owner, method, stuck)
    async with running(setup) as service:
        asked = asyncio.create_task(service.ask("x"))
        await asyncio.wait_for(reached.wait(), 5)
        asked.cancel()
        (row,) = await service.rows(1)
        assert len(service.flights) == 0
    assert (row["status"], row["cost_nusd"]) == ("cancelled", 0)
    assert setup.small.calls == []


async def test_what_is_deleted_while_a_question_is_looked_up_is_not_stored_by_it(setup: Setup) -> None:
    async with running(setup) as gateway:
        get = gateway.cache.get

        async def deleted_meanwhile(key: bytes) -> Any:
            found = await get(key)
            await gateway.cache.delete_all()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gateway.cache, "get", deleted_meanwhile)
            await gateway.ask("the same")
        response, _ = await gateway.ask("the same")
        assert response.headers["x-farthing-cache"] == "miss"
        response, _ = await gateway.ask("the same")
        assert response.headers["x-farthing-cache"] == "exact"


async def test_a_deadline_that_passes_before_anything_was_sent_costs_nothing(setup: Setup) -> None:
    setup.budgets = Budgets(deployment_nusd_per_day=10**12)
    async with running(setup) as service:
        allowance = service.accounts.allowance
        lease = allowance._transport

        async def slowly(request: Any) -> Any:
            await asyncio.sleep(0.5)
            return await lease(request)

        allowance._transport = slowly
        response, body = await service.ask(HARD, model="frontier", farthing={"deadline_ms": 200})
        (row,) = await service.rows(1)
    assert (response.status, body["error"]["code"]) == (504, "deadline_exceeded")
    assert setup.frontier.calls == []
    assert (row["status"], row["cost_nusd"], row["billed_nusd"], row["input_tokens"]) == ("timed_out", 0, 0, 0)

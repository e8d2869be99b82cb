from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from benchmarks.cost import drive, replay, replayed, workload
from benchmarks.cost.drive import Reply, Target
from benchmarks.cost.replay import Pace, Recording, Speed
from benchmarks.cost.workload import Answer, Request, Workload

FAST = Speed(0.0, 1e6)
TEXT = 'A long answer: {"answer": "4"} ' * 20


def asked(number: int, question: str, words: str) -> Request:
    return Request(f"r{number}", number * 0.01, [{"role": "user", "content": words}], question)


WORKLOAD = Workload(
    "test",
    [asked(0, "q", "What is 2 + 2?"), asked(1, "q", "Hello! What is 2 + 2?"), asked(2, "other", "And 3 + 3?")],
    [Answer("q", "m", TEXT, 11, 137), Answer("q", "n", "no", 11, 1)],
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    """The replayed model `m`; gives its address up to /v1."""
    workload.write(WORKLOAD, tmp_path)
    runner = web.AppRunner(replay.application(Recording.read(tmp_path, "m"), FAST))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def driven(v1: str, requests: list[Request], keep_going: bool = True) -> list[Reply]:
    found: list[Reply] = []

    def keep(reply: Reply) -> bool:
        found.append(reply)
        return keep_going

    await drive.drive(requests, Target(v1, {}, "m"), keep, lambda _: None)
    return sorted(found, key=lambda reply: reply.id)


async def test_a_question_and_its_paraphrase_get_the_recorded_text_and_tokens(server: str) -> None:
    first, second, _ = await driven(server, list(WORKLOAD.requests))
    for reply in (first, second):
        assert reply.text == TEXT
        assert (reply.input_tokens, reply.output_tokens) == (11, 137)
        assert reply.ttft_s is not None
        assert reply.error == ""


async def test_a_question_that_was_never_recorded_is_an_error_not_an_answer(server: str) -> None:
    reply = (await driven(server, list(WORKLOAD.requests)))[2]
    assert "status 400" in reply.error
    assert reply.text == ""


async def test_a_whole_answer_has_the_same_text_and_usage(server: str) -> None:
    body = {"model": "m", "messages": WORKLOAD.requests[0].messages}
    async with aiohttp.ClientSession() as session, session.post(f"{server}/chat/completions", json=body) as answer:
        found = await answer.json()
    assert found["choices"][0]["message"]["content"] == TEXT
    assert found["usage"] == {"prompt_tokens": 11, "completion_tokens": 137, "total_tokens": 148}


async def test_nobody_listening_is_a_failed_reply_for_each_request() -> None:
    found = await driven("http://127.0.0.1:1/v1", list(WORKLOAD.requests))
    assert len(found) == 3
    assert all(reply.error for reply in found)


async def test_once_told_to_stop_no_further_request_is_sent(server: str) -> None:
    far = [asked(0, "q", "What is 2 + 2?"), Request("r1", 1.0, WORKLOAD.requests[0].messages, "q")]
    assert [reply.id for reply in await driven(server, far, keep_going=False)] == ["r0"]


async def tokens_of(pace: Pace, answer: Answer) -> list[float]:
    return [done async for done in pace.tokens(answer)]


async def test_tokens_come_one_after_the_other_up_to_all() -> None:
    found = await tokens_of(Pace(Speed(0.0, 1000.0)), Answer("q", "m", "t", 1, 250))
    assert found == sorted(found)
    assert found[0] == 1.0
    assert found[-1] == 250.0


async def test_a_gpus_rate_is_shared_by_those_under_way_and_free_again_after() -> None:
    pace = Pace(Speed(0.0, 1000.0, 1e9, 1500.0, running=4))
    assert pace.rate(1) == 1000.0
    assert pace.rate(3) == 500.0
    await asyncio.gather(*(tokens_of(pace, Answer("q", "m", "t", 1, 30)) for _ in range(6)))
    assert pace.decoding == 0


def test_who_answered_is_taken_from_the_ledger_where_the_headers_had_left() -> None:
    row = {"request_id": "x", "route": "cheap", "model": "m", "cache": "miss", "reason": "score", "cost_wasted_nusd": 7}
    replies = {
        "a": Reply("a", 0.0, 1.0, request_id="x"),
        "b": Reply("b", 0.0, 1.0, request_id="y"),
        "c": Reply("c", 0.0, 1.0, route="frontier", request_id="x"),
        "d": Reply("d", 0.0, 1.0, error="status 500"),
    }
    found = replayed.routed_as(replies, [row])
    assert (found["a"].route, found["a"].cache, found["a"].error) == ("cheap", "miss", "")
    assert "neither headers nor ledger" in found["b"].error
    assert (found["a"].wasted_nusd, found["b"].wasted_nusd) == (7, 0)
    assert found["c"].route == "frontier"
    assert found["d"] == replies["d"]


async def test_whoever_prepares_a_phase_is_called_before_its_first_request_and_pauses_the_clock(server: str) -> None:
    words = "What is 2 + 2?"
    requests = [asked(0, "q", words), asked(1, "q", words), replace(asked(2, "q", words), phase=1)]
    found: dict[str, Reply] = {}
    phases: list[str] = []

    def keep(reply: Reply) -> bool:
        found[reply.id] = reply
        return True

    def prepare(request: Request) -> None:
        phases.append(request.id)
        assert request.id not in found
        time.sleep(0.6 if phases[1:] else 0.0)

    elapsed_s = await drive.Driver(Target(server, {}, "m"), keep, lambda _: None, prepare).run(requests)
    assert phases == ["r0", "r2"]
    assert set(found) == {"r0", "r1", "r2"}
    assert elapsed_s >= found["r2"].at_s + found["r2"].latency_s  # the pause is in neither: it is due so much later

"""The load generator against servers whose answers and timing are known: it counts right and believes nothing wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest

from benchmarks import load, scripted
from benchmarks.client import Expected
from benchmarks.load import Plan, Requests, arguments_of, drive
from benchmarks.measure import Targets
from tests.benchmarks.conftest import answering, whole

Upstream = Callable[[scripted.Script], Awaitable[str]]
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":" w0"}}]}\n\n'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("clients", [1, 8])
async def test_requests_and_tokens_are_what_the_server_counted(upstream: Upstream, stream: bool, clients: int) -> None:
    script = scripted.Script()
    expected = Expected(text=scripted.text(7), tokens=7)
    plan = Plan(await upstream(script), "m", stream=stream, clients=clients, count=40, warmup=8, tokens=7)
    report = await drive(load.replace(plan, expected=expected))
    assert (report["requests"], report["errors"]) == (40, 0)
    assert report["output_tokens"] == 40 * 7
    assert script.counts.completions == 48, "the warm-up is asked and not counted"
    assert script.counts.connections == clients, "one each, kept to the end"
    assert (report["ttft_ms"] is not None) is stream


async def test_known_timing_is_found_again(upstream: Upstream) -> None:
    script = scripted.Script(scripted.Timing(ttft_s=0.05, itl_s=0.01))
    plan = Plan(await upstream(script), "m", stream=True, clients=2, count=6, tokens=5)
    report = await drive(plan)
    assert report["ttft_ms"]["p50"] >= 50
    assert report["latency_ms"]["p50"] >= 90
    assert report["tpot_ms"]["p50"] > 0


async def test_targets_part_the_good_from_the_late(upstream: Upstream) -> None:
    script = scripted.Script(scripted.Timing(ttft_s=0.05))
    plan = Plan(await upstream(script), "m", stream=True, count=4, tokens=2, targets=Targets(ttft_ms=10))
    report = await drive(plan)
    assert report["rps"] > 0 and report["goodput_rps"] == 0


async def test_seconds_end_the_run_and_the_last_answers_count(upstream: Upstream) -> None:
    script = scripted.Script(scripted.Timing(ttft_s=0.2))
    report = await drive(Plan(await upstream(script), "m", clients=3, seconds=0.3, tokens=1))
    assert report["requests"] == script.counts.completions == 6
    assert report["elapsed_s"] >= 0.4, "time runs to the last answer, not to the end of asking"


WRONG = {
    "another status": (whole(b'{"error":{}}', "503 Overloaded"), False, "status 503"),
    "not JSON": (whole(b"<html>"), False, "unreadable"),
    "another text": (
        whole(b'{"choices":[{"message":{"content":"no"}}],"usage":{"completion_tokens":1}}'),
        False,
        "not the expected one",
    ),
    "no text": (whole(b'{"choices":[{"message":{"content":null}}],"usage":{}}'), False, "not the expected one"),
    "a stream without its end": (whole(EVENT), True, "no [DONE]"),
    "an error in the stream": (
        whole(EVENT + b'data: {"error":{"message":"gone"}}\n\ndata: [DONE]\n\n'),
        True,
        "error event",
    ),
    "a broken event": (whole(b"data: {\n\ndata: [DONE]\n\n"), True, "unreadable"),
    "too few tokens": (whole(EVENT + b"data: [DONE]\n\n"), True, "1 tokens instead of 2"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", False, "unreadable"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_answer_is_an_error_and_no_sample(name: str) -> None:
    raw, stream, why = WRONG[name]

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    text = scripted.text(1)
    async with answering(answer) as url:
        report = await drive(Plan(url, "m", stream=stream, count=2, expected=Expected(text=text, tokens=2)))
    assert report["requests"] == 0
    assert report["errors"] >= 1
    assert why in report["first_errors"][0]


async def test_a_header_that_is_not_there_is_an_error(upstream: Upstream) -> None:
    expected = Expected(header=("x-farthing-cache", "exact"))
    report = await drive(Plan(await upstream(scripted.Script()), "m", count=3, expected=expected))
    assert report["errors"] == 3
    assert "header x-farthing-cache is ''" in report["first_errors"][0]


async def test_a_cut_connection_is_an_error_and_others_go_on() -> None:
    asked = 0
    good = whole(b'{"choices":[{"message":{"content":"a"}}],"usage":{"completion_tokens":1}}')

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            writer.write(good[:-5])
            await writer.drain()
            writer.close()
            return
        writer.write(good)

    async with answering(answer) as url:
        report = await drive(Plan(url, "m", count=10))
    assert (report["requests"], report["errors"]) == (9, 1)
    assert "before the answer was whole" in report["first_errors"][0]


async def test_a_server_that_closes_after_each_answer_is_asked_anew() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        body = b'{"choices":[{"message":{"content":"a"}}],"usage":{"completion_tokens":1}}'
        writer.write(whole(body, headers="connection: close\r\n"))
        await writer.drain()
        writer.close()

    async with answering(answer) as url:
        report = await drive(Plan(url, "m", clients=2, count=9))
    assert (report["requests"], report["errors"]) == (9, 0)


async def test_an_answer_that_never_comes_does_not_hold_the_run() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        del writer

    async with answering(answer) as url:
        report = await drive(Plan(url, "m", clients=2, count=2, timeout_s=0.2))
    assert (report["requests"], report["errors"]) == (0, 2)
    assert "not whole after 0.2 s" in report["first_errors"][0]


def test_prompts_differ_unless_repeated_and_bodies_have_their_length() -> None:
    fresh, repeated = Requests(Plan("http://h:1/v1", "m", key="k")), Requests(Plan("http://h:1/v1", "m", repeat=True))
    first, second = fresh.next(), fresh.next()
    assert first != second and len(first) == len(second)
    assert repeated.next() == repeated.next()
    head, _, body = first.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: h:1\r\n")
    assert b"authorization: Bearer k" in head
    assert f"content-length: {len(body)}".encode() in head
    assert orjson.loads(body)["messages"][0]["content"].startswith("00000000 0: ")


PLAN = Plan(
    "http://127.0.0.1:1/v1",
    "m",
    stream=True,
    clients=3,
    seconds=None,
    count=9,
    warmup=4,
    tokens=5,
    prompt_words=7,
    repeat=True,
    nonce="=a b",
    seed=3,
    extra={"temperature": 0},
    expected=Expected(text=scripted.text(5), tokens=5, header=("x-a", "b=c")),
    targets=Targets(5.0, 6.0),
    timeout_s=9.0,
)


@pytest.mark.parametrize("plan", [PLAN, Plan("http://127.0.0.1:1/v1", "m", seconds=0.5)])
def test_a_plan_survives_its_own_command_line(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(load.KEY_ENV, raising=False)
    assert load._plan(load._parser().parse_args(arguments_of(plan))) == plan


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--model", "m"], ["--url", "u", "--model", "m", "--clients", "0"]):
        with pytest.raises(SystemExit) as ended:
            load.main(arguments)
        assert ended.value.code == 2
    assert "'0' is not at least 1" in capsys.readouterr().err
    assert load.main(["--url", "http://127.0.0.1:1/v1", "--model", "m"]) == 2
    assert "cannot reach http://127.0.0.1:1/v1" in capsys.readouterr().err

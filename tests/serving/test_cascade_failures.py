"""The cascade when a tier fails or objects: what the caller is told, who answers instead, and what it costs."""

from __future__ import annotations

import pytest

from models.errors import BadRequest, Overloaded, Unavailable
from models.fake import FakeBackend, Step
from models.pace import LEAST_ANSWERS
from tests.serving.cascades import (
    EASY,
    GOOD,
    HARD,
    HARD_TEXT,
    SECRET,
    SURE,
    UNSURE,
    Seen,
    arrange,
    one_row,
    small,
    text,
)
from tests.serving.conftest import Setup, running

COST = "farthing_cost_usd_total"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_in_the_trial_moves_on(setup: Setup, seen: Seen, stream: bool) -> None:
    small(setup, Step(SECRET, logprob=SURE, cut_after=2))
    async with running(setup) as service:
        response, body = await (service.stream() if stream else service.ask())
        assert response.status == 200 and "mumble" not in str(body)
        assert response.headers["x-farthing-reason"] == "fallback_upstream_unavailable"
        row = await one_row(service)
        assert row["route"] == "frontier" and row["cost_wasted_nusd"] == 1_000 * 5 + 2_000 * 2
    assert seen.outcomes == ["failed"]


async def test_a_unary_answer_that_breaks_after_its_verdict_moves_on(setup: Setup, seen: Seen) -> None:
    small(setup, Step(GOOD, logprob=SURE, cut_after=6))
    async with running(setup) as service:
        response, answer = await service.ask()
        assert response.headers["x-farthing-route"] == "frontier"
        assert answer["choices"][0]["message"]["content"] == Step().text
        assert (await one_row(service))["cost_wasted_nusd"] > 0


@pytest.mark.parametrize(("question", "band"), [("hi", EASY), (HARD_TEXT, HARD)])
async def test_a_kept_stream_that_breaks_off_is_not_continued_by_another_tier(
    setup: Setup, seen: Seen, question: str, band: tuple[float, float]
) -> None:
    setup.band = band
    small(setup, Step(GOOD, logprob=SURE, cut_after=6))
    async with running(setup) as service:
        _, body = await service.stream(question)
        assert text(body) == " ".join(GOOD.split()[:6]) and b"upstream_stream_cut" in body
        row = await one_row(service)
        assert (row["status"], row["route"], row["error_code"]) == ("failed", "small", "upstream_stream_cut")
        assert row["billed_nusd"] == 0
    assert setup.frontier.calls == []


async def test_a_small_tier_that_is_down_is_passed_by(setup: Setup, seen: Seen) -> None:
    small(setup, Step(error=Overloaded("full")))
    async with running(setup) as service:
        response, _ = await service.ask()
        assert response.headers["x-farthing-reason"] == "fallback_overloaded"
        assert (await one_row(service))["cost_wasted_nusd"] == 0


async def test_what_only_the_tier_on_trial_objects_to_is_not_told_the_caller(setup: Setup, seen: Seen) -> None:
    setup.band = HARD
    small(setup, Step(error=BadRequest("no such parameter here")))
    async with running(setup) as service:
        response, _ = await service.ask(HARD_TEXT)
        assert response.status == 200 and response.headers["x-farthing-reason"] == "hard"
        setup.band = EASY
    setup.small = FakeBackend("small/0", "tiny", script=[Step(error=BadRequest("no such parameter here"))])
    async with running(setup) as service:
        response, _ = await service.ask("hi again")
        assert response.status == 400  # here it was the one that should answer


@pytest.mark.parametrize("mode", ["shadow", "act"])
async def test_what_only_the_trial_asked_for_is_left_out_where_it_is_refused(setup: Setup, mode: str) -> None:
    arrange(setup, Seen(), mode=mode)
    asked = small(setup, Step(error=BadRequest("at most 3 logprobs")), Step(GOOD))
    async with running(setup) as service:
        response, answer = await service.ask()
        assert response.headers["x-farthing-reason"] == "easy"
        assert answer["choices"][0]["message"]["content"] == GOOD
        assert (await one_row(service))["attempts"] == 2
    assert [call.body.get("logprobs") for call in asked.calls] == [True, None] and setup.frontier.calls == []


async def test_a_dropped_tier_answers_when_nobody_else_can(setup: Setup, seen: Seen) -> None:
    asked = small(setup, Step(SECRET, logprob=UNSURE), Step("better than nothing", logprob=UNSURE))
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(error=Unavailable("down"))])
    async with running(setup) as service:
        response, answer = await service.ask()
        assert answer["choices"][0]["message"]["content"] == "better than nothing"
        assert response.headers["x-farthing-reason"] == "degraded_upstream_unavailable"
        row = await one_row(service)
        assert row["route"] == "small" and row["attempts"] == 3
        assert row["cost_nusd"] == row["cost_input_nusd"] + row["cost_output_nusd"] + row["cost_wasted_nusd"]
        assert row["cost_wasted_nusd"] > 0 and row["billed_nusd"] == 0
    assert len(asked.calls) == 2 and "logprobs" not in asked.calls[1].body


async def test_what_only_the_tier_after_a_drop_objects_to_is_not_told_the_caller(setup: Setup, seen: Seen) -> None:
    small(setup, Step(SECRET, logprob=UNSURE), Step("better than nothing", logprob=UNSURE))
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(error=BadRequest("no such parameter here"))])
    async with running(setup) as service:
        response, answer = await service.ask()  # without a cascade the small model would have answered
        assert response.status == 200 and answer["choices"][0]["message"]["content"] == "better than nothing"
        assert response.headers["x-farthing-reason"] == "degraded_invalid_request"
    setup.small, setup.band = FakeBackend("small/0", "tiny", script=[Step(SECRET, logprob=UNSURE)]), HARD
    async with running(setup) as service:
        response, _ = await service.ask(HARD_TEXT)
        assert response.status == 400  # here it was the one that should answer


@pytest.mark.parametrize(("question", "band"), [("hi", EASY), (HARD_TEXT, HARD)])
async def test_a_tier_passed_over_for_its_load_answers_when_nobody_else_can(
    setup: Setup, seen: Seen, question: str, band: tuple[float, float]
) -> None:
    setup.band = band
    small(setup, Step("better than nothing", logprob=SURE))
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(error=Unavailable("down"))])
    async with running(setup) as service:
        pool = service.accounts.tiers["small"].pool
        assert pool is not None
        for _ in range(LEAST_ANSWERS):
            pool._members[0].pace.answered(60.0, 1)  # longer than the deadline
        response, answer = await service.ask(question)
        assert response.status == 200, answer
        assert answer["choices"][0]["message"]["content"] == "better than nothing"
    assert not seen  # a trial would make it later still


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_dropped_answer_cost_is_known_where_the_server_counts_along(
    setup: Setup, seen: Seen, stream: bool
) -> None:
    asked = small(setup, Step(SECRET, logprob=UNSURE, counts=True))
    async with running(setup) as service:
        await (service.stream() if stream else service.ask())
        row = await one_row(service)
    assert row["cost_wasted_nusd"] == 1_000 * 1 + 2_000 * 4  # the prompt is one token, and 4 words were read
    assert not row["usage_estimated"]
    assert asked.calls[0].body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


async def test_an_estimate_of_what_was_wasted_says_so_in_the_row(setup: Setup, seen: Seen) -> None:
    small(setup, Step(SECRET, logprob=UNSURE))
    async with running(setup) as service:
        await service.ask()
        row = await one_row(service)
    assert row["cost_wasted_nusd"] == 1_000 * 5 + 2_000 * 4 and row["usage_estimated"]


@pytest.mark.parametrize("own", [False, True])
async def test_a_kept_streams_running_count_is_seen_by_who_asked_for_it(setup: Setup, seen: Seen, own: bool) -> None:
    small(setup, Step(GOOD, logprob=SURE, counts=True))
    options = {"include_usage": True, **({"continuous_usage_stats": True} if own else {})}
    async with running(setup) as service:
        _, body = await service.stream(stream_options=options)
        row = await one_row(service)
    words = len(GOOD.split())
    assert text(body) == GOOD and row["output_tokens"] == words and not row["usage_estimated"]
    assert body.count(b'"usage"') == (1 + 1 + words + 1 if own else 1)


async def test_a_kept_stream_that_breaks_off_is_charged_by_its_running_count(setup: Setup, seen: Seen) -> None:
    small(setup, Step(GOOD, logprob=SURE, cut_after=6, counts=True))
    async with running(setup) as service:
        await service.stream()
        row = await one_row(service)
    assert (row["input_tokens"], row["output_tokens"], row["usage_estimated"]) == (1, 6, False)


async def test_what_was_wasted_is_counted_for_the_tier_that_wasted_it(setup: Setup, seen: Seen) -> None:
    small(setup, Step(SECRET, logprob=UNSURE))
    async with running(setup) as service:
        await service.ask()
        row = await one_row(service)
        samples = [s for family in service.accounts.metrics._registry.collect() for s in family.samples]
    cost_usd = {(s.labels["route"], s.labels["model"], s.labels["part"]): s.value for s in samples if s.name == COST}
    assert set(cost_usd) == {("small", "tiny", "wasted"), ("frontier", "huge", "input"), ("frontier", "huge", "output")}
    assert cost_usd["small", "tiny", "wasted"] == pytest.approx(row["cost_wasted_nusd"] / 1e9)
    assert sum(cost_usd.values()) == pytest.approx(row["cost_nusd"] / 1e9)

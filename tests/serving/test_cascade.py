"""The cascade over HTTP: the small model's first words are kept or dropped, and nobody sees what was dropped."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import aiohttp
import pytest

from models.fake import Step
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


@pytest.mark.parametrize("stream", [False, True])
async def test_a_sure_answer_is_kept(setup: Setup, seen: Seen, stream: bool) -> None:
    small(setup, Step(GOOD, logprob=SURE))
    async with running(setup) as service:
        if stream:
            response, body = await service.stream()
            assert text(body) == GOOD and b'"logprob"' not in body and body.endswith(b"data: [DONE]\n\n")
        else:
            response, answer = await service.ask()
            assert answer["choices"][0]["message"]["content"] == GOOD
            assert answer["object"] == "chat.completion" and not answer["choices"][0].get("logprobs")
            assert answer["usage"]["completion_tokens"] == len(GOOD.split())
        assert response.headers["x-farthing-route"] == "small"
        assert response.headers["x-farthing-reason"] == "cascade_kept"
        row = await one_row(service)
        assert (row["route"], row["reason"], row["status"]) == ("small", "cascade_kept", "answered")
        assert row["cost_wasted_nusd"] == 0 and row["output_tokens"] == len(GOOD.split())
        assert row["cost_nusd"] == 1_000 * row["input_tokens"] + 2_000 * row["output_tokens"]
    assert seen.outcomes == ["kept"] and setup.frontier.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_doubtful_answer_is_dropped_unseen(setup: Setup, seen: Seen, stream: bool) -> None:
    asked = small(setup, Step(SECRET, logprob=UNSURE, word_s=0.005))
    async with running(setup) as service:
        response, body = await (service.stream() if stream else service.ask())
        shown = body.decode() if stream else json.dumps(body)
        assert not any(word in shown for word in SECRET.split())
        assert response.headers["x-farthing-route"] == "frontier"
        assert response.headers["x-farthing-reason"] == "cascade_dropped"
        row = await one_row(service)
        assert (row["route"], row["reason"], row["model"]) == ("frontier", "cascade_dropped", "huge")
        prompt_tokens = 5  # as the gateway estimates "hi" with its frame; 4 words were read before the verdict
        assert row["cost_wasted_nusd"] == 1_000 * prompt_tokens + 2_000 * 4
        answered = 100_000 * row["input_tokens"] + 500_000 * row["output_tokens"]
        assert row["cost_nusd"] == answered + row["cost_wasted_nusd"]
        assert row["billed_nusd"] == answered  # budgets count hosted money only
        assert row["attempts"] == 2
    assert seen.outcomes == ["dropped"]
    assert asked.ended == 1  # the upstream call was closed, not read to its end


async def test_the_cache_holds_the_answer_that_was_given(setup: Setup, seen: Seen) -> None:
    small(setup, Step(SECRET, logprob=UNSURE))
    async with running(setup) as service:
        _, first = await service.ask()
        response, again = await service.ask()
        assert response.headers["x-farthing-cache"] == "exact"
        assert again["choices"] == first["choices"] and "mumble" not in json.dumps(again)


async def test_followers_share_the_final_answer(setup: Setup, seen: Seen) -> None:
    small(setup, Step(SECRET, logprob=UNSURE, word_s=0.02))
    async with running(setup) as service:
        answers = await asyncio.gather(*(service.stream() for _ in range(3)))
        assert {text(body) for _, body in answers} == {Step().text}
        rows = await service.rows(3)
        assert sorted(row["status"] for row in rows) == ["answered", "coalesced", "coalesced"]
        assert sum(row["cost_wasted_nusd"] > 0 for row in rows) == 1
    assert seen.outcomes == ["dropped"]


@pytest.mark.parametrize(("logprob", "route"), [(SURE, "small"), (UNSURE, "frontier")])
async def test_an_answer_that_ends_before_k_is_judged_whole(
    setup: Setup, seen: Seen, logprob: float, route: str
) -> None:
    small(setup, Step("two words", logprob=logprob))
    async with running(setup) as service:
        response, _ = await service.stream()
        assert response.headers["x-farthing-route"] == route
    assert seen.outcomes == ["kept" if route == "small" else "dropped"]


async def test_a_full_answer_is_judged_by_all_its_words(setup: Setup) -> None:
    arrange(setup, counted := Seen(), full=True)
    asked = small(setup, Step(SECRET, logprob=UNSURE))
    async with running(setup) as service:
        response, _ = await service.ask()
        assert response.headers["x-farthing-route"] == "frontier"
        row = await one_row(service)
        assert row["cost_wasted_nusd"] == 1_000 * 1 + 2_000 * len(SECRET.split())  # its own usage had come
    assert counted.outcomes == ["dropped"] and asked.ended == 1


@pytest.mark.parametrize(("question", "band", "route"), [("hi", EASY, "small"), (HARD_TEXT, HARD, "frontier")])
async def test_without_evidence_the_routers_own_choice_stands(
    setup: Setup, seen: Seen, question: str, band: tuple[float, float], route: str
) -> None:
    setup.band = band
    small(setup, Step(GOOD))
    async with running(setup) as service:
        response, _ = await service.ask(question)
        assert response.headers["x-farthing-route"] == route
        assert response.headers["x-farthing-reason"] == {"small": "easy", "frontier": "hard"}[route]
    assert seen == [("no_evidence", None)]


@pytest.mark.parametrize("stream", [False, True])
async def test_probabilities_that_are_no_numbers_are_no_evidence_and_stay_unseen(
    setup: Setup, seen: Seen, stream: bool
) -> None:
    small(setup, Step(GOOD, logprob=math.nan))  # null in JSON, as vLLM writes it
    async with running(setup) as service:
        response, body = await (service.stream() if stream else service.ask())
        shown = body.decode() if stream else json.dumps(body)
        assert response.headers["x-farthing-reason"] == "easy"
        assert '"logprob"' not in shown and "top_logprobs" not in shown
    assert seen == [("no_evidence", None)]


async def test_what_looks_hard_may_be_kept_too(setup: Setup, seen: Seen) -> None:
    setup.band = HARD
    small(setup, Step(GOOD, logprob=SURE))
    async with running(setup) as service:
        response, _ = await service.ask(HARD_TEXT)
        assert response.headers["x-farthing-reason"] == "cascade_kept"
    assert setup.frontier.calls == []


async def test_outside_the_band_nothing_is_tried(setup: Setup, seen: Seen) -> None:
    asked = small(setup, Step(GOOD, logprob=UNSURE))
    setup.band = (0.3, 0.4)
    async with running(setup) as service:
        response, _ = await service.ask()
        assert response.headers["x-farthing-reason"] == "easy"
    assert not seen and "logprobs" not in asked.calls[0].body and not asked.calls[0].stream


async def test_a_client_that_leaves_ends_the_trial(setup: Setup, seen: Seen) -> None:
    asked = small(setup, Step(SECRET, logprob=UNSURE, word_s=0.2))
    async with running(setup) as service:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                async with service.http.post(f"{service.url}/v1/chat/completions", json=body) as response:
                    await response.read()
        row = await one_row(service)
        assert (row["status"], row["route"]) == ("cancelled", "small")
        assert row["cost_nusd"] == row["cost_input_nusd"] + row["cost_output_nusd"] > 0
        assert 0 < row["output_tokens"] < 4
    assert asked.ended == 1 and setup.frontier.calls == []


async def test_the_deadline_counts_in_the_trial(setup: Setup, seen: Seen) -> None:
    small(setup, Step(SECRET, logprob=UNSURE, word_s=1))
    async with running(setup) as service:
        response, answer = await service.ask(farthing={"deadline_ms": 2_000})
        assert response.status == 504 and answer["error"]["code"] == "deadline_exceeded"
        row = await one_row(service)
        assert (row["status"], row["route"]) == ("timed_out", "small") and row["cost_nusd"] > 0


async def test_a_callers_own_logprobs_are_passed_on(setup: Setup, seen: Seen) -> None:
    asked = small(setup, Step(GOOD, logprob=SURE))
    async with running(setup) as service:
        _, answer = await service.ask(logprobs=True, top_logprobs=2)
        told = answer["choices"][0]["logprobs"]["content"]
        assert [one["token"] for one in told] == GOOD.split()
        assert all(len(one["top_logprobs"]) == 2 for one in told)
    assert asked.calls[0].body["top_logprobs"] == 2 and seen.outcomes == ["kept"]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"5": 1}},
        {"allowed_token_ids": [5]},
        {"use_beam_search": True},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"guided_choice": ["yes", "no"]},
        {"prompt_logprobs": 0},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "A f"}]},
    ],
)
async def test_what_the_probabilities_do_not_fit_is_not_tried(setup: Setup, seen: Seen, fields: dict[str, Any]) -> None:
    asked = small(setup, Step(GOOD, logprob=UNSURE))
    async with running(setup) as service:
        await service.ask(**fields)
    assert not seen and "top_logprobs" not in asked.calls[0].body


@pytest.mark.parametrize("model", ["small", "tiny"])
async def test_a_named_tier_is_not_tried(setup: Setup, seen: Seen, model: str) -> None:
    small(setup, Step(GOOD, logprob=UNSURE))
    async with running(setup) as service:
        response, _ = await service.ask(model=model)
        assert response.headers["x-farthing-reason"] == "named"
    assert not seen


async def test_without_a_stronger_tier_nothing_is_tried(setup: Setup, seen: Seen) -> None:
    small(setup, Step(GOOD, logprob=UNSURE))
    setup.frontier = None
    async with running(setup) as service:
        response, _ = await service.ask()
        assert response.headers["x-farthing-reason"] == "easy"
        await service.ask("other", farthing={"local_only": True})
    assert not seen


@pytest.mark.parametrize(("logprob", "outcome"), [(SURE, "would_keep"), (UNSURE, "would_drop")])
@pytest.mark.parametrize("stream", [False, True])
async def test_shadow_judges_and_drops_nothing(setup: Setup, logprob: float, outcome: str, stream: bool) -> None:
    arrange(setup, counted := Seen(), mode="shadow")
    small(setup, Step(GOOD, logprob=logprob))
    async with running(setup) as service:
        response, body = await (service.stream() if stream else service.ask())
        assert (text(body) if stream else body["choices"][0]["message"]["content"]) == GOOD
        assert response.headers["x-farthing-reason"] == "easy"
        row = await one_row(service)
        assert row["shadow"] == ("frontier" if outcome == "would_drop" else "")
        assert row["cost_wasted_nusd"] == 0
    assert counted.outcomes == [outcome] and setup.frontier.calls == []


async def test_shadow_costs_a_unary_caller_no_fallback(setup: Setup) -> None:
    arrange(setup, counted := Seen(), mode="shadow")
    small(setup, Step(SECRET, logprob=UNSURE, cut_after=6))
    async with running(setup) as service:
        response, answer = await service.ask()
        assert response.status == 200 and answer["choices"][0]["message"]["content"] == Step().text
        assert response.headers["x-farthing-reason"] == "fallback_upstream_unavailable"
    assert counted.outcomes == ["would_drop", "failed"]


async def test_shadow_leaves_alone_what_another_tier_answers(setup: Setup) -> None:
    arrange(setup, counted := Seen(), mode="shadow")
    setup.band = HARD
    asked = small(setup, Step(GOOD, logprob=UNSURE))
    async with running(setup) as service:
        response, _ = await service.ask(HARD_TEXT)
        assert response.headers["x-farthing-reason"] == "hard"
    assert not counted and asked.calls == []


async def test_a_kept_stream_begins_before_it_ends(setup: Setup, seen: Seen) -> None:
    small(setup, Step(GOOD, logprob=SURE, word_s=0.05))
    async with running(setup) as service:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with service.http.post(f"{service.url}/v1/chat/completions", json=body) as response:
            first = await response.content.readany()
            assert text(first).startswith("a farthing") and not text(first).endswith("that")
            assert text(first + await response.read()) == GOOD
    assert isinstance(response, aiohttp.ClientResponse)

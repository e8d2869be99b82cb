"""Exploration through the gateway: who may be drawn for a request, and what becomes of one that was drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from models.errors import BadRequest, Overloaded
from models.fake import FakeBackend, Step
from router.decision import Decision, Facts
from serving.ledger.grants import Budgets
from tests.serving.conftest import HARD, Running, Setup, running


@dataclass
class Drawing:
    """A decider that wants one tier and draws the other, from when it is told to; else the small one is wanted."""

    draws: bool = True
    drawn: str = "frontier"
    asked: list[Facts] = field(default_factory=list)
    version = "drawing"

    async def decide(self, facts: Facts, deadline_s: float) -> Decision:
        self.asked.append(facts)
        if self.draws:
            wanted = "small" if self.drawn == "frontier" else "frontier"
            return Decision((self.drawn, wanted), "explore", shadow=wanted)
        return Decision(("small", "frontier"), "easy")


async def askable(service: Running, **fields: Any) -> tuple[str, ...] | None:
    """What the decider was told when this was asked."""
    service.router.decider = drawing = Drawing(draws=False)
    await service.ask("hello", cache_buster=len(drawing.asked), **fields)
    return drawing.asked[-1].askable


async def test_the_decider_is_told_who_can_be_asked(setup: Setup) -> None:
    async with running(setup) as service:
        assert await askable(service) == ("small", "frontier")


async def test_a_tier_without_a_key_cannot_be_asked(setup: Setup) -> None:
    setup.frontier = None
    async with running(setup) as service:
        assert await askable(service) == ("small",)


async def test_a_tier_that_is_left_alone_cannot_be_asked(setup: Setup) -> None:
    busy = Overloaded("busy", retry_after_s=60.0)
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(error=busy)])
    async with running(setup) as service:
        await service.ask(model="frontier")
        assert await askable(service) == ("small",)


async def test_a_tier_beyond_the_budget_cannot_be_asked(setup: Setup) -> None:
    setup.budgets = Budgets(deployment_nusd_per_day=1)
    async with running(setup) as service:
        refused, _ = await service.ask(model="frontier")
        assert refused.status == 429
        assert await askable(service) == ("small",)


async def test_a_tier_without_text_completions_cannot_be_asked_for_them(setup: Setup) -> None:
    async with running(setup) as service:
        service.router.decider = drawing = Drawing(draws=False)
        body = {"model": "auto", "prompt": "Once upon a time"}
        async with service.http.post(f"{service.url}/v1/completions", json=body) as response:
            assert response.status == 200
    assert drawing.asked[-1].askable == ("small",)


async def test_who_wants_a_stored_answer_or_none_has_nobody_asked(setup: Setup, recall: Any) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        assert await askable(service, farthing={"cache": "only"}) == ()


async def test_what_a_drawn_tier_objects_to_is_no_news_to_the_caller(setup: Setup) -> None:
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(error=BadRequest("I know no min_p"))])
    async with running(setup) as service:
        service.router.decider = Drawing()
        response, _ = await service.ask("hello", min_p=0.1)
        row = (await service.rows(1))[0]
    assert (response.status, response.headers["x-farthing-route"]) == (200, "small")
    assert row["reason"] == "degraded_invalid_request" and row["shadow"] == "small"


async def test_a_drawn_request_is_answered_by_the_drawn_tier_not_from_the_semantic_cache(
    setup: Setup, recall: Any
) -> None:
    setup.recall = recall()
    async with running(setup) as service:
        service.router.decider = drawing = Drawing(draws=False, drawn="small")
        await service.ask("How do I reset my password?")
        assert service.semantics is not None
        await service.semantics.drain(5.0)
        stored, _ = await service.ask("How can I reset my password?")
        drawing.draws = True
        drawn, _ = await service.ask("Please tell me how I can reset my password.")
    assert stored.headers["x-farthing-cache"] == "semantic"
    assert (drawn.headers["x-farthing-route"], drawn.headers["x-farthing-reason"]) == ("small", "explore")


@pytest.mark.parametrize("text", ["hello", HARD])
async def test_a_named_tier_is_never_drawn_away_from(setup: Setup, text: str) -> None:
    async with running(setup) as service:
        service.router.decider = Drawing()
        response, _ = await service.ask(text, model="small")
    assert response.headers["x-farthing-route"] == "small"

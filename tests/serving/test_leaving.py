"""Who leaves just as what it waits for comes has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from router.decision import Decision
from serving.deciding import RemoteDecider
from serving.flights import Flight, Flights
from serving.gateway import Gateway


async def cancelled_at_each_step(begin: Callable[[asyncio.Event], Any], steps: int = 8) -> None:
    """Cancels what `begin` gives at each step between what it waits for, the event, and its end."""
    for late in range(steps):
        came = asyncio.Event()
        task = asyncio.create_task(begin(came))
        for _ in range(steps):
            await asyncio.sleep(0)
        came.set()
        for _ in range(late):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_who_leaves_just_as_the_decision_comes_has_left() -> None:
    """Else a model is asked, and answers to the end, for nobody."""

    async def decided(came: asyncio.Event) -> Any:
        async def ask(*_: Any) -> Decision:
            await came.wait()
            return Decision(tiers=("small",), reason="rules")

        return await RemoteDecider(ask, [], "small", 5.0, lambda _: None)(cast(Any, None))

    await cancelled_at_each_step(decided)


async def test_who_leaves_just_as_the_answer_begins_has_left() -> None:
    flights: Flights[Any, Any] = Flights()

    async def begun(came: asyncio.Event) -> Any:
        async def run(flight: Flight[Any, Any]) -> None:
            await came.wait()
            flight.open(None)
            await asyncio.sleep(60)

        async with flights.join(None, run) as answer:
            await Gateway._first(cast(Any, None), answer)
            return await asyncio.sleep(60)

    await cancelled_at_each_step(begun)
    assert len(flights) == 0

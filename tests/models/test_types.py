"""Deadlines."""

from __future__ import annotations

import asyncio

import pytest

from models.errors import DeadlineExceeded
from models.types import Deadline


async def test_a_limit_that_fires_a_moment_early_is_a_deadline_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's timers may fire before the clock says so, by its resolution."""
    deadline = Deadline.after(0.02)
    monkeypatch.setattr(Deadline, "remaining_s", lambda self: 0.02)
    with pytest.raises(DeadlineExceeded):
        async with deadline.limit():
            await asyncio.sleep(5)


async def test_a_time_out_of_what_is_limited_is_its_own() -> None:
    with pytest.raises(TimeoutError):
        async with Deadline.after(60).limit():
            raise TimeoutError

"""Asking the router deployment, and what happens when it is late or gone: the configured default tier, counted.

The decider itself lives in `router/`; here it is only called, over a handle that the composition root supplies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from models.errors import BadRequest, ContextExceeded, RequestError, Unsupported
from router.decision import Decider, Decision, Facts
from router.policy import TierFacts, nobody_can, obstacle

REFUSALS: dict[str, type[RequestError]] = {kind.__name__: kind for kind in (BadRequest, ContextExceeded, Unsupported)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that no tier can take, in a shape that crosses a process border unharmed."""

    kind: str
    message: str
    param: str | None

    @classmethod
    def of(cls, exc: RequestError) -> Refusal:
        return cls(type(exc).__name__, exc.message, exc.param)

    def error(self) -> RequestError:
        return REFUSALS[self.kind](self.message, param=self.param)


async def decide_or_refuse(decider: Decider, facts: Facts, deadline_s: float) -> Decision | Refusal:
    """What the router deployment answers with."""
    try:
        return await decider.decide(facts, deadline_s)
    except RequestError as exc:
        return Refusal.of(exc)


@dataclass(frozen=True, slots=True)
class RemoteDecider:
    """`ask` reaches the router deployment. Any failure of it, lateness included, ends in the default order."""

    ask: Callable[[Facts, float], Awaitable[Decision | Refusal]]
    tiers: Sequence[TierFacts]
    default_tier: str
    deadline_s: float
    fell_back: Callable[[str], None]

    async def __call__(self, facts: Facts) -> Decision:
        """Raises the request's own error when no tier can take it.

        Not by `wait_for`: it answers a request's end with the decision that came in the same moment.
        """
        try:
            async with asyncio.timeout(self.deadline_s):
                answer = await self.ask(facts, self.deadline_s)
        except TimeoutError:
            return self._default(facts, "router_late")
        except Exception:  # noqa: BLE001 - the edge to another process: whatever broke there, the request goes on
            return self._default(facts, "router_down")
        if isinstance(answer, Refusal):
            raise answer.error()
        return answer

    def _default(self, facts: Facts, cause: str) -> Decision:
        self.fell_back(cause)
        if facts.named:
            return Decision(tiers=(facts.named,), reason="named")
        obstacles = {tier.name: obstacle(tier, facts) for tier in self.tiers}
        able = [name for name, found in obstacles.items() if found is None]
        if not able:
            raise nobody_can(list(obstacles.values()))
        first = [name for name in able if name == self.default_tier]
        return Decision(tiers=(*first, *(name for name in able if name not in first)), reason=cause)

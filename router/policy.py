"""From a score to an order of tiers: capability filters first, then thresholds. One readable function.

Knows what each tier can do, not where it runs, what it costs to reach, or whether it is up: the gateway moves on
along the order given here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from models.errors import BadRequest, ContextExceeded, Unsupported
from router.decision import CascadePlan, Decision, Facts
from router.rules import BIAS, WEIGHTS, shape


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What the policy knows of a tier. Tiers are given in ascending order of strength."""

    name: str
    context_tokens: int
    images: bool = True
    tools: bool = True
    local: bool = False


def obstacle(tier: TierFacts, facts: Facts) -> str | None:
    """The first reason why this tier cannot take this request, as a short code; None when it can."""
    if facts.local_only and not tier.local:
        return "local_only"
    if facts.images and not tier.images:
        return "images"
    if (facts.tools or facts.tool_results) and not tier.tools:
        return "tools"
    if facts.prompt_tokens + (facts.max_output_tokens or 1) > tier.context_tokens:
        return "context"
    return None


def order_from(wanted: int, count: int) -> list[int]:
    """The wanted tier, then stronger ones upwards, then weaker ones: never weaker while a stronger may answer."""
    return [wanted, *range(wanted + 1, count), *range(wanted - 1, -1, -1)]


def nobody_can(obstacles: Sequence[str | None]) -> BadRequest | ContextExceeded | Unsupported:
    """The error for a request that no configured tier can take."""
    if "context" in obstacles:
        return ContextExceeded(
            "the prompt and max_tokens exceed the context of every tier; shorten the messages", param="messages"
        )
    if "images" in obstacles:
        return Unsupported("no configured tier takes images; remove the image parts or configure one", param="messages")
    if "tools" in obstacles:
        return Unsupported("no configured tier takes tools; remove `tools` or configure one", param="tools")
    return BadRequest("farthing.local_only is set, but no local tier is configured", param="farthing.local_only")


def able_from(wanted: int, tiers: Sequence[TierFacts], obstacles: Sequence[str | None]) -> tuple[tuple[str, ...], str]:
    """Names of the tiers without an obstacle, the wanted one first, and the reason. One at least has none."""
    able = [i for i in order_from(wanted, len(tiers)) if obstacles[i] is None]
    reason = "hard" if wanted else "easy"
    return tuple(tiers[i].name for i in able), reason if able[0] == wanted else obstacles[wanted] or reason


Band = tuple[float, float]
RULES = "rules"


def doubtful(facts: Facts, tiers: Sequence[TierFacts], score: float, band: Band | None) -> bool:
    """Whether the score lies in the band, ends included, and the first tier and a stronger one can answer.

    Not for tools and JSON schemas: an answer forced into a form is sure of its form, whatever it says. Nor for one tier
    alone: there would be nobody to turn to.
    """
    if band is None or not band[0] <= score <= band[1]:
        return False
    if facts.tools or facts.tool_results or facts.json_schema:
        return False
    able = [tier for tier in tiers if obstacle(tier, facts) is None]
    return len(able) > 1 and able[0] is tiers[0]


class RuleDecider:
    """`Decider` by prompt shape. band: scores in it are in doubt, see `doubtful`.

    thresholds: tier name to the least score that wants it; the first tier wants nothing. Without any, the last tier
    is wanted from 0.5 up.
    """

    def __init__(
        self, tiers: Sequence[TierFacts], thresholds: Mapping[str, float] | None = None, band: Band | None = None
    ) -> None:
        self._tiers, self._band = tuple(tiers), band
        given = dict(thresholds) if thresholds is not None else {self._tiers[-1].name: 0.5}
        self._steps = [(i, given[t.name]) for i, t in enumerate(self._tiers) if t.name in given and i > 0]
        stamp = json.dumps([[asdict(t) for t in self._tiers], given, BIAS, WEIGHTS, band], sort_keys=True)
        self._version = "rules-" + hashlib.sha256(stamp.encode()).hexdigest()[:10]

    @property
    def version(self) -> str:
        return self._version

    async def decide(self, facts: Facts, deadline_s: float) -> Decision:  # noqa: ARG002 - microseconds, never late
        return self.decide_now(facts)

    def decide_now(self, facts: Facts) -> Decision:
        """Raises the request's own error when no tier can take it."""
        obstacles = [obstacle(tier, facts) for tier in self._tiers]
        if all(obstacles):
            raise nobody_can(obstacles)
        score = shape(facts).score
        wanted = max((i for i, least in self._steps if score >= least), default=0)
        names, reason = able_from(wanted, self._tiers, obstacles)
        in_doubt = doubtful(facts, self._tiers, score, self._band)
        plan = CascadePlan(self._tiers[0].name, score, RULES) if in_doubt else None
        return Decision(tiers=names, reason=reason, score=round(score, 4), cascade=plan)

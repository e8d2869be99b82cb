"""The learned decider: hard filters, then a calibrated gain against what each tier costs, then rollout and stickiness.

It is given the embedding, which the semantic cache needs as well, and falls to the rules whenever it cannot or may not
decide. Pure: knows no Ray, no HTTP, no clock but the one it is given.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router import features
from router.decision import CascadePlan, Decision, Facts
from router.deployed import Deployed, scored_by
from router.estimators.base import Inputs
from router.hot import HotArtifact
from router.policy import Band, RuleDecider, TierFacts, able_from, doubtful, nobody_can, obstacle
from router.rollout import Rollout

MAX_CONVERSATIONS: Final = 20_000
MAX_EXPLORE: Final = 0.05
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Worth:
    """strength: the part of the gap from the first to the last tier that this one closes, 0..1."""

    strength: float
    usd_per_1k: float


@dataclass(frozen=True, slots=True)
class Settings:
    """rollout: how far it acts, where no file beside the artifacts says otherwise (`router/rollout.py`).

    deadline_s: for embedding and score together. margin: how much gain a conversation must miss or exceed the threshold
    by before it changes tier, within sticky_s of its last turn. band: gains in doubt (`policy.doubtful`), None: none;
    band_acts: a conversation then stays with no tier, since it is not known which will have answered. explore: the
    share of requests answered by another tier than the wanted one, so that what the wanted one would have missed can
    be known.
    """

    rollout: Rollout = field(default_factory=lambda: Rollout("act"))
    deadline_s: float = 0.2
    margin: float = 0.1
    sticky_s: float = 1800.0
    band: Band | None = None
    band_acts: bool = False
    explore: float = 0.0


def wanted_tier(gain: float, threshold: float, worths: Sequence[Worth]) -> int:
    """The tier whose expected quality less its price is highest; the price of quality is set by the threshold.

    Between two tiers that is: the stronger one from `threshold` on. Between more, each is worth its `strength` of the
    gain and its part of the extra cost. A higher threshold never wants a dearer tier. Ties go to the stronger.
    """
    first, last = worths[0], worths[-1]
    extra = last.usd_per_1k - first.usd_per_1k
    utilities = [
        w.strength * gain - threshold * ((w.usd_per_1k - first.usd_per_1k) / extra if extra > 0 else w.strength)
        for w in worths
    ]
    return max(range(len(worths)), key=lambda i: (utilities[i], i))


def even_worths(count: int) -> tuple[Worth, ...]:
    """Without prices and measured strengths: even steps from the first tier to the last."""
    steps = [i / max(1, count - 1) for i in range(count)]
    return tuple(Worth(step, step) for step in steps)


class LearnedDecider:
    """`Decider`. embed: gives a text's vector to `decide`; whoever has one calls `decide_with`.

    `fell_back` counts why the rules decided instead: `no_vector` (late, failed or of another dimension), `no_score`.
    """

    def __init__(
        self,
        tiers: Sequence[TierFacts],
        artifact: HotArtifact,
        rules: RuleDecider,
        settings: Settings = Settings(),
        worths: Sequence[Worth] | None = None,
        embed: Callable[[str], Awaitable[Vector]] | None = None,
    ) -> None:
        self._tiers = tuple(tiers)
        self._artifact = artifact
        self._rules = rules
        self._settings = settings
        self._worths = tuple(worths) if worths is not None else even_worths(len(self._tiers))
        self._rollout = artifact.rollout(settings.rollout)
        self._embed = embed
        self._held = Conversations(settings.sticky_s)
        self.fell_back: Counter[str] = Counter(no_vector=0, no_score=0)
        check(self._tiers, self._worths, settings)

    @property
    def version(self) -> str:
        settings = replace(self._settings, rollout=self._rollout.get())
        stamp = [asdict(settings), [asdict(w) for w in self._worths], self._rules.version]
        digest = hashlib.sha256(json.dumps([*stamp, self._artifact.get().manifest.version]).encode())
        return "learned-" + digest.hexdigest()[:10]

    @property
    def acting(self) -> float:
        """The share of conversations it acts on now, 0..1."""
        rollout = self._rollout.get()
        return rollout.share if rollout.mode == "act" else 0.0

    async def decide(self, facts: Facts, deadline_s: float) -> Decision:
        """Embeds first. Late or failed, the rules decide; raises only the request's own error, as `decide_with`."""
        return self.decide_with(facts, await self._vector(facts, min(deadline_s, self._settings.deadline_s)))

    async def _vector(self, facts: Facts, deadline_s: float) -> Vector | None:
        if self._embed is None:
            return None
        try:
            return await asyncio.wait_for(self._embed(facts.text), deadline_s)
        except Exception:  # noqa: BLE001 - the edge to the encoder: whatever broke there, the request goes on by the rules
            return None

    def decide_with(self, facts: Facts, vector: Vector | None) -> Decision:
        """Raises BadRequest, ContextExceeded or Unsupported when no tier can take the request, and nothing else.

        vector: of `facts.text`, length one; None: there is none, so the rules decide.
        """
        obstacles = [obstacle(tier, facts) for tier in self._tiers]
        if all(obstacles):
            raise nobody_can(obstacles)
        deployed = self._artifact.get()
        inputs = self._inputs(deployed, facts, vector)
        gain = self._gain(deployed, inputs)
        if inputs is None or gain is None:
            return self._rules.decide_now(facts)
        acts = self._acts(facts)
        held = self._held.tier(facts) if acts else None
        names, reason = able_from(self._wanted(deployed, gain, held), self._tiers, obstacles)
        score, version = round(gain, 4), deployed.manifest.version
        if acts and (drawn := self._explored(facts, names)) is not None:
            tiers = (drawn, *(name for name in names if name != drawn))
            return Decision(tiers, "explore", score, artifact=version, shadow=names[0])
        if acts:
            band = self._settings.band if held is None else None
            plan = self._plan(deployed, inputs) if doubtful(facts, self._tiers, gain, band) else None
            if plan is None or not self._settings.band_acts:
                self._held.hold(facts, names[0])
            return Decision(names, reason, score, artifact=version, cascade=plan)
        return replace(self._rules.decide_now(facts), score=score, artifact=version, shadow=names[0])

    def _inputs(self, deployed: Deployed, facts: Facts, vector: Vector | None) -> Inputs | None:
        if vector is None or vector.shape != (deployed.stack.dim,):
            self.fell_back["no_vector"] += 1
            return None
        return Inputs(vector[None].astype(np.float32), features.of_facts(facts)[None])

    def _plan(self, deployed: Deployed, inputs: Inputs) -> CascadePlan:
        """The tokens will say anew how likely the first tier is right; the last tier's chance, and what gain is worth
        its price, stand as they are."""
        weak, strong = deployed.stack.predict(inputs)[0].tolist()
        worth = deployed.policy.threshold
        return CascadePlan(self._tiers[0].name, 1.0 - weak, scored_by(deployed.manifest), strong - worth)

    def _gain(self, deployed: Deployed, inputs: Inputs | None) -> float | None:
        if inputs is None:
            return None
        gain = float(deployed.gain(inputs)[0])
        if not np.isfinite(gain):
            self.fell_back["no_score"] += 1
            return None
        return gain

    def _explored(self, facts: Facts, names: Sequence[str]) -> str | None:
        """Another able tier, for the share of requests that explores. By the request's id: asked twice, a request
        explores twice or never. Conversations that hold a tier keep it, and `local_only` stays out. What the wanted
        tier is worth against another shows only where both can be asked."""
        others = [name for name in names[1:] if facts.askable is None or name in facts.askable]
        if facts.local_only or not others or self._held.tier(facts) is not None:
            return None
        if facts.askable is not None and names[0] not in facts.askable:
            return None
        # An integer held against a float is exact, and so is a float times a power of two.
        if _lot("explore", facts.request_id) >= self._settings.explore * 2**64:
            return None
        return max(others, key=lambda name: _lot("explore", facts.request_id, name))  # the same chance for each

    def _acts(self, facts: Facts) -> bool:
        return rollout_place(facts) < self.acting

    def _wanted(self, deployed: Deployed, gain: float, held: str | None) -> int:
        """Where a conversation holds a tier, it is left only for a score beyond the margin."""
        threshold = deployed.policy.threshold
        places = {tier.name: i for i, tier in enumerate(self._tiers)}
        if held is None or held not in places:
            return wanted_tier(gain, threshold, self._worths)
        least = wanted_tier(gain, threshold + self._settings.margin, self._worths)
        most = wanted_tier(gain, threshold - self._settings.margin, self._worths)
        return min(max(places[held], least), most)


def rollout_place(facts: Facts) -> float:
    """0..1, the same for all of a conversation; for single questions the same for equal ones of a tenant."""
    return _lot(facts.tenant, facts.conversation or facts.text) / 2**64


def _lot(*what: str) -> int:
    """Uniform below 2**64, the same for the same strings."""
    digest = hashlib.sha256("\0".join(what).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8])


class Conversations:
    """Which tier each conversation is with; the least recently used are forgotten beyond a bound."""

    def __init__(self, sticky_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._sticky_s = sticky_s
        self._clock = clock
        self._held: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def tier(self, facts: Facts) -> str | None:
        name, at_s = self._held.get((facts.tenant, facts.conversation), ("", float("-inf")))
        return name if self._clock() - at_s <= self._sticky_s else None

    def hold(self, facts: Facts, tier: str) -> None:
        if not facts.conversation:
            return
        key = (facts.tenant, facts.conversation)
        self._held[key] = (tier, self._clock())
        self._held.move_to_end(key)
        if len(self._held) > MAX_CONVERSATIONS:
            self._held.popitem(last=False)


def check(tiers: Sequence[TierFacts], worths: Sequence[Worth], settings: Settings) -> None:
    """Raises ConfigError."""
    if len(worths) != len(tiers):
        raise ConfigError(f"{len(tiers)} tiers, but {len(worths)} strengths: give one for each tier")
    if not 0.0 <= settings.explore <= MAX_EXPLORE:
        raise ConfigError(f"explore is a part of the requests, 0 to {MAX_EXPLORE:g}")
    strengths, prices = [w.strength for w in worths], [w.usd_per_1k for w in worths]
    if strengths != sorted(strengths) or prices != sorted(prices):
        raise ConfigError("tiers are given weakest first: neither strength nor price may fall along them")

"""The learned router inside the Router deployment: decide, watch, and what telemetry shows of it.

Made from the configuration; the deciding itself is `router/learned.py`'s. Knows no Ray and no encoder: vectors come in.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import RequestError
from models.prices import PriceBook
from models.types import Usage
from router.decision import Decision, Facts
from router.hot import HotArtifact
from router.learned import LearnedDecider, Settings, Worth
from router.policy import RuleDecider
from router.rollout import Rollout
from router.watch import Report, Watch
from serving.backends import tier_facts, tier_prices
from serving.config import Config
from serving.deciding import Refusal

Vector = NDArray[np.float32]
NOMINAL = Usage(input_tokens=500, output_tokens=300)
"""One request, to hold the tiers' prices against each other."""


@dataclass(slots=True)
class LearnedRouting:
    """One per router process. A new artifact begins a new watch."""

    decider: LearnedDecider
    artifact: HotArtifact
    first: str  # the weakest tier: whoever wants another escalates
    _watch: Watch
    _watched: str

    def decide(self, facts: Facts, vector: Vector | None) -> Decision | Refusal:
        try:
            decision = self.decider.decide_with(facts, vector)
        except RequestError as exc:
            return Refusal.of(exc)
        if vector is not None and decision.score is not None and decision.artifact:
            self._observe(facts, decision, vector)
        return decision

    def _observe(self, facts: Facts, decision: Decision, vector: Vector) -> None:
        deployed = self.artifact.get()
        if deployed.manifest.version != self._watched:
            self._watch, self._watched = Watch(deployed), deployed.manifest.version
        wanted = decision.shadow or decision.tiers[0]
        assert decision.score is not None
        self._watch.observe(facts.tenant, decision.score, vector, wanted != self.first)

    def report(self) -> Report:
        return self._watch.report()

    @property
    def fell_back(self) -> Mapping[str, int]:
        return self.decider.fell_back


def open_learned(config: Config, encoder_sha256: str) -> LearnedRouting:
    """Raises ConfigError for an artifact that cannot be loaded or was made with another encoder."""
    wanted, cascade = config.routing.learned, config.routing.cascade
    artifact = HotArtifact(config.routing.artifacts, encoder_sha256)
    facts = tier_facts(config)
    settings = Settings(
        rollout=Rollout(wanted.mode, wanted.rollout),
        margin=wanted.margin,
        sticky_s=wanted.sticky_s,
        band=cascade.band if cascade.mode != "off" else None,
        band_acts=cascade.mode == "act",
        explore=wanted.explore,
    )
    rules = RuleDecider(facts, config.routing.thresholds)
    decider = LearnedDecider(facts, artifact, rules, settings, _worths(config))
    deployed = artifact.get()
    return LearnedRouting(decider, artifact, facts[0].name, Watch(deployed), deployed.manifest.version)


def _worths(config: Config) -> Sequence[Worth] | None:
    """Stated strengths with prices of a nominal request. A tier that is dearer than a stronger one counts as dear as
    that: paying more for less is never wanted, and the order of tiers is the operator's word on strength."""
    strengths = config.routing.learned.strengths
    if strengths is None:
        return None
    now = datetime.datetime.now(datetime.UTC)
    book = PriceBook(config.prices)
    worths: list[Worth] = []
    dearest = 0.0
    for tier in config.tiers:
        usd_per_1k = min(p.cost(NOMINAL, now).total_nusd for p in tier_prices(config, tier, book)) / 1e6
        dearest = max(dearest, usd_per_1k)
        worths.append(Worth(strengths[tier.name], dearest))
    return worths

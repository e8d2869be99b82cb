"""The tiers as the running service holds them: pools of backends with their prices, and the names callers may use.

Knows no HTTP and no request; `serving/app.py` builds it from the configuration.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models.errors import ModelNotFound
from models.pool import Pool
from models.prices import Price
from models.types import Capabilities, Usage

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ServingTier:
    """One tier. `pool` is None when the tier is configured but absent; `why_absent` says why (`no_key`).

    `strength` counts upwards from the weakest tier; `prices` is by backend name. `local`: on this machine. `owned`:
    paid by the hour, so that no provider bills its tokens.
    """

    name: str
    strength: int
    pool: Pool | None
    prices: Mapping[str, Price]
    models: tuple[str, ...]
    capabilities: Capabilities
    local: bool = False
    why_absent: str = ""
    owned: bool = False

    def price_of(self, backend: str) -> Price:
        """The first backend's price when none has answered yet, or when it is a box that has joined since."""
        return self.prices.get(backend) or next(iter(self.prices.values()))


@dataclass(frozen=True, slots=True)
class Target:
    """What a requested name means: `tier` is None for `auto`; `model` narrows a tier to the backends that carry it."""

    tier: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Tiers:
    """All tiers, weakest first, and the names that lead to them."""

    ordered: Sequence[ServingTier]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ServingTier:
        return next(t for t in self.ordered if t.name == name)

    def resolve(self, requested: str) -> Target:
        """Raises ModelNotFound, naming what there is."""
        name = self.aliases.get(requested, requested)
        if name == AUTO:
            return Target()
        for tier in self.ordered:
            if name == tier.name:
                return Target(tier.name)
        for tier in self.ordered:
            if name in tier.models:
                return Target(tier.name, name)
        raise ModelNotFound(f"there is no model '{requested}'; use one of: {', '.join(self.names())}", param="model")

    def names(self) -> list[str]:
        """Every name a caller may put into `model`, without repeats."""
        models = [m for t in self.ordered for m in t.models]
        return list(dict.fromkeys([AUTO, *(t.name for t in self.ordered), *models, *self.aliases]))

    def counterfactuals(self, usage: Usage, at: datetime.datetime) -> tuple[int | None, int | None]:
        """Nano-USD the same tokens would have cost at the strongest hosted tier and at the cheapest one.

        None where no hosted tier is configured. A tier without its key counts: its price is known all the same.
        """
        hosted = [t for t in self.ordered if not t.owned and t.prices]
        if not hosted:
            return None, None
        costs = [min(p.cost(usage, at).total_nusd for p in t.prices.values()) for t in hosted]
        return costs[-1], min(costs)

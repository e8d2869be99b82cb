"""What every tier costs on one date: hosted models from the price library, the owned GPU from its rate card.

One date and one book for all rows, computed ones included. Knows no request.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from benchmarks.cost.architectures import SMALL, Gpu
from models.prices import NUSD_PER_USD, Price, PriceBook, RateCard
from models.types import Usage

MTOK: Final = 1_000_000
NOMINAL: Final = Usage(input_tokens=500, output_tokens=300)  # as the service holds tiers' prices against each other


@dataclass(frozen=True, slots=True)
class Prices:
    """By tier. `at` picks the rates in force."""

    by_tier: Mapping[str, Price]
    models: Mapping[str, str]
    at: datetime.datetime

    @classmethod
    def of(cls, models: Mapping[str, str], gpu: Gpu, overrides: Mapping[str, Any] | None = None) -> Prices:
        """Raises UnknownPrice for a hosted model that nobody has a price for."""
        book = PriceBook(overrides)
        hosted = {tier: book.price_of(model) for tier, model in models.items() if tier != SMALL}
        owned = {SMALL: rate_card(gpu)} if SMALL in models else {}
        return cls({**owned, **hosted}, models, datetime.datetime.now(datetime.UTC))

    def nusd(self, tier: str, input_tokens: int, output_tokens: int) -> int:
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        return self.by_tier[tier].cost(usage, self.at).total_nusd

    def usd_per_1k(self, tier: str, input_tokens: int, output_tokens: int) -> float:
        """Of a thousand such requests."""
        return self.nusd(tier, input_tokens, output_tokens) * 1000 / NUSD_PER_USD

    def nominal_usd(self) -> dict[str, float]:
        costs = {tier: price.cost(NOMINAL, self.at).total_nusd for tier, price in self.by_tier.items()}
        return {tier: nusd / NUSD_PER_USD for tier, nusd in costs.items()}

    def rows(self) -> list[dict[str, Any]]:
        """For the report."""
        return [row(tier, self.models[tier], price, self.at) for tier, price in self.by_tier.items()]


def row(tier: str, model: str, price: Price, at: datetime.datetime) -> dict[str, Any]:
    """USD per million tokens in and out, the date, and where they are from."""
    kinds = {"input": Usage(input_tokens=MTOK), "output": Usage(output_tokens=MTOK)}
    usd = {f"{kind}_usd_per_mtok": price.cost(usage, at).total_nusd / NUSD_PER_USD for kind, usage in kinds.items()}
    return {"tier": tier, "model": model, **usd, "on": str(at.date()), "source": price.describe(at)}


def rate_card(gpu: Gpu) -> RateCard:
    return RateCard(
        as_of=datetime.datetime.now(datetime.UTC).date(),
        source=gpu.source,
        usd_per_hour=Decimal(str(gpu.usd_per_hour)),
        prefill_tokens_per_s=Decimal(str(gpu.prefill_tokens_per_s)),
        decode_tokens_per_s=Decimal(str(gpu.decode_tokens_per_s)),
    )

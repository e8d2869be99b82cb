"""What a request costs and where it is written down: journal, prices, spending limits and metrics, behind one face.

Every admitted request is opened and closed here, once each. Knows no HTTP and no backend.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from models.backend import Backend
from models.errors import FarthingError
from models.types import Usage
from serving.ledger.allowance import Allowance, Reservation
from serving.ledger.journal import Journal
from serving.ledger.keys import ApiKey
from serving.ledger.row import Row
from serving.telemetry import GatewayMetrics
from serving.tiers import ServingTier, Tiers
from serving.wire.request import Asked

DEFAULT_OUTPUT_TOKENS = 1_000  # reserved for when the caller names no bound; settled by what was used


@dataclass(slots=True)
class Spending:
    """The money side of one call to one tier: reserved before, charged once after."""

    row: Row
    tier: ServingTier
    tiers: Tiers
    reservation: Reservation
    metrics: GatewayMetrics
    charged: bool = False

    def charge(self, usage: Usage) -> int:
        """Write tokens and cost into the row; returns the cost in nano-USD."""
        self.charged = True
        row, now = self.row, datetime.datetime.now(datetime.UTC)
        cost = self.tier.price_of(row.backend).cost(usage, now)
        fill_usage(row, usage)
        row.cost_input_nusd, row.cost_cached_input_nusd = cost.input_nusd, cost.cached_input_nusd
        row.cost_cache_write_nusd, row.cost_output_nusd = cost.cache_write_nusd, cost.output_nusd
        row.cost_nusd = cost.total_nusd + row.cost_wasted_nusd
        row.billed_nusd = 0 if self.tier.owned else cost.total_nusd
        row.all_frontier_nusd, row.all_cheapest_nusd = self.tiers.counterfactuals(usage, now)
        return row.cost_nusd

    def waste(self, usage: Usage, backend: Backend) -> None:
        """What a call burnt whose answer nobody will see. Of tiers of our own alone: no provider bills it, and another
        call of the same request is charged beside it."""
        assert self.tier.owned
        cost = self.tier.price_of(backend.name).cost(usage, datetime.datetime.now(datetime.UTC))
        self.row.usage_estimated |= usage.estimated
        self.row.cost_wasted_nusd += cost.total_nusd
        self.row.cost_nusd += cost.total_nusd
        self.metrics.wasted(self.tier.name, backend.model, cost.total_nusd)


def fill_usage(row: Row, usage: Usage) -> None:
    row.input_tokens, row.cached_input_tokens = usage.input_tokens, usage.cached_input_tokens
    row.cache_write_tokens, row.output_tokens = usage.cache_write_tokens, usage.output_tokens
    row.reasoning_tokens = usage.reasoning_tokens
    row.usage_estimated |= usage.estimated  # what was wasted before may have been


@dataclass(slots=True)
class Accounts:
    """One per gateway replica."""

    journal: Journal
    allowance: Allowance
    metrics: GatewayMetrics
    tiers: Tiers
    _charged: dict[str, Reservation] = field(default_factory=dict)

    def opened(self, row: Row) -> None:
        """Before anything is asked of a model. Raises JournalUnavailable when the disk does not take it."""
        try:
            self.journal.open(row)
        except FarthingError:
            self.metrics.journal_failed()
            raise

    def closed(self, row: Row) -> None:
        """The row goes first: until the ledger has read it, the money counts as held here."""
        self.journal.close(row)
        reservation = self._charged.pop(row.request_id, None)
        if reservation is not None:
            self.allowance.settle(reservation, row.billed_nusd)
        self.metrics.settled(row)

    def recorded(self, row: Row) -> None:
        """A request that began and ended here: a hit, a refusal."""
        try:
            self.journal.record(row)
        except FarthingError:
            self.metrics.journal_failed()
            raise
        self.metrics.settled(row)

    def cached(self, row: Row, usage: Usage) -> None:
        """A request answered from what an earlier one paid for."""
        fill_usage(row, usage)
        row.all_frontier_nusd, row.all_cheapest_nusd = self.tiers.counterfactuals(
            usage, datetime.datetime.now(datetime.UTC)
        )

    async def reserve(self, key: ApiKey, tier: ServingTier, asked: Asked) -> Reservation:
        """Set frontier money aside; a tier of our own bills nobody. Raises BudgetExceeded."""
        return Reservation(None) if tier.owned else await self.allowance.reserve(key, _worst_nusd(tier, asked))

    def affords(self, key: ApiKey, tier: ServingTier, asked: Asked) -> bool:
        """Whether `reserve` may succeed, as far as is known without asking."""
        if tier.owned or not self.allowance.limited(key):
            return True
        return self.allowance.affords(key, _worst_nusd(tier, asked))

    @contextmanager
    def spending(self, row: Row, tier: ServingTier, reservation: Reservation) -> Iterator[Spending]:
        """One call. What was not charged is given back at once, what was is settled when the row closes."""
        spending = Spending(row, tier, self.tiers, reservation, self.metrics)
        try:
            yield spending
        finally:
            if spending.charged:
                self._charged[row.request_id] = reservation
            else:
                self.allowance.settle(reservation, 0)


def _worst_nusd(tier: ServingTier, asked: Asked) -> int:
    """What a call may cost at most."""
    choices = max(asked.body.get("n") or 1, asked.body.get("best_of") or 1)
    output_tokens = choices * (asked.max_output_tokens or DEFAULT_OUTPUT_TOKENS)
    worst = Usage(input_tokens=asked.prompt_tokens, output_tokens=output_tokens)
    now = datetime.datetime.now(datetime.UTC)
    return max(p.cost(worst, now).total_nusd for p in tier.prices.values())

"""What tokens cost, in integer nano-USD, from a dated source. Knows no requests, no ledger, no network.

Prices come from `genai-prices` (offline: dated, tiered, cached-input rates), from overrides that state where and when
they were read, or, for a model we run, from a rate card: USD per GPU-hour over measured tokens per second. A model
nobody has a price for stops the start; it never costs 0. Tiers follow the providers' rule: the size of one call's whole
prompt picks the rate for all its tokens.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import ConfigError, UnknownPrice
from models.types import Usage

NUSD_PER_USD = 1_000_000_000
NUSD_PER_TOKEN = Decimal(1000)  # of one USD per million tokens
TOKENS_PER_MTOK = Decimal(1_000_000)
SECONDS_PER_HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call cost, by the kind of token; integers, so that sums are exact."""

    input_nusd: int = 0
    cached_input_nusd: int = 0
    cache_write_nusd: int = 0
    output_nusd: int = 0

    @property
    def total_nusd(self) -> int:
        return self.input_nusd + self.cached_input_nusd + self.cache_write_nusd + self.output_nusd


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per million tokens, for one call at one moment."""

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal

    def cost(self, usage: Usage) -> Cost:
        """Inconsistent counts (more cached tokens than tokens) are billed as stated, never below zero."""
        cached = max(0, usage.cached_input_tokens)
        written = max(0, usage.cache_write_tokens)
        plain = max(0, usage.input_tokens - cached - written)
        return Cost(
            input_nusd=_nusd(plain, self.input),
            cached_input_nusd=_nusd(cached, self.cached_input),
            cache_write_nusd=_nusd(written, self.cache_write),
            output_nusd=_nusd(max(0, usage.output_tokens), self.output),
        )

    def __str__(self) -> str:
        parts = {"in": self.input, "cached in": self.cached_input, "cache write": self.cache_write, "out": self.output}
        return ", ".join(f"{name} ${_plain(usd)}" for name, usd in parts.items()) + " per 1M tokens"


class Price(Protocol):
    """The price of one model at one provider, or on one GPU."""

    def cost(self, usage: Usage, at: datetime.datetime) -> Cost: ...

    def describe(self, at: datetime.datetime) -> str:
        """One line for reports: the rates at that moment, where they come from and of which date."""
        ...


class _Dated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: datetime.date
    source: str = Field(min_length=1)


class PriceOverride(_Dated):
    """A price stated in the configuration. A cache rate left out is the input rate."""

    input_usd_per_mtok: Decimal = Field(ge=0, allow_inf_nan=False)
    output_usd_per_mtok: Decimal = Field(ge=0, allow_inf_nan=False)
    cached_input_usd_per_mtok: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    cache_write_usd_per_mtok: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _cached_is_not_dearer(self) -> PriceOverride:
        if self.cached_input_usd_per_mtok is not None and self.cached_input_usd_per_mtok > self.input_usd_per_mtok:
            raise ValueError("cached_input_usd_per_mtok is above input_usd_per_mtok; are the two swapped?")
        return self

    @cached_property
    def rates(self) -> Rates:
        cached, written = self.cached_input_usd_per_mtok, self.cache_write_usd_per_mtok
        return Rates(
            input=self.input_usd_per_mtok,
            cached_input=self.input_usd_per_mtok if cached is None else cached,
            cache_write=self.input_usd_per_mtok if written is None else written,
            output=self.output_usd_per_mtok,
        )

    def cost(self, usage: Usage, at: datetime.datetime) -> Cost:  # noqa: ARG002 - a stated price holds until it is changed
        return self.rates.cost(usage)

    def describe(self, at: datetime.datetime) -> str:  # noqa: ARG002
        return f"{self.rates} ({self.source}, as of {self.as_of})"


class RateCard(_Dated):
    """The price of a token on hardware paid by the hour, at full load: hourly price over measured throughput.

    A request pays for the seconds its tokens take; the hours in which nothing ran are a line of their own elsewhere. A
    token found in the prefix cache takes no time worth billing, hence 0 unless stated. `gpu` is the card that has these
    speeds, by its name in `models/local/gpus.py`; None for a CPU, or where nobody said.
    """

    gpu: str | None = None
    usd_per_hour: Decimal = Field(ge=0, allow_inf_nan=False)
    prefill_tokens_per_s: Decimal = Field(gt=0, allow_inf_nan=False)
    decode_tokens_per_s: Decimal = Field(gt=0, allow_inf_nan=False)
    cached_input_usd_per_mtok: Decimal = Field(default=Decimal(0), ge=0, allow_inf_nan=False)

    @cached_property
    def rates(self) -> Rates:
        per_second = self.usd_per_hour / SECONDS_PER_HOUR
        prefill = per_second / self.prefill_tokens_per_s * TOKENS_PER_MTOK
        decode = per_second / self.decode_tokens_per_s * TOKENS_PER_MTOK
        return Rates(input=prefill, cached_input=self.cached_input_usd_per_mtok, cache_write=prefill, output=decode)

    def cost(self, usage: Usage, at: datetime.datetime) -> Cost:  # noqa: ARG002 - dated by `as_of`, not by the request
        return self.rates.cost(usage)

    def describe(self, at: datetime.datetime) -> str:  # noqa: ARG002
        speed = f"${_plain(self.usd_per_hour)}/h at {self.prefill_tokens_per_s} + {self.decode_tokens_per_s} tokens/s"
        return f"{self.rates} ({speed}; {self.source}, as of {self.as_of})"


class ListedPrice:
    """A model found in genai-prices, looked up once; the date of each request picks the rates then in force.

    Its own `calc_price` takes 70 µs a call against 6 µs for the arithmetic here, and does not part cached from plain
    input; a test holds the two to the same totals.
    """

    def __init__(self, provider: str, model: Any) -> None:
        self._provider = provider
        self._model = model

    def cost(self, usage: Usage, at: datetime.datetime) -> Cost:
        return self.rates(at, usage.input_tokens).cost(usage)

    def rates(self, at: datetime.datetime, input_tokens: int = 0) -> Rates:
        listed = self._model.get_prices(at)
        plain = _tier(listed.input_mtok, input_tokens)
        return Rates(
            input=plain,
            cached_input=plain if listed.cache_read_mtok is None else _tier(listed.cache_read_mtok, input_tokens),
            cache_write=plain if listed.cache_write_mtok is None else _tier(listed.cache_write_mtok, input_tokens),
            output=_tier(listed.output_mtok, input_tokens),
        )

    def describe(self, at: datetime.datetime) -> str:
        listed_as = f"{self._provider}/{self._model.id}"
        return f"{self.rates(at)} (genai-prices {version('genai-prices')}: {listed_as}, on {at.date()})"


class PriceBook:
    """Finds prices at start. An override (`model`, or `provider/model`) wins over the list."""

    def __init__(self, overrides: Mapping[str, PriceOverride | Mapping[str, Any]] | None = None) -> None:
        self._overrides = {name: _override(name, stated) for name, stated in (overrides or {}).items()}

    def price_of(self, ref: str, provider: str | None = None) -> Price:
        """Raises UnknownPrice, saying how to state one. `provider` is its id in genai-prices, guessed when None."""
        for name in (f"{provider}/{ref}", ref):
            if name in self._overrides:
                return self._overrides[name]
        return _listed(ref, provider)


def cheapest(prices: Mapping[str, Price], usage: Usage, at: datetime.datetime) -> tuple[str, Cost]:
    """The name and the cost of whichever would have billed these tokens least."""
    costs = {name: price.cost(usage, at) for name, price in prices.items()}
    name = min(costs, key=lambda n: costs[n].total_nusd)
    return name, costs[name]


def _override(name: str, stated: PriceOverride | Mapping[str, Any]) -> PriceOverride:
    try:
        return PriceOverride.model_validate(stated)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["prices", name, *(str(part) for part in first["loc"])])
        raise ConfigError(f"{where}: {first['msg']}", param=where) from error


def _listed(ref: str, provider: str | None) -> ListedPrice:
    from genai_prices import data_snapshot  # about 0.3 s and 100 MB: only where a hosted model is priced

    try:
        found, model = data_snapshot.get_snapshot().find_provider_model(ref, None, provider, None)
    except LookupError as error:
        raise UnknownPrice(_how_to_state(ref, provider, "genai-prices does not list it")) from error
    dated = [conditional.prices for conditional in model.prices] if isinstance(model.prices, list) else [model.prices]
    for listed in dated:
        if listed.input_mtok is None or listed.output_mtok is None:
            raise UnknownPrice(
                _how_to_state(ref, provider, "genai-prices lists no price for both its input and its output tokens")
            )
        if listed.requests_kcount is not None or listed.output_reasoning_mtok is not None:
            raise UnknownPrice(_how_to_state(ref, provider, "it is billed by more than input and output tokens"))
    return ListedPrice(found.id, model)


def _how_to_state(ref: str, provider: str | None, why: str) -> str:
    asked = f"'{ref}'" if provider is None else f"'{ref}' at '{provider}'"
    return (
        f"no price for {asked}: {why}. State one in the configuration: prices: {{{ref}: {{input_usd_per_mtok: ..., "
        "output_usd_per_mtok: ..., as_of: YYYY-MM-DD, source: <the page you read it on>}}"
    )


def _tier(price: Any, input_tokens: int) -> Decimal:
    """The rate that a prompt of this size is billed at; `price` is a Decimal or genai-prices' TieredPrices."""
    if isinstance(price, Decimal):
        return price
    rate: Decimal = price.base
    for tier in price.tiers:  # ascending by start
        if input_tokens > tier.start:
            rate = tier.price
    return rate


def _nusd(tokens: int, usd_per_mtok: Decimal) -> int:
    if not tokens:  # most calls have no cached input and write none
        return 0
    return int((tokens * usd_per_mtok * NUSD_PER_TOKEN).to_integral_value(ROUND_HALF_UP))


def _plain(usd: Decimal) -> str:
    """At most five significant digits, no exponent, no trailing zeros."""
    text = f"{Decimal(f'{usd:.5g}'):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

"""What a call costs: exact integers, the date's rates, never below zero, and never a guess."""

from __future__ import annotations

import datetime
import functools
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError, UnknownPrice
from models.prices import Cost, ListedPrice, Price, PriceBook, PriceOverride, RateCard, cheapest
from models.types import Usage

UTC = datetime.UTC
AT = datetime.datetime(2026, 11, 24, 12, tzinfo=UTC)
STATED = {
    "input_usd_per_mtok": 2,
    "cached_input_usd_per_mtok": 0.1,
    "cache_write_usd_per_mtok": 2.5,
    "output_usd_per_mtok": 10,
    "as_of": "2026-11-01",
    "source": "https://example.com/pricing",
}
CARD: dict[str, Any] = {
    "usd_per_hour": "0.40",
    "prefill_tokens_per_s": 5000,
    "decode_tokens_per_s": 975,
    "as_of": "2026-11-22",
    "source": "measured here",
}
LISTED = [
    ("gpt-6-luna", "openai"),
    ("gpt-5.5", "openai"),
    ("claude-haiku-5-5", "anthropic"),
    ("claude-sonnet-5-5", "anthropic"),
    ("gemini-4-argon", "google"),
    ("gemini-2.5-pro", "google"),
    ("deepseek-chat", "deepseek"),
]


@functools.cache
def listed(ref: str, provider: str) -> Price:
    return PriceBook().price_of(ref, provider)


@st.composite
def usages(draw: st.DrawFn, most: int = 400_000) -> Usage:
    total = draw(st.integers(0, most))
    cached = draw(st.integers(0, total))
    written = draw(st.integers(0, total - cached))
    return Usage(total, cached, written, draw(st.integers(0, most)))


instants = st.integers(0, 180 * 24).map(
    lambda hours: datetime.datetime(2026, 9, 1, tzinfo=UTC) + datetime.timedelta(hours=hours)
)


@given(st.sampled_from(LISTED), usages(), instants)
def test_listed_prices_are_those_of_genai_prices(model: tuple[str, str], usage: Usage, at: datetime.datetime) -> None:
    """Our arithmetic and the library's own agree at every date and tier, but for the rounding of the four parts."""
    ref, provider = model
    theirs = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
        ),
        ref,
        provider_id=provider,
        genai_request_timestamp=at,
    )
    assert abs(listed(ref, provider).cost(usage, at).total_nusd - theirs.total_price * 10**9) <= 2


def every_price() -> st.SearchStrategy[Price]:
    fixed: list[Price] = [PriceOverride.model_validate(STATED), RateCard.model_validate(CARD)]
    return st.one_of(st.sampled_from(fixed), st.sampled_from(LISTED).map(lambda model: listed(*model)))


@given(every_price(), usages(most=40_000), usages(most=40_000))
def test_cost_adds_up_within_a_tier(price: Price, one: Usage, other: Usage) -> None:
    both = Usage(
        one.input_tokens + other.input_tokens,
        one.cached_input_tokens + other.cached_input_tokens,
        one.cache_write_tokens + other.cache_write_tokens,
        one.output_tokens + other.output_tokens,
    )
    apart = price.cost(one, AT).total_nusd + price.cost(other, AT).total_nusd
    assert abs(price.cost(both, AT).total_nusd - apart) <= 4  # rounding moves each of the four parts by at most one


counts = st.integers(-10, 10**7)


@given(every_price(), st.builds(Usage, counts, counts, counts, counts))
def test_no_part_is_ever_negative_whatever_the_backend_claims(price: Price, usage: Usage) -> None:
    cost = price.cost(usage, AT)
    parts = (cost.input_nusd, cost.cached_input_nusd, cost.cache_write_nusd, cost.output_nusd)
    assert min(parts) >= 0
    assert cost.total_nusd == sum(parts)


@given(every_price(), st.integers(0, 400_000), st.integers(0, 400_000))
def test_a_cached_token_never_costs_more_than_a_plain_one(price: Price, total: int, cached: int) -> None:
    cached = min(cached, total)
    with_cache = price.cost(Usage(total, cached_input_tokens=cached), AT)
    assert with_cache.total_nusd <= price.cost(Usage(total), AT).total_nusd + 1  # one more part to round


def test_the_parts_of_a_known_call() -> None:
    """2,000 tokens in, 500 of them cached and 300 written, 100 out: by hand."""
    price = PriceBook({"m": STATED}).price_of("m")
    usage = Usage(2000, cached_input_tokens=500, cache_write_tokens=300, output_tokens=100, reasoning_tokens=60)
    assert price.cost(usage, AT) == Cost(2_400_000, 50_000, 750_000, 1_000_000)


@pytest.mark.parametrize(("tokens", "nusd"), [(1, 1), (3, 2), (5, 3)])
def test_half_a_nano_dollar_rounds_up(tokens: int, nusd: int) -> None:
    price = PriceBook({"m": {**STATED, "output_usd_per_mtok": "0.0005"}}).price_of("m")
    assert price.cost(Usage(output_tokens=tokens), AT).output_nusd == nusd


def test_a_price_changes_on_its_day() -> None:
    """gemini-4-argon's introductory price ends with November 2026 (UTC)."""
    price = PriceBook().price_of("gemini-4-argon", "google")
    usage = Usage(1_000_000, output_tokens=100_000)
    last = datetime.datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    elsewhere = datetime.timezone(datetime.timedelta(hours=-5))
    assert price.cost(usage, last).total_nusd == 3_000_000_000
    assert price.cost(usage, last + datetime.timedelta(seconds=1)).total_nusd == 6_000_000_000
    assert price.cost(usage, datetime.datetime(2026, 11, 30, 20, tzinfo=elsewhere)).total_nusd == 6_000_000_000


def test_a_large_prompt_moves_all_its_tokens_to_the_dearer_tier() -> None:
    price = PriceBook().price_of("claude-haiku-5-5", "anthropic")
    assert price.cost(Usage(100_000, output_tokens=1000), AT).total_nusd == 10_500_000
    assert price.cost(Usage(100_001, output_tokens=1000), AT).total_nusd == 5 * 10_500_000 + 500


def test_gpu_time_becomes_a_price_per_token() -> None:
    """An hour at full decoding speed costs what the hour costs."""
    card = RateCard.model_validate(CARD)
    hour = Usage(output_tokens=975 * 3600)
    assert card.cost(hour, AT).total_nusd == 400_000_000
    assert card.cost(Usage(5000 * 3600), AT).total_nusd == 400_000_000
    assert card.cost(Usage(1000, cached_input_tokens=1000), AT).total_nusd == 0
    assert "measured here, as of 2026-11-22" in card.describe(AT)


def test_an_override_wins_and_the_one_for_its_provider_before_that() -> None:
    book = PriceBook({"gpt-6-luna": STATED, "azure/gpt-6-luna": {**STATED, "output_usd_per_mtok": 12}})
    million = Usage(output_tokens=1_000_000)
    assert book.price_of("gpt-6-luna", "openai").cost(million, AT).total_nusd == 10 * 10**9
    assert book.price_of("gpt-6-luna", "azure").cost(million, AT).total_nusd == 12 * 10**9
    assert book.price_of("gpt-6-luna").describe(AT).endswith("(https://example.com/pricing, as of 2026-11-01)")


@pytest.mark.parametrize(
    ("ref", "provider", "why"),
    [
        ("no-such-model", None, "does not list"),
        ("gpt-6-luna", "no-such-provider", "does not list"),
        ("text-embedding-3-small", "openai", "no price for both"),
        ("sonar", "perplexity", "billed by more"),
    ],
)
def test_an_unknown_price_stops_the_start_and_says_what_to_do(ref: str, provider: str | None, why: str) -> None:
    with pytest.raises(UnknownPrice, match=why) as error:
        PriceBook().price_of(ref, provider)
    assert f"prices: {{{ref}: {{input_usd_per_mtok:" in str(error.value) and "as_of" in str(error.value)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"output_usd_per_mtok": -1}, "prices.m.output_usd_per_mtok"),
        ({"input_usd_per_mtok": "NaN"}, "prices.m.input_usd_per_mtok"),
        ({"as_of": "soon"}, "prices.m.as_of"),
        ({"cached_input_usd_per_mtok": 3}, "prices.m"),
        ({"inptu_usd_per_mtok": 3}, "prices.m.inptu_usd_per_mtok"),
    ],
)
def test_an_impossible_override_is_refused_with_its_path(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        PriceBook({"m": {**STATED, **change}})
    assert error.value.param == where


def test_rates_written_as_floats_are_the_decimals_they_look_like() -> None:
    assert PriceOverride.model_validate(STATED).rates.cached_input == Decimal("0.1")


def test_the_cheapest_depends_on_the_mix_of_tokens() -> None:
    reader = PriceOverride.model_validate({**STATED, "input_usd_per_mtok": 1, "output_usd_per_mtok": 20})
    writer = PriceOverride.model_validate({**STATED, "input_usd_per_mtok": 4, "output_usd_per_mtok": 5})
    prices: dict[str, Price] = {"reader": reader, "writer": writer}
    assert cheapest(prices, Usage(1000, output_tokens=10), AT)[0] == "reader"
    assert cheapest(prices, Usage(10, output_tokens=1000), AT) == ("writer", writer.cost(Usage(10, 0, 0, 1000), AT))


def test_every_listed_model_is_either_priced_or_refused() -> None:
    """No entry of the list makes a price that fails later, at a request."""
    priced = 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            try:
                price = PriceBook().price_of(model.id, provider.id)
            except UnknownPrice:
                continue
            assert isinstance(price, ListedPrice)
            assert price.cost(Usage(300_000, 1000, 1000, 1000), AT).total_nusd >= 0
            priced += 1
    assert priced > 1000

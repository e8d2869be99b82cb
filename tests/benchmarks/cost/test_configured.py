from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import configured
from benchmarks.cost.architectures import Gpu

PRICE = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2, "as_of": "2026-11-26", "source": "a test"}
CONFIG: dict[str, Any] = {
    "tiers": [
        {"name": "own", "backends": [{"kind": "engine", "profile": "embedded"}]},
        {"name": "mini", "backends": [{"kind": "http", "url": "http://x/v1", "model": "m"}], "price": PRICE},
        {"name": "big", "backends": [{"kind": "http", "url": "http://x/v1", "model": "gpt-4o-2024-08-06"}]},
    ],
    "cache": {"semantic": {"mode": "serve"}},
}


def names(config: dict[str, Any]) -> list[list[str]]:
    services = configured.services_of(config, configured.tiers_of(config))
    return [[row.name for row in rows] for _, rows in services]


def test_tiers_get_the_prices_and_roles_they_have_in_the_service() -> None:
    own, mini, big = configured.tiers_of(CONFIG)
    assert [tier.role for tier in (own, mini, big)] == ["small", "cheap", "frontier"]
    at = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)
    assert "$1, " in mini.price.describe(at)
    assert "gpt-4o" in big.price.describe(at)
    card = configured.own_card(CONFIG)
    assert card is not None
    assert float(card.usd_per_hour) == pytest.approx(0.04)
    assert configured.own_card({"tiers": CONFIG["tiers"][1:]}) is None


def test_each_tier_is_a_row_and_then_the_configuration_with_the_caches_that_are_on() -> None:
    assert names(CONFIG) == [["all-own", "all-mini", "all-big", "routed", "routed-exact", "routed-semantic"]]
    assert "routed-semantic" not in names({**CONFIG, "cache": {}})[0]


def test_a_cascade_that_acts_is_a_row_of_its_own_in_a_service_of_its_own() -> None:
    config = CONFIG | {"routing": {"thresholds": {"big": 0.5}, "cascade": {"mode": "act", "artifacts": "there"}}}
    (without, rows), (with_it, own) = configured.services_of(config, configured.tiers_of(config))
    assert [row.name for row in own] == ["routed-cascade"]
    assert "routed-cascade" not in [row.name for row in rows]
    assert without["routing"]["cascade"] == {"mode": "off", "artifacts": "there"}
    assert with_it == config
    assert without["routing"]["thresholds"] == with_it["routing"]["thresholds"]
    shadow = CONFIG | {"routing": {"cascade": {"mode": "shadow", "artifacts": "there"}}}
    assert len(names(shadow)) == 1, "in shadow it drops nothing: there is nothing to compare"


def test_an_optional_tier_without_its_key_is_absent_as_in_the_service() -> None:
    keyed = {"kind": "http", "url": "http://x/v1", "model": "m", "key_env": "A_KEY"}
    config = {"tiers": [CONFIG["tiers"][0], {"name": "far", "optional": True, "backends": [keyed]}]}
    assert configured.absent(config, {}) == ["far"]
    assert configured.absent(config, {"A_KEY": "x"}) == []
    assert configured.absent({"tiers": [{"name": "far", "backends": [keyed]}]}, {}) == [], "the service will complain"


def test_a_price_given_to_the_run_is_the_one_the_ledger_will_have() -> None:
    config = configured.priced(CONFIG, Gpu(0.5, 1000.0, 100.0))
    card = configured.own_card(config)
    assert card is not None
    assert (card.usd_per_hour, card.prefill_tokens_per_s, card.decode_tokens_per_s) == (0.5, 1000, 100)
    assert config["tiers"][1:] == CONFIG["tiers"][1:]
    assert "price" not in CONFIG["tiers"][0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("listen: {}\n", "has no tiers"),
        ("tiers: [{name: small}]\n", "each tier has a name and backends"),
        ("tiers: [small]\n", "each tier has a name and backends"),
        ("a: [\n", "cannot read"),
    ],
)
def test_a_file_of_another_kind_is_no_configuration(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BenchmarkError, match=complaint):
        configured.read_config(path)

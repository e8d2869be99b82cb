"""A configuration of the service as a run with real backends sees it: its tiers with their prices, and its rows.

Reads YAML, knows no process. What the service would refuse is left for it to refuse, in its own words.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.child import BenchmarkError
from benchmarks.cost.architectures import CHEAP, FRONTIER, ROUTED, SMALL, Architecture, Gpu
from models.local.fit import pick_profile
from models.local.gpus import detect_gpu
from models.local.profiles import catalogue, resolve
from models.prices import Price, PriceBook, PriceOverride, RateCard

EMBEDDED: Final[Mapping[str, Any]] = {"tiers": [{"name": SMALL, "backends": [{"kind": "engine"}]}]}
CASCADE: Final = Architecture("routed-cascade", "auto, as configured, + cascade", "auto")
Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier of the configuration. `role`: what the report calls it (`small`, `cheap` or `frontier`)."""

    name: str
    model: str
    price: Price
    role: str


def read_config(path: Path | None) -> dict[str, Any]:
    """None: this machine's embedded model. Raises BenchmarkError."""
    if path is None:
        return dict(EMBEDDED)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise BenchmarkError(f"cannot read {path}: {exc}") from exc
    if not isinstance(data, dict) or not data.get("tiers"):
        raise BenchmarkError(f"{path} is no configuration of the service: it has no tiers")
    try:
        found = [tier for tier in data["tiers"] if tier["name"] and tier["backends"][0]["kind"]]
    except (LookupError, TypeError) as exc:
        raise BenchmarkError(f"{path}: each tier has a name and backends of some kind ({exc!r})") from exc
    return {**data, "tiers": found}


def absent(config: Config, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the tiers that the service leaves out, because they are optional and their key is not there."""
    return [
        tier["name"]
        for tier in config["tiers"]
        if tier.get("optional") and not any(_has_key(backend, environ) for backend in tier["backends"])
    ]


def _has_key(backend: Mapping[str, Any], environ: Mapping[str, str]) -> bool:
    file, name = backend.get("key_file"), backend.get("key_env")
    if file is not None:
        return Path(file).is_file()
    return name is None or bool(environ.get(name))


def tiers_of(config: Config) -> list[Tier]:
    """With the prices the service will use. Raises UnknownPrice or another FarthingError."""
    book = PriceBook(config.get("prices"))
    stated = config["tiers"]
    hosted = [tier["name"] for tier in stated if tier["backends"][0]["kind"] == "http"]
    found = []
    for tier in stated:
        backend = tier["backends"][0]
        if backend["kind"] == "http":
            role = FRONTIER if tier["name"] == hosted[-1] else CHEAP
            found.append(Tier(tier["name"], backend["model"], _hosted(tier, backend, book), role))
        else:
            model, card = _owned(tier, backend)
            found.append(Tier(tier["name"], model, card, SMALL))
    return found


def _hosted(tier: Mapping[str, Any], backend: Mapping[str, Any], book: PriceBook) -> Price:
    if "price" in tier:
        return PriceOverride.model_validate({"source": "the configuration", **tier["price"]})
    return book.price_of(tier.get("price_ref") or backend["model"], tier.get("price_provider"))


def _owned(tier: Mapping[str, Any], backend: Mapping[str, Any]) -> tuple[str, RateCard]:
    """Raises BenchmarkError for a model without a rate card, as the service does."""
    name, gpu = backend.get("profile", "auto"), detect_gpu()
    suited = catalogue()["embedded"] if gpu is None else pick_profile(gpu)
    profile = suited if name == "auto" else resolve(name)
    stated, card = tier.get("price") or {}, profile.rate_card
    fields = {} if card is None else card.model_dump()
    if stated:
        speeds = "" if card is None else f"; speeds not stated there: {card.source}"
        today = datetime.datetime.now(datetime.UTC).date()
        fields |= {"as_of": today, "source": f"the configuration's price{speeds}"}
    try:
        return profile.name, RateCard.model_validate(fields | dict(stated))
    except ValueError as exc:
        raise BenchmarkError(f"tier '{tier['name']}' has no rate card: state its price in the configuration") from exc


def own_card(config: Config) -> RateCard | None:
    """Of the first tier that is paid by the hour; None without one. Raises BenchmarkError or another FarthingError."""
    for tier in config["tiers"]:
        if tier["backends"][0]["kind"] != "http":
            return _owned(tier, tier["backends"][0])[1]
    return None


def priced(config: Config, gpu: Gpu) -> dict[str, Any]:
    """The configuration with this price and these speeds for its first own tier, so that the ledger has them."""
    own = next(tier for tier in config["tiers"] if tier["backends"][0]["kind"] != "http")
    return {**config, "tiers": [{**t, "price": gpu.price()} if t is own else t for t in config["tiers"]]}


def services_of(config: Config, tiers: Sequence[Tier]) -> list[tuple[Config, list[Architecture]]]:
    """What is started, one after the other, and the rows that each drives.

    Each tier alone, then the choice as configured, without and with the caches that are on. A cascade that acts is a
    setting of the whole service: all those rows are without it, and it has a service, and a row without a cache, of its
    own, so that the two differ in nothing else.
    """
    found = [Architecture(f"all-{tier.name}", f"all to {tier.name} ({tier.model})", tier.name) for tier in tiers]
    semantic = ((config.get("cache") or {}).get("semantic") or {}).get("mode") == "serve"
    as_configured = [replace(row, label=row.label.replace("routed", "auto, as configured")) for row in ROUTED]
    found += [row for row in as_configured if semantic or row.cache != "semantic"]
    routing = config.get("routing") or {}
    if (routing.get("cascade") or {}).get("mode") != "act":
        return [(config, found)]
    without = {**config, "routing": {**routing, "cascade": {**routing["cascade"], "mode": "off"}}}
    return [(without, found), (config, [CASCADE])]

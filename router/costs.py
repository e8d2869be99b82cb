"""What each row would have cost at either model, in USD, from its token counts and dated prices."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from models.errors import ConfigError, UnknownPrice
from models.prices import NUSD_PER_USD, PriceBook
from models.types import Usage
from router.estimators.base import Floats
from router.outcomes import Outcomes


def read_prices(path: Path | None) -> PriceBook:
    """A YAML file of `model: {input_usd_per_mtok, output_usd_per_mtok, as_of, source}`, as in the configuration."""
    if path is None:
        return PriceBook()
    try:
        stated: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the prices in {path}: {error}") from error
    if not isinstance(stated, dict):
        raise ConfigError(f"{path}: a mapping of model names to prices is expected")
    return PriceBook(stated.get("prices", stated))


def row_costs(outcomes: Outcomes, prices: PriceBook, answer_tokens: float | None = None) -> tuple[Floats, Floats]:
    """(n,) of the weak and of the strong model. answer_tokens: for rows that do not state how long the answers were.

    Raises ConfigError when a price is not known, or answer lengths are neither in the rows nor given.
    """
    now = datetime.datetime.now(datetime.UTC)
    found = []
    for model, tokens in ((outcomes.pair.weak, outcomes.weak_tokens), (outcomes.pair.strong, outcomes.strong_tokens)):
        if answer_tokens is None and np.isnan(tokens).any():
            raise ConfigError("some rows do not say how long the answers were: give --answer-tokens N for those")
        try:
            price = prices.price_of(model)
        except UnknownPrice as error:
            raise ConfigError(f"no price for '{model}' is known: state one with --prices FILE") from error
        counts = np.where(np.isnan(tokens), answer_tokens or 0, tokens)
        usages = [
            Usage(input_tokens=round(p), output_tokens=round(c))
            for p, c in zip(outcomes.prompt_tokens, counts, strict=True)
        ]
        found.append(np.array([price.cost(usage, now).total_nusd / NUSD_PER_USD for usage in usages]))
    return found[0], found[1]

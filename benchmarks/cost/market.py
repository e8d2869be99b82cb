"""What an hour of a GPU costs on the market, from a file of offers: a low, a middle and a high price that were there.

Reads what `python -m cluster offers FILE --json` prints, or vast.ai's own answer to a search (`{"offers": [...]}`, of
which machines with one GPU count). A search has filters and a length of its own, so the quantiles are of what it let
through, not of the whole market; the report says so. Rents nothing and asks nobody.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.child import BenchmarkError
from benchmarks.cost.breakeven import HourPrice
from models.errors import ConfigError
from models.local.gpus import gpu_named

QUANTILES: Final[Mapping[str, float]] = {"10 % quantile": 0.1, "median": 0.5, "90 % quantile": 0.9}
FORMATS: Final = "what `python -m cluster offers FILE --json` prints, or vast.ai's answer to a search"


@dataclass(frozen=True, slots=True)
class Offered:
    """One offer of one GPU. `interruptible`: the price is a bid."""

    gpu: str
    usd_per_hour: float
    interruptible: bool
    seen: str | None  # ISO date


@dataclass(frozen=True, slots=True)
class Market:
    """The offers of one card in one file."""

    offers: Sequence[Offered]
    source: str
    as_of: str

    @classmethod
    def read(cls, path: Path, gpu: str) -> Market:
        """Raises BenchmarkError for a file of another kind, and where it has no offer of this card."""
        found = _offers(path)
        offers = [offer for offer in found if same_card(offer.gpu, gpu)]
        if not offers:
            seen = ", ".join(sorted({offer.gpu for offer in found})) or "none"
            raise BenchmarkError(f"{path} has no offer of one '{gpu}'; it has: {seen}")
        dates = sorted(offer.seen for offer in offers if offer.seen)
        changed = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date()
        as_of = dates[0] if dates else f"{changed}, when the file was last changed"
        bids = sum(offer.interruptible for offer in offers)
        kinds = f"{len(offers)} offers of one {offers[0].gpu}, {bids or 'none'} of them interruptible"
        return cls(offers, f"{kinds}, in {path.name}", as_of)

    def hours(self) -> list[HourPrice]:
        """Low, median and high."""
        prices = [offer.usd_per_hour for offer in self.offers]
        usd = [round(float(np.quantile(prices, share)), 4) for share in QUANTILES.values()]
        return [HourPrice(u, f"{name} of {self.source}", self.as_of) for name, u in zip(QUANTILES, usd, strict=True)]

    def median(self) -> HourPrice:
        return self.hours()[1]


def same_card(one: str, other: str) -> bool:
    return _card(one) == _card(other)


def _card(name: str) -> str:
    try:
        return gpu_named(name).name
    except ConfigError:  # not in our table: its words decide
        return re.sub(r"[^a-z0-9]", "", name.lower())


def _offers(path: Path) -> list[Offered]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = data["offers"] if isinstance(data, dict) else data
        return [_offer(row) for row in rows if int(row.get("num_gpus", 1)) == 1]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BenchmarkError(f"{path} is no market file: {FORMATS} is expected ({exc!r})") from exc


def _offer(row: Mapping[str, Any]) -> Offered:
    if "gpu_name" in row:  # vast.ai's own
        found = Offered(str(row["gpu_name"]), float(row["dph_total"]), bool(row.get("is_bid")), None)
    else:
        bid = row.get("bid_usd_per_hour") is not None
        seen = str(row["seen_at"])[:10] if row.get("seen_at") else None
        found = Offered(str(row["gpu"]), float(row["usd_per_hour"]), bid, seen)
    if not 0 < found.usd_per_hour < float("inf"):
        raise ValueError(f"a {found.gpu} at ${found.usd_per_hour} an hour")
    return found

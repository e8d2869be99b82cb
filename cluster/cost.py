"""What the cluster has cost: by our own count, by day, for a thousand requests, and held against what the provider
charged."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from cluster.deck import Deck
from cluster.state import day_of
from cluster.vast_types import Charge

DAY_S = 86_400.0
TOLERANCE_USD = 0.01  # the provider rounds each contract to a tenth of a cent, and lags


def first_day(deck: Deck, days: int) -> str:
    """Of the UTC days that a report over so many days covers, today included."""
    return day_of(deck.now_s() - (days - 1) * DAY_S)


def report(deck: Deck, days: int, answered: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Reads only. Whole UTC days, today included; a box's own `accrued_usd` is of its whole life, which may have begun
    before. `difference_usd` is what the provider charged more than we counted: bandwidth, mostly.

    `answered` is how many requests the boxes answered by UTC day, where a service was asked; without it, nothing is
    said of a thousand requests.
    """
    standing = [i for i in deck.client.instances() if i.label.startswith(deck.config.label_prefix)]
    state, now_s = deck.store.state.model_copy(deep=True), deck.now_s()
    first = first_day(deck, days)
    for rental in state.live:
        if rental.contract_id is not None:
            state.accrue(rental, now_s)  # since the last look; in this copy only
    spent_usd = {day: usd for day, usd in sorted(state.spent_usd_by_day.items()) if day >= first}
    charges = {c.contract_id: c for c in _charges(deck, first, now_s)}
    rows: list[dict[str, Any]] = []
    for rental in state.rentals:
        charge = charges.pop(rental.contract_id or 0, None)
        if rental.contract_id is None or (not rental.live and day_of(rental.since_s) < first):
            continue
        rows.append(
            {
                "contract_id": rental.contract_id,
                "slot": rental.slot,
                "gpu": rental.gpu,
                "phase": rental.phase,
                "accrued_usd": round(rental.accrued_usd, 4),
                "charged_usd": charge.amount_usd if charge else None,
                "charged_by_kind_usd": dict(charge.by_kind_usd) if charge else {},
            }
        )
    unknown: list[dict[str, Any]] = [
        {"contract_id": c.contract_id, "charged_usd": c.amount_usd} for c in charges.values()
    ]
    accrued = sum(spent_usd.values())
    charged = sum(row["charged_usd"] or 0.0 for row in rows) + sum(u["charged_usd"] for u in unknown)
    return {
        "cluster": deck.config.name,
        "usd_per_hour_now": round(sum(i.billed_usd_per_hour for i in standing), 4),
        "accrued_usd": round(accrued, 4),
        "charged_usd": round(charged, 4),
        "difference_usd": round(charged - accrued, 4),
        "reconciled": not unknown and abs(charged - accrued) <= max(TOLERANCE_USD, 0.02 * accrued),
        "spent_usd_by_day": {day: round(usd, 4) for day, usd in spent_usd.items()},
        **({} if answered is None else _per_1k(spent_usd, answered, first, charged)),
        "budget_usd_per_day": deck.config.budget_usd_per_day,
        "boxes": rows,
        "charged_but_unknown_here": unknown,
    }


def _charges(deck: Deck, first: str, now_s: float) -> list[Charge]:
    from_s = datetime.datetime.fromisoformat(f"{first}T00:00:00+00:00").timestamp()
    return [c for c in deck.client.charges(from_s, now_s) if c.label.startswith(deck.config.label_prefix)]


def _per_1k(
    spent_usd: Mapping[str, float], answered: Mapping[str, int], first: str, charged_usd: float
) -> dict[str, Any]:
    """Whole UTC days: what was paid while nobody asked is part of the price."""
    days = sorted(day for day in {*spent_usd, *answered} if day >= first)
    total, usd = sum(answered.get(day, 0) for day in days), sum(spent_usd.get(day, 0.0) for day in days)
    return {
        "requests": total,
        "usd_per_1k_requests": _rate(usd, total),
        "charged_usd_per_1k_requests": _rate(charged_usd, total),
        "by_day": {
            day: {
                "usd": round(spent_usd.get(day, 0.0), 4),
                "requests": answered.get(day, 0),
                "usd_per_1k_requests": _rate(spent_usd.get(day, 0.0), answered.get(day, 0)),
            }
            for day in days
        },
    }


def _rate(usd: float, requests: int) -> float | None:
    return round(1000 * usd / requests, 4) if requests else None

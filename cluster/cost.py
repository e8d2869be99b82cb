"""What the cluster has cost: by our own count, by day, and held against what the provider charged."""

from __future__ import annotations

from typing import Any

from cluster.deck import Deck

DAY_S = 86_400.0
TOLERANCE_USD = 0.01  # the provider rounds each contract to a tenth of a cent, and lags


def report(deck: Deck, days: int) -> dict[str, Any]:
    """Reads only. `difference_usd` is what the provider charged more than we counted: bandwidth, mostly."""
    standing = [i for i in deck.client.instances() if i.label.startswith(deck.config.label_prefix)]
    state, now_s = deck.store.state, deck.now_s()
    from_s = now_s - days * DAY_S
    charges = {c.contract_id: c for c in deck.client.charges(from_s, now_s) if deck.config.label_prefix in c.label}
    rows: list[dict[str, Any]] = []
    for rental in state.rentals:
        if rental.contract_id is None or rental.since_s < from_s:
            continue
        accrued = rental.accrued_usd + _since_last_look(rental.accrued_until_s, rental.billed_usd_per_hour, now_s)
        charge = charges.pop(rental.contract_id, None)
        rows.append(
            {
                "contract_id": rental.contract_id,
                "slot": rental.slot,
                "gpu": rental.gpu,
                "phase": rental.phase,
                "accrued_usd": round(accrued, 4),
                "charged_usd": charge.amount_usd if charge else None,
                "charged_by_kind_usd": dict(charge.by_kind_usd) if charge else {},
            }
        )
    unknown: list[dict[str, Any]] = [
        {"contract_id": c.contract_id, "charged_usd": c.amount_usd} for c in charges.values()
    ]
    accrued = sum(row["accrued_usd"] for row in rows)
    charged = sum(row["charged_usd"] or 0.0 for row in rows) + sum(u["charged_usd"] for u in unknown)
    return {
        "cluster": deck.config.name,
        "usd_per_hour_now": round(sum(i.billed_usd_per_hour for i in standing), 4),
        "accrued_usd": round(accrued, 4),
        "charged_usd": round(charged, 4),
        "difference_usd": round(charged - accrued, 4),
        "reconciled": abs(charged - accrued) <= max(TOLERANCE_USD, 0.02 * accrued),
        "spent_usd_by_day": {day: round(usd, 4) for day, usd in sorted(state.spent_usd_by_day.items())},
        "budget_usd_per_day": deck.config.budget_usd_per_day,
        "boxes": rows,
        "charged_but_unknown_here": unknown,
    }


def _since_last_look(until_s: float, usd_per_hour: float, now_s: float) -> float:
    return max(0.0, now_s - until_s) / 3600 * usd_per_hour

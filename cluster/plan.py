"""What `up` would do, in figures: boxes, $/h, $/day, $/1k requests, and what is missing. Rents nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.boot import image_gaps
from cluster.config import ClusterConfig
from cluster.deck import Deck
from cluster.offers import Candidate, query, rank, why_none


@dataclass(frozen=True, slots=True)
class Plan:
    """`candidates` has the offers `up` would ask for now, one for each slot that is empty; offers go fast."""

    config: ClusterConfig
    candidates: list[Candidate]
    standing: list[dict[str, Any]]
    credit_usd: float
    missing: list[str]
    notes: list[str]

    @property
    def usd_per_hour(self) -> float:
        return sum(c.usd_per_hour for c in self.candidates) + sum(float(s["usd_per_hour"]) for s in self.standing)

    def to_json(self) -> dict[str, Any]:
        hourly = self.usd_per_hour
        return {
            "cluster": self.config.name,
            "profile": self.config.profile,
            "would_rent": [c.to_json() for c in self.candidates],
            "standing": self.standing,
            "usd_per_hour": round(hourly, 4),
            "usd_per_day": round(hourly * 24, 2),
            "usd_per_day_at_most": round(
                min(self.config.boxes * self.config.max_usd_per_hour * 24, self.config.budget_usd_per_day), 2
            ),
            "credit_usd": round(self.credit_usd, 2),
            "credit_lasts_h": round(self.credit_usd / hourly, 1) if hourly else None,
            "missing": self.missing,
            "notes": self.notes,
        }


def make_plan(deck: Deck) -> Plan:
    """Asks the account and the market. Raises ProviderErrors."""
    config, state = deck.config, deck.store.state
    credit = deck.client.credit_usd()
    empty = [slot for slot in range(config.boxes) if state.in_slot(slot) is None]
    offers = deck.client.search(query(config, deck.profile)) if empty else []
    busy = {r.machine_id for r in state.live}
    found = [c for c in rank(offers, config, deck.profile) if c.offer.machine_id not in busy][: len(empty)]
    standing = [
        {"slot": r.slot, "phase": r.phase, "gpu": r.gpu, "contract_id": r.contract_id}
        | {"usd_per_hour": round(r.billed_usd_per_hour or r.expected_usd_per_hour, 4)}
        for r in state.live
    ]
    plan = Plan(config, found, standing, credit, _missing(deck, credit), _notes(config))
    if len(found) < len(empty):
        plan.missing.append(f"{len(empty) - len(found)} of {len(empty)} boxes: {why_none(config, offers)}")
    if plan.usd_per_hour * 24 > config.budget_usd_per_day:
        hours = config.budget_usd_per_day / plan.usd_per_hour
        plan.notes.append(f"the day's budget lasts {hours:.1f} h at this rate; watch ends the boxes then")
    return plan


def _missing(deck: Deck, credit: float) -> list[str]:
    config = deck.config
    missing = []
    if credit <= 0:
        missing.append("credit: the account is empty")
    missing += image_gaps(config)
    if deck.profile.architecture is None:
        missing.append(f"profile {config.profile}: its size is not known here, so what it fits cannot be computed")
    return missing


def _notes(config: ClusterConfig) -> list[str]:
    notes = []
    if not config.image.pinned:
        notes.append("image.name has no digest (name@sha256:...): what it holds may change")
    if config.ssh:
        notes.append("ssh: true publishes port 22 beside the TLS port")
    if config.interruptible:
        notes.append("interruptible: a box may be taken at any moment; the gateway's next tier answers meanwhile")
    if not config.machines.datacenter:
        notes.append(
            "a host can read the prompts its box answers; machines.datacenter: true rents certified hosts only"
        )
    return notes

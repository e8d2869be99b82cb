"""What `up` would do, in figures: boxes, $/h, $/day, $/1k requests, and what is missing. Rents nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cluster.boot import image_gaps
from cluster.config import ClusterConfig
from cluster.deck import Deck
from cluster.offers import EPSILON_USD, Candidate, query, rank, why_none
from cluster.renting import unwanted_machines
from cluster.state import Rental


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
    stays = [r for r in state.live if r.slot < config.boxes and not _above_cap(config, r)]
    empty = [slot for slot in range(config.boxes) if not any(r.slot == slot and r.holds_slot for r in stays)]
    offers = deck.client.search(query(config, deck.profile)) if empty else []
    busy = unwanted_machines(state, deck.now_s())
    found = [c for c in rank(offers, config, deck.profile) if c.offer.machine_id not in busy][: len(empty)]
    standing = [
        {"slot": r.slot, "phase": r.phase, "gpu": r.gpu, "contract_id": r.contract_id}
        | {"usd_per_hour": round(r.billed_usd_per_hour or r.expected_usd_per_hour, 4)}
        for r in stays
    ]
    plan = Plan(config, found, standing, credit, _missing(deck, credit), _notes(config) + _changes(deck))
    if len(found) < len(empty):
        plan.missing.append(f"{len(empty) - len(found)} of {len(empty)} boxes: {why_none(config, offers)}")
    spent_usd = state.spent_today_usd(deck.now_s())
    if spent_usd + plan.usd_per_hour > config.budget_usd_per_day:
        plan.missing.append(
            f"budget_usd_per_day: ${spent_usd:.2f} of ${config.budget_usd_per_day:.2f} are spent today, and "
            f"${plan.usd_per_hour:.2f}/h would not last another hour"
        )
    elif plan.usd_per_hour * 24 > config.budget_usd_per_day:
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


def _above_cap(config: ClusterConfig, rental: Rental) -> bool:
    return rental.billed_usd_per_hour > config.max_usd_per_hour + EPSILON_USD


def _changes(deck: Deck) -> list[str]:
    """Where the boxes there are differ from the file."""
    notes, config = [], deck.config
    for rental in deck.store.state.live:
        if rental.slot >= config.boxes:
            notes.append(f"slot {rental.slot}: `up` ends it: the file wants fewer boxes")
        elif _above_cap(config, rental):
            notes.append(f"slot {rental.slot}: `up` ends it: ${rental.billed_usd_per_hour:.3f}/h is above the cap")
        elif deck.model(rental) != deck.profile.name:
            notes.append(f"slot {rental.slot} was rented for {deck.model(rental)}; `upgrade` replaces it")
    return notes


def _notes(config: ClusterConfig) -> list[str]:
    notes = []
    if not config.image.pinned:
        notes.append("image.name has no digest (name@sha256:...): what it holds may change")
    provider = urlsplit(config.provider.url)
    if provider.scheme == "http" and provider.hostname not in ("localhost", "127.0.0.1", "::1"):
        notes.append("provider.url is plain HTTP: the account key crosses the network in the clear")
    if config.ssh:
        notes.append("ssh: true publishes port 22 beside the TLS port")
    if config.interruptible:
        notes.append("interruptible: a box may be taken at any moment; the gateway's next tier answers meanwhile")
    if not config.machines.datacenter:
        notes.append(
            "a host can read the prompts its box answers; machines.datacenter: true rents certified hosts only"
        )
    return notes

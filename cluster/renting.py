"""Fills a slot: search, intent, rental; and finds out what became of a rental whose answer was lost.

The order makes a crash harmless: the intent with its label is on the disk before the provider is asked, and a label
that has an instance is adopted, never rented again.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.boot import environment, rent_body
from cluster.deck import Deck
from cluster.errors import BidTooLow, BudgetReached, NothingWithin, OfferGone, ProviderDown, ProviderError
from cluster.offers import Candidate, query, rank, why_none
from cluster.state import Rental, State, new_label
from cluster.vast_types import Instance

TRIES = 5  # offers asked for in one go: they go fast, and each search counts


def settle_intents(deck: Deck, instances: Iterable[Instance]) -> None:
    """Adopt what exists under an intent's label; give an intent up when nothing has appeared for a while."""
    by_label = {instance.label: instance for instance in instances}
    for rental in deck.store.state.live:
        if rental.phase != "intent":
            continue
        if found := by_label.get(rental.label):
            deck.tell(f"slot {rental.slot}: found the rental whose answer was lost (contract {found.contract_id})")
            rental.contract_id = found.contract_id
            rental.enter("rented", deck.now_s())
        elif deck.now_s() - rental.since_s >= deck.config.timing.settle_s:
            void(deck, rental, "the rental was never made")
    deck.store.save()


def void(deck: Deck, rental: Rental, reason: str) -> None:
    """Nothing was rented under this label. Should it appear after all, the sweep destroys it."""
    rental.enter("ended", deck.now_s(), reason)
    rental.accrued_usd = 0.0
    deck.vault.forget(rental.label)


def rent(deck: Deck, slot: int) -> None:
    """Rent for an empty slot. Raises NothingWithin, BudgetReached, ProviderErrors other than ProviderDown."""
    check_budget(deck, 0.0)  # before a search is spent on it
    for candidate in _candidates(deck)[:TRIES]:
        check_budget(deck, candidate.usd_per_hour)
        if _rent(deck, slot, candidate):
            return
    raise NothingWithin(f"slot {slot}: the offers tried were all gone; run it again")


def rate_usd_per_hour(deck: Deck) -> float:
    """What everything that exists, or may exist, costs an hour."""
    return sum(max(r.billed_usd_per_hour, r.expected_usd_per_hour) for r in deck.store.state.live)


def check_budget(deck: Deck, extra_usd_per_hour: float) -> None:
    """The next hour with one box more must be within the day's budget. Raises BudgetReached."""
    spent, limit = deck.store.state.spent_today_usd(deck.now_s()), deck.config.budget_usd_per_day
    rate = rate_usd_per_hour(deck) + extra_usd_per_hour
    if spent + rate > limit:
        raise BudgetReached(
            f"budget_usd_per_day: ${spent:.2f} of ${limit:.2f} are spent today, and ${rate:.2f}/h would not last "
            "another hour; raise it, or wait for midnight UTC"
        )


def unwanted_machines(state: State, now_s: float) -> set[int]:
    """Those that have a box of ours, and those to be avoided for a while."""
    return {r.machine_id for r in state.live} | {m for m, until_s in state.avoid_until_s.items() if until_s > now_s}


def _candidates(deck: Deck) -> list[Candidate]:
    offers = deck.client.search(query(deck.config, deck.profile))
    unwanted = unwanted_machines(deck.store.state, deck.now_s())
    found = [c for c in rank(offers, deck.config, deck.profile) if c.offer.machine_id not in unwanted]
    if not found:
        raise NothingWithin(why_none(deck.config, offers))
    return found


def _rent(deck: Deck, slot: int, candidate: Candidate) -> bool:
    """False when this offer is not to be had. What may have been rented stays in the state."""
    now_s, offer = deck.now_s(), candidate.offer
    rental = Rental(
        label=new_label(deck.config.label_prefix, slot),
        slot=slot,
        since_s=now_s,
        created_s=now_s,
        accrued_until_s=now_s,
        offer_id=offer.offer_id,
        machine_id=offer.machine_id,
        gpu=offer.gpu_name,
        profile=deck.profile.name,
        expected_usd_per_hour=candidate.usd_per_hour,
        expected_tokens_per_s=candidate.speed.decode_tokens_per_s if candidate.speed else None,
        interruptible=candidate.bid_usd_per_hour is not None,
        billed_usd_per_hour=candidate.usd_per_hour,
    )
    token = deck.vault.new_join_token(rental.label)
    deck.store.state.rentals.append(rental)
    deck.store.save_first()
    env = environment(deck.config, rental.label, rental.server_name, token)
    try:
        rental.contract_id = deck.client.rent(offer.offer_id, rent_body(deck.config, candidate, rental.label, env))
    except OfferGone:
        void(deck, rental, "the offer was gone")
        return False
    except BidTooLow as error:  # refused, and yet there is a stopped instance that bills its disk
        rental.contract_id = error.contract_id
        deck.end(rental, "the bid was too low", "outbid")
        return False
    except ProviderDown as error:
        rental.enter("intent", deck.now_s())
        deck.tell(f"slot {slot}: {error.message}; looking for the label {rental.label} before anything else")
        return True
    except ProviderError as error:
        void(deck, rental, error.message)
        raise
    finally:
        deck.store.save()
    rental.enter("rented", deck.now_s())
    deck.store.save()
    kind = f"a bid of ${candidate.bid_usd_per_hour}/h" if rental.interruptible else "on demand"
    deck.tell(
        f"slot {slot}: rented a {offer.gpu_name} in {offer.place or '?'} (contract {rental.contract_id}, {kind}, "
        f"${candidate.usd_per_hour:.3f}/h)"
    )
    return True

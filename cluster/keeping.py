"""Brings one box from rented to ready, and looks after it from then on: join, model, measurement, health, certificate.

Each call does what can be done now and returns; the loop that calls it is `fleet.py`'s.
"""

from __future__ import annotations

import contextlib

from cluster import box_client
from cluster.boot import TLS_PORT
from cluster.box_client import BoxClient, NotAdmitted, NotReachable, Status
from cluster.deck import Deck
from cluster.errors import BoxFailed
from cluster.state import Rental
from cluster.vast_types import Instance

DAY_S = 86_400.0


def advance(deck: Deck, rental: Rental, instance: Instance) -> None:
    """One step for a box whose instance runs. Never raises for what is wrong with the box: it is ended instead."""
    port = instance.ports.get(f"{TLS_PORT}/tcp")
    if instance.host and port:
        rental.host, rental.port = instance.host, port
    try:
        if rental.phase == "rented" and rental.port:
            _join(deck, rental)
        if rental.phase == "joined":
            _wait_for_model(deck, rental)
        elif rental.phase == "ready":
            _look_after(deck, rental)
    except BoxFailed as error:
        deck.failed(rental, error.message)


def rotate(deck: Deck, rental: Rental) -> None:
    """Another key and certificate for a box that serves. Raises NotReachable, BoxFailed."""
    box = _client(deck, rental)
    status = box.status()
    key = deck.vault.next_key(rental.label)  # on the disk before the box has it: a crash loses neither
    box.rotate(key, _certificate(deck, rental, status.csr))
    deck.vault.commit_next(rental.label)
    _certified(deck, rental)


def _join(deck: Deck, rental: Rental) -> None:
    vault, address = deck.vault, deck.address(rental)
    token = vault.join_token(rental.label)
    try:
        if token:
            greeted = box_client.hello(address, token)
            key = vault.key(rental.label) or vault.new_key(rental.label)
            box_client.join(address, token, greeted, key, _certificate(deck, rental, greeted.csr))
        else:
            _status(deck, rental)
    except NotReachable:
        return  # still booting; the time limit is the fleet's
    except NotAdmitted:
        # it has joined before: with our key, if we crashed in between
        try:
            _status(deck, rental)
        except NotReachable:
            return
        except NotAdmitted:
            raise BoxFailed("the box has joined somebody else, or lost its disk") from None
    vault.drop_join_token(rental.label)
    _certified(deck, rental)
    rental.enter("joined", deck.now_s())
    deck.store.save()
    deck.tell(f"slot {rental.slot}: joined at {rental.host}:{rental.port}; certificate and key set")


def _wait_for_model(deck: Deck, rental: Rental) -> None:
    try:
        status = _status(deck, rental)
    except NotReachable:
        return
    except NotAdmitted:
        raise BoxFailed("the box no longer takes its key") from None
    if status.progress != rental.progress:
        rental.progress = status.progress
        deck.tell(f"slot {rental.slot}: {status.progress}")
    if status.ready:
        _measure(deck, rental)


def _measure(deck: Deck, rental: Rental) -> None:
    """Warm it up, and see that it is as fast as its GPU promises: a throttled or shared card costs the same."""
    wanted = deck.config.speed
    try:
        rental.tokens_per_s = _client(deck, rental).measure(deck.model(rental), wanted.requests, wanted.output_tokens)
    except (NotReachable, NotAdmitted) as error:
        raise BoxFailed(f"test requests failed: {type(error).__name__}") from error
    least = (rental.expected_tokens_per_s or 0.0) * wanted.min_share
    measured = f"{rental.tokens_per_s:.0f} tokens/s with {wanted.requests} requests at once"
    if rental.tokens_per_s < least:
        raise BoxFailed(f"too slow: {measured}, below {least:.0f}")
    rental.enter("ready", deck.now_s())
    deck.store.state.failures = 0
    deck.store.save()
    deck.tell(f"slot {rental.slot}: ready; {measured}")


def _look_after(deck: Deck, rental: Rental) -> None:
    now_s = deck.now_s()
    try:
        status = _status(deck, rental)
        well = status.ready
        rental.progress = status.progress
    except (NotReachable, NotAdmitted):
        well = False
    if well:
        rental.unhealthy_since_s = None
        old = now_s - rental.certified_s > deck.config.tls.days * DAY_S / 2
        if old or rental.certified_host != rental.host:
            with contextlib.suppress(NotReachable, NotAdmitted):  # then at the next look
                rotate(deck, rental)
        return
    unwell(deck, rental, "its TLS port does not say that it is ready")


def unwell(deck: Deck, rental: Rental, why: str) -> None:
    """Out of the members at once, replaced when it lasts."""
    now_s = deck.now_s()
    rental.unhealthy_since_s = rental.unhealthy_since_s or now_s
    if now_s - rental.unhealthy_since_s >= deck.config.timing.unhealthy_s:
        deck.end(rental, f"unhealthy: {why}", "network")


def up_since_before(deck: Deck, rental: Rental, span_s: float) -> bool:
    """Whether the box's program has been running for longer than `span_s`: it has not been restarted yet."""
    try:
        return _status(deck, rental).up_s > span_s
    except (NotReachable, NotAdmitted):
        return False


def _status(deck: Deck, rental: Rental) -> Status:
    return _client(deck, rental).status()


def _client(deck: Deck, rental: Rental) -> BoxClient:
    """With the key the box takes. A rotation that was cut off may have left it with the next one."""
    vault, address = deck.vault, deck.address(rental)
    pending = vault.pending_key(rental.label)
    if pending:
        with contextlib.suppress(NotAdmitted, NotReachable):
            BoxClient(address, vault.ca_file, pending).status()
            vault.commit_next(rental.label)
    return BoxClient(address, vault.ca_file, vault.key(rental.label))


def _certificate(deck: Deck, rental: Rental, csr: str) -> str:
    return deck.vault.certify(csr, rental.server_name, rental.host, deck.config.tls.days)


def _certified(deck: Deck, rental: Rental) -> None:
    rental.certified_host, rental.certified_s = rental.host, deck.now_s()
    deck.store.save()

"""The loops: `up` until all serve, `watch` for ever, `down` until nothing bills. Each may die and be run again.

Knows the order of a start and of an end; what one look does is `fleet.py`'s.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field

from cluster.boot import image_gaps
from cluster.box_client import NotAdmitted, NotReachable
from cluster.config import ClusterConfig
from cluster.deck import Deck, Tell
from cluster.errors import (
    BadKey,
    BoxFailed,
    BudgetReached,
    Busy,
    ClusterError,
    NeverUp,
    NoCredit,
    NothingWithin,
    NotWritten,
    ProviderDown,
    ProviderError,
    SearchQuota,
    StillBilling,
)
from cluster.exposition import Exposition, render, samples
from cluster.fleet import Fleet
from cluster.keeping import rotate, up_since_before
from cluster.offers import check_gpu_names, profile_of
from cluster.state import WATCH_LOCK, Rental, Store, only_one
from cluster.vastai import VastClient, read_key
from cluster.vault import Vault
from models.errors import ConfigError

PROVIDER_FAILURES = 10  # in a row, until `up` gives up; what is rented stays in the state and is found again
LOCK_WAIT_S = 300.0  # the longest look of `watch` is at a box that hangs while it is measured: four minutes
DOWN_LIMIT_S = 900.0
REBOOT_S = 120.0  # until a restarted container's door is expected to have gone down
CLEAN_LOOKS = 2  # listings in a row without anything of ours
GLANCE_S = 0.5  # `status` holds the watch's lock for a moment to see whether anybody does
SKEW_TOLD_S = 60.0
SAME_TROUBLE_S = 3600.0


def open_deck(config: ClusterConfig, tell: Tell) -> Deck:
    """Raises ConfigError for a key or a profile that is not there, StateBroken for a state that cannot be read."""
    check_gpu_names(config)
    key = read_key(config.provider.key_file, os.environ)
    client = VastClient(key, config.provider.url, spacing=config.provider.spacing)
    return Deck(config, profile_of(config), client, Store(config.folder), Vault(config.folder), tell)


def up(deck: Deck) -> None:
    """Until every slot serves. Raises what stands in the way, once the boxes that can be brought up serve."""
    _check_image(deck.config)
    with only_one(deck.config.folder, LOCK_WAIT_S, deck.tell):
        if not deck.store.exists and (labelled := _labelled(deck)):
            raise NeverUp(
                f"{labelled} boxes of this name bill that {deck.config.folder.resolve()} knows nothing of: run `up` "
                "where they were rented, or `down` first, which ends them"
            )
        deck.store.reload()
        deck.store.state.closed, deck.store.state.pause_until_s = False, 0.0
        deck.store.save()
        deck.vault.prepare(deck.config.name)
        _check_account(deck)
        fleet = Fleet(deck)
        served = {r.label for r in deck.store.state.live if r.serves}
        _until_complete(fleet)
        for rental in deck.store.state.live:
            if rental.label in served and rental.serves:
                _renew(deck, rental)
            if deck.model(rental) != deck.profile.name:
                deck.tell(f"slot {rental.slot} was rented for {deck.model(rental)}, and stays; `upgrade` replaces it")
        deck.publish()


def _renew(deck: Deck, rental: Rental) -> None:
    """Each `up` gives boxes that served before new keys; one that cannot be reached keeps its own."""
    try:
        rotate(deck, rental)
    except (NotReachable, NotAdmitted, BoxFailed) as error:
        deck.tell(f"slot {rental.slot}: keeps its key for now ({type(error).__name__})")


def restart(deck: Deck, slot: int) -> None:
    """Restart a slot's container on its machine: drained, then measured again. Its disk, and so its identity, stays."""
    with only_one(deck.config.folder, LOCK_WAIT_S, deck.tell):
        deck.store.reload()
        rental = deck.store.state.in_slot(slot)
        if rental is None or rental.contract_id is None:
            raise ClusterError(f"slot {slot} has no box to restart")
        _out_of_the_pool(deck, rental)
        deck.client.reboot(rental.contract_id)
        at_s = time.monotonic()
        while time.monotonic() - at_s < REBOOT_S and up_since_before(deck, rental, time.monotonic() - at_s):
            threading.Event().wait(deck.config.timing.poll_s)
        _until_complete(Fleet(deck))


def upgrade(deck: Deck) -> None:
    """Replace the boxes one after the other by new ones with the image the file names now.

    With one box its tier is empty meanwhile, and the gateway's next tier answers.
    """
    _check_image(deck.config)
    with only_one(deck.config.folder, LOCK_WAIT_S, deck.tell):
        deck.store.reload()
        deck.store.state.pause_until_s = 0.0
        _check_account(deck)
        for rental in [r for r in deck.store.state.live if r.serves]:
            if not rental.serves:
                continue  # lost while another was replaced, and replaced itself
            rental.enter("leaving", deck.now_s(), "upgrade")
            deck.store.save()
            _until_complete(Fleet(deck))


def _out_of_the_pool(deck: Deck, rental: Rental) -> None:
    rental.enter("joined" if rental.phase == "ready" else rental.phase, deck.now_s())
    deck.store.save()
    deck.publish()
    threading.Event().wait(deck.config.timing.drain_s)


def _until_complete(fleet: Fleet) -> None:
    deck, unanswered = fleet.deck, 0
    trouble: ClusterError | None = None
    while True:
        try:
            fleet.tick()
            unanswered = 0
        except ProviderDown as error:
            unanswered += 1
            deck.tell(f"the provider does not answer ({unanswered}): {error.message}")
            if unanswered >= PROVIDER_FAILURES:
                raise
        except (NothingWithin, BudgetReached, SearchQuota, NoCredit, BoxFailed) as error:
            trouble = error
        if deck.store.unwritten:
            raise NotWritten(deck.store.unwritten)
        if fleet.complete:
            return
        if trouble is not None and all(rental.serves for rental in deck.store.state.live):
            left = len(deck.store.state.live)
            deck.tell(f"{left} of {deck.config.boxes} boxes serve{', and go on billing' if left else ''}")
            raise trouble
        threading.Event().wait(deck.config.timing.poll_s)


def _check_image(config: ClusterConfig) -> None:
    """A box without the code would bill until its time to boot is over, and so would the next. Raises ConfigError."""
    if gaps := image_gaps(config):
        raise ConfigError("; ".join(gaps), param="image")


def _check_account(deck: Deck) -> None:
    credit = deck.client.credit_usd()
    if abs(deck.client.skew_s) > SKEW_TOLD_S:
        deck.tell(f"this machine's clock is {-deck.client.skew_s:.0f} s off the provider's; the provider's is used")
    if credit <= 0:
        raise NoCredit("the account has no credit; add some at vast.ai, then run the same command again")


@dataclass(slots=True)
class Watcher:
    """The service. The state is read anew for each look, so `up` and `down` may be run beside it."""

    deck: Deck
    stop: threading.Event
    exposition: Exposition | None = None
    _alarmed_s: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Raises ConfigError for a file whose boxes could never boot, NeverUp without an `up`, Busy beside another."""
        _check_image(self.deck.config)
        if not self.deck.store.exists:
            raise _never_up(self.deck)
        with only_one(self.deck.config.folder, GLANCE_S, name=WATCH_LOCK):
            self._keep()

    def _keep(self) -> None:
        config, said = self.deck.config, ""
        self.deck.tell(f"watching '{config.name}' every {config.timing.poll_s:g} s; boxes stay when this stops")
        while not self.stop.is_set():
            trouble = self._look()
            if trouble is not None and trouble.message != said:
                self.deck.tell(trouble.message)
                self._alarm(trouble)
            said = "" if trouble is None else trouble.message
            self.stop.wait(config.timing.poll_s)

    def _alarm(self, trouble: ClusterError) -> None:
        """Each kind once in a while: what cannot be had is tried again every few minutes, and fails again."""
        now_s = time.monotonic()
        if now_s - self._alarmed_s.get(trouble.code, float("-inf")) >= SAME_TROUBLE_S:
            self._alarmed_s[trouble.code] = now_s
            self.deck.raise_alarm("trouble", trouble.message)

    def _look(self) -> ClusterError | None:
        """One tick; what stood in its way."""
        deck = self.deck
        try:
            with only_one(deck.config.folder):
                if not deck.store.exists:
                    return _never_up(deck)
                deck.store.reload()
                deck.vault.prepare(deck.config.name)
                listed = Fleet(deck, closing=deck.store.state.closed).tick()
                if self.exposition is not None:
                    self.exposition.text = render(samples(deck.config, deck.store.state, listed, deck.now_s()))
        except Busy:
            return None  # `up` or `down` is at work
        except ClusterError as error:
            return error
        except OSError as error:
            return NotWritten(f"this machine: {error}")
        return NotWritten(f"{deck.store.unwritten}; nothing is rented") if deck.store.unwritten else None


def _never_up(deck: Deck) -> NeverUp:
    labelled = 0
    with contextlib.suppress(ProviderError):
        labelled = _labelled(deck)
    stands = f" Meanwhile {labelled} of this name bill; `down` ends them" if labelled else ""
    return NeverUp(
        f"no `up` was run in {deck.config.folder.resolve()}: run it first, or watch where it was run.{stands}"
    )


def _labelled(deck: Deck) -> int:
    """Without a state every box of the name is a stranger's: from a wrong folder, what serves would be ended."""
    return sum(i.label.startswith(deck.config.label_prefix) for i in deck.client.instances())


def down(deck: Deck, limit_s: float = DOWN_LIMIT_S) -> list[int]:
    """End everything and see that it ended: two listings without anything of ours, and every contract asked for.

    Returns the contracts that were ended. Raises StillBilling with what is left when that takes more than `limit_s`.
    """
    with only_one(deck.config.folder, LOCK_WAIT_S, deck.tell):
        deck.store.reload()
        deck.store.state.closed = True
        deck.store.save()
        fleet = Fleet(deck, closing=True)
        known = {r.contract_id for r in deck.store.state.live if r.contract_id is not None}
        clean, began_s, last = 0, time.monotonic(), ""
        while clean < CLEAN_LOOKS:
            try:
                listed = fleet.tick()
                known |= {i.contract_id for i in listed}
                clean = 0 if listed or deck.store.state.live else clean + 1
            except BadKey:
                raise
            except ClusterError as error:
                clean, last = 0, error.message
                deck.tell(f"not yet: {error.message}")
            if clean < CLEAN_LOOKS:
                if time.monotonic() - began_s > limit_s:
                    raise StillBilling(_what_is_left(deck, last))
                threading.Event().wait(deck.config.timing.poll_s)
        for contract in known:
            if deck.client.instance(contract) is not None:
                raise StillBilling(f"contract {contract} still exists although no listing shows it; run down again")
        if deck.store.unwritten:
            raise NotWritten(
                f"nothing bills, but {deck.store.unwritten}: run down again when there is room, or `watch` rents anew"
            )
        return sorted(known)


def _what_is_left(deck: Deck, last: str) -> str:
    contracts = [str(r.contract_id or r.label) for r in deck.store.state.live]
    return (
        f"could not prove that nothing bills: {', '.join(contracts) or 'the listing'} ({last}). Run down again, or "
        "destroy them by hand at https://cloud.vast.ai/instances/"
    )

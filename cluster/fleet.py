"""Makes what exists like what the file says, one look at a time. `up`, `watch` and `down` are loops around `tick`.

Everything it decides follows from the state file and one listing of the account, so any process can take over from any
other that died. Only instances whose label starts with the cluster's prefix are ever touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.deck import Deck
from cluster.errors import BoxFailed, BudgetReached, NoCredit, NothingWithin, ProviderError, Refused, SearchQuota
from cluster.keeping import advance, unwell
from cluster.offers import EPSILON_USD
from cluster.renting import rate_usd_per_hour, rent, settle_intents
from cluster.state import Phase, Rental
from cluster.vast_types import Instance

LEAVE_BEFORE_END_S = 900.0  # a host that ends the contract is left this long before
BUDGET_MARGIN_S = 60.0
RETRY_S = 120.0
DAY_S = 86_400.0


@dataclass(slots=True)
class Fleet:
    """`closing`: nothing is rented, and whatever is found is ended."""

    deck: Deck
    closing: bool = False

    def tick(self) -> list[Instance]:
        """One look, one step for each box. Returns the cluster's instances as listed. Raises ClusterErrors."""
        deck = self.deck
        prefix = deck.config.label_prefix
        listed = [i for i in deck.client.instances() if i.label.startswith(prefix)]
        settle_intents(deck, listed)
        by_contract = {i.contract_id: i for i in listed}
        for rental in deck.store.state.live:
            if rental.contract_id is not None:
                before = rental.phase
                self._look(rental, by_contract.get(rental.contract_id))
                self._tell_change(rental, before)
        self._sweep(listed)
        self._hold_budget()
        if self.closing:
            self._close()
        deck.publish()
        self._end_leaving()
        deck.store.state.forget_old(deck.now_s())
        deck.store.save()
        if not self.closing and not deck.store.unwritten:
            self._fill()
        return listed

    @property
    def complete(self) -> bool:
        """As many boxes serve as the file says, and nothing is on its way out."""
        live = self.deck.store.state.live
        return len(live) == self.deck.config.boxes and all(r.serves and r.unhealthy_since_s is None for r in live)

    def _look(self, rental: Rental, instance: Instance | None) -> None:
        deck, state = self.deck, self.deck.store.state
        state.accrue(rental, deck.now_s())
        if instance is None:
            instance = self._second_look(rental)
            if instance is None:
                return
        rental.missing_since_s = None
        rental.billed_usd_per_hour = instance.billed_usd_per_hour
        if instance.running and not instance.usd_per_hour:  # nothing runs for nothing: its price could not be read
            rental.billed_usd_per_hour = rental.expected_usd_per_hour
        if rental.phase in ("leaving", "ending"):
            return
        if self._fault(rental, instance):
            return
        if instance.running:
            advance(deck, rental, instance)
        elif rental.serves:
            unwell(deck, rental, f"its instance is '{instance.status}'")

    def _tell_change(self, rental: Rental, before: Phase) -> None:
        """What one look did to a box, for those who want to be told."""
        if rental.phase == before:
            return
        if rental.phase == "ready":
            before_it = [r for r in self.deck.store.state.rentals if r.slot == rental.slot and r is not rental]
            again = any(r.tokens_per_s is not None for r in before_it)  # measured, so it served
            speed = f"{rental.gpu} serves, {rental.tokens_per_s or 0:.0f} tokens/s"
            self.deck.raise_alarm("box_replaced" if again else "box_ready", speed, rental)
        elif rental.phase in ("ending", "ended") and before in ("rented", "joined", "ready"):
            self.deck.raise_alarm("box_lost" if before == "ready" else "box_failed", rental.reason, rental)

    def _second_look(self, rental: Rental) -> Instance | None:
        """One listing may miss an instance. Gone is what is missing twice, for a while, and asked for by number."""
        deck, now_s = self.deck, self.deck.now_s()
        assert rental.contract_id is not None  # the caller looked
        found = deck.client.instance(rental.contract_id)
        if found is not None:
            return found
        rental.missing_since_s = rental.missing_since_s or now_s
        if rental.phase == "ending" or now_s - rental.missing_since_s >= deck.config.timing.missing_s:
            deck.client.destroy(rental.contract_id)
            self._ended(rental, rental.reason or "lost: the provider no longer knows it")
        return None

    def _fault(self, rental: Rental, instance: Instance) -> bool:
        """Whether this instance must go, whatever its box says."""
        deck, timing, now_s = self.deck, self.deck.config.timing, self.deck.now_s()
        waited_s = now_s - rental.since_s
        cap = deck.config.max_usd_per_hour
        if instance.usd_per_hour > cap + EPSILON_USD:
            deck.end(rental, f"charged ${instance.usd_per_hour:.3f}/h, above the cap of ${cap}/h", "price")
        elif instance.paused:
            # it would bill its disk, and come back one day beside its replacement
            deck.end(rental, "outbid: the instance was paused", "outbid")
        elif instance.dead:
            text = instance.status_msg.splitlines()[0][:120] if instance.status_msg else instance.status
            deck.failed(rental, f"the instance is dead: {text}")
        elif rental.phase == "rented" and waited_s > timing.boot_s:
            why = "not reachable" if instance.running else f"still '{instance.status}'"
            deck.failed(rental, f"{why} {timing.boot_s:.0f} s after it was rented{self._last_words(rental)}")
        elif rental.phase == "joined" and waited_s > timing.model_s:
            deck.failed(rental, f"no model after {timing.model_s:.0f} s ({rental.progress})")
        elif instance.end_at_s is not None and instance.end_at_s - now_s < LEAVE_BEFORE_END_S + timing.drain_s:
            self._leave(rental, "the host ends the contract soon")
        else:
            return False
        return True

    def _last_words(self, rental: Rental) -> str:
        """What the bootstrap said last, when it said that it failed."""
        try:
            text = self.deck.client.logs(rental.contract_id or 0, wait_s=self.deck.config.timing.poll_s * 3)
        except ProviderError:
            return ""
        failed = [line for line in text.splitlines() if "FAILED" in line]
        return f": {failed[-1].strip()[:200]}" if failed else ""

    def _sweep(self, listed: list[Instance]) -> None:
        """Destroy what has our label and no rental of ours: a lost answer that came true late, or a lost state file."""
        known = {r.contract_id for r in self.deck.store.state.live}
        for instance in listed:
            if instance.contract_id not in known:
                self.deck.tell(f"contract {instance.contract_id} ({instance.label}) belongs to no slot: destroyed")
                self.deck.client.destroy(instance.contract_id)

    def _hold_budget(self) -> None:
        deck = self.deck
        spent = deck.store.state.spent_today_usd(deck.now_s())
        soon = rate_usd_per_hour(deck) * (deck.config.timing.poll_s + BUDGET_MARGIN_S) / 3600
        if spent + soon < deck.config.budget_usd_per_day:
            return
        over = [rental for rental in deck.store.state.live if rental.phase not in ("intent", "ending")]
        for rental in over:
            deck.end(rental, f"budget: ${spent:.2f} spent today")
        if over:
            budget = f"${spent:.2f} of ${deck.config.budget_usd_per_day} spent today: {len(over)} boxes end"
            deck.raise_alarm("budget_reached", budget)

    def _close(self) -> None:
        for rental in self.deck.store.state.live:
            if rental.serves:
                self._leave(rental, "down")
            elif rental.phase in ("rented", "joined"):
                self.deck.end(rental, "down")

    def _leave(self, rental: Rental, reason: str) -> None:
        rental.enter("leaving", self.deck.now_s(), reason)
        self.deck.tell(f"slot {rental.slot}: {reason}; finishing its requests")
        self.deck.raise_alarm("box_left", reason, rental)

    def _end_leaving(self) -> None:
        deck, now_s = self.deck, self.deck.now_s()
        for rental in deck.store.state.live:
            if rental.phase == "leaving" and now_s - rental.since_s >= deck.config.timing.drain_s:
                deck.end(rental, rental.reason)
            if rental.phase == "ending" and rental.contract_id is not None:
                deck.client.destroy(rental.contract_id)
                if deck.client.instance(rental.contract_id) is None:
                    self._ended(rental, rental.reason)

    def _ended(self, rental: Rental, reason: str) -> None:
        deck = self.deck
        deck.store.state.accrue(rental, deck.now_s())
        rental.billed_usd_per_hour = 0.0
        rental.enter("ended", deck.now_s(), reason)
        deck.store.save()
        deck.vault.forget(rental.label)
        deck.tell(f"slot {rental.slot}: contract {rental.contract_id} is gone (${rental.accrued_usd:.3f})")

    def _fill(self) -> None:
        deck, state = self.deck, self.deck.store.state
        for rental in state.live:
            # an intent is settled first: without a contract it could never be seen to end
            if rental.slot >= deck.config.boxes and rental.holds_slot and rental.phase != "intent":
                self._leave(rental, "the file wants fewer boxes")
        if deck.now_s() < state.pause_until_s:
            return
        if state.failures >= deck.config.timing.failures:
            state.failures, state.pause_until_s = 0, deck.now_s() + deck.config.timing.pause_s
            deck.store.save()
            last = max((r for r in state.rentals if r.reason), key=lambda r: r.since_s)
            raise BoxFailed(f"{deck.config.timing.failures} boxes in a row did not come up; the last: {last.reason}")
        for slot in range(deck.config.boxes):
            if state.in_slot(slot) is None:
                self._rent(slot)

    def _rent(self, slot: int) -> None:
        """Searches are counted by the provider, so what could not be had is not asked for again at once."""
        deck, now_s = self.deck, self.deck.now_s()
        try:
            rent(deck, slot)
        except (NothingWithin, BudgetReached, NoCredit, SearchQuota, Refused) as error:
            midnight_s = (now_s // DAY_S + 1) * DAY_S
            deck.store.state.pause_until_s = midnight_s if isinstance(error, SearchQuota) else now_s + RETRY_S
            deck.store.save()
            raise

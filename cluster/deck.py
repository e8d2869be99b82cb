"""What every part of the controller works with: the file, the profile, the provider, state, secrets, and a voice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.alarms import Alarm, Event, silent
from cluster.box_client import Address
from cluster.config import ClusterConfig
from cluster.errors import NotWritten
from cluster.members import FILE, Member, publish
from cluster.state import Rental, Store
from cluster.vastai import VastClient
from cluster.vault import Vault
from models.local.profiles import Profile

Tell = Callable[[str], None]
AVOID_S = {"outbid": 900.0, "network": 86_400.0, "price": 7 * 86_400.0}
"""How long a machine is not rented again, by what was wrong with it."""


@dataclass(frozen=True, slots=True)
class Deck:
    config: ClusterConfig
    profile: Profile
    client: VastClient
    store: Store
    vault: Vault
    tell: Tell
    alarm: Callable[[Alarm], None] = silent

    def now_s(self) -> float:
        return self.client.now_s()

    def address(self, rental: Rental) -> Address:
        return Address(rental.host, rental.port, rental.server_name)

    def model(self, rental: Rental) -> str:
        """What the box answers to: it was rented for that, whatever the file names by now."""
        return rental.profile or self.profile.name

    def end(self, rental: Rental, reason: str, avoid: str = "") -> None:
        """It must go. Saved at once: a crash from here on still destroys it."""
        state, now_s = self.store.state, self.now_s()
        if avoid:
            state.avoid_until_s[rental.machine_id] = now_s + AVOID_S[avoid]
        rental.enter("ending", now_s, reason)
        self.store.save()
        self.tell(f"slot {rental.slot}: {reason}")

    def failed(self, rental: Rental, reason: str) -> None:
        """A box that did not come up, or not well enough, or is dead: its machine is avoided for a day."""
        if not rental.serves:  # one that did come up says nothing of those to come
            self.store.state.failures += 1
        self.end(rental, reason, "network")

    def raise_alarm(self, event: Event, text: str, rental: Rental | None = None) -> None:
        name, now_s = self.config.name, self.now_s()
        if rental is None:
            self.alarm(Alarm(event, name, text, now_s))
        else:
            text = f"slot {rental.slot}: {text}"
            self.alarm(Alarm(event, name, text, now_s, rental.slot, rental.gpu, rental.contract_id))

    def publish(self) -> None:
        """Let the gateway know who serves."""
        members = [
            Member(
                url=f"{self.address(r).url}/v1",
                model=self.model(r),
                key_file=str(self.vault.key_file(r.label).resolve()),
                ca_file=str(self.vault.ca_file.resolve()),
            )
            for r in self.store.state.rentals
            if r.serves and r.unhealthy_since_s is None
        ]
        try:
            written = publish(self.config.folder / FILE, members, self.now_s())
        except NotWritten as error:  # a box that must go does so all the same; the gateway's breakers see it
            self.store.not_written[FILE] = error.message
            return
        self.store.not_written.pop(FILE, None)
        if written:
            self.tell(f"members: {len(members)} serving")

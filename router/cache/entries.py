"""A cached answer: what was asked, where it may be served, what it cost, and how it has done since.

`Entry` never changes once written; `Standing` is what serving it teaches. Knows neither index nor file.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final, NewType

from models.types import Usage

EntryId = NewType("EntryId", int)

_ROW_BYTES: Final = 512  # what an entry takes besides text, body and vector: names, numbers, three index entries


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an answer may be served. Equal or not at all; nothing here is compared by meaning.

    partition: a hash over everything but the compared text (requested model, system prompt, tools, earlier turns, ...).
    namespace: a name that is declared to be shared between tenants; empty for what belongs to one tenant alone.
    """

    tenant: str
    partition: bytes
    namespace: str = ""

    def admits(self, other: Scope) -> bool:
        """Whether what was written in `other` may be served here: the last check, whatever the index has said."""
        if (self.partition, self.namespace) != (other.partition, other.namespace):
            return False
        return bool(self.namespace) or self.tenant == other.tenant

    @property
    def key(self) -> bytes:
        """The index's partition: no two scopes that must not meet have the same."""
        owner = f"n{self.namespace}" if self.namespace else f"t{self.tenant}"
        return len(owner).to_bytes(4) + owner.encode() + self.partition


@dataclass(frozen=True, slots=True)
class Entry:
    """`text` is what is compared; `body` the completion's JSON, empty where only the rest was asked for."""

    id: EntryId
    scope: Scope
    requested_model: str
    tier: str  # that wrote it
    model: str
    text: str
    body: bytes
    usage: Usage
    cost_nusd: int  # what a hit saves
    created_at_s: float  # UTC epoch
    ttl_s: float  # from creation, whatever its use

    @property
    def expires_at_s(self) -> float:
        return self.created_at_s + self.ttl_s


@dataclass(slots=True)
class Standing:
    """hits and saved_nusd: what it was served for. observations: (similarity, right) of labelled comparisons."""

    hits: int = 0
    saved_nusd: int = 0
    quarantined: bool = False  # kept for what it taught, never served
    observations: list[tuple[float, bool]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry near enough to be looked at, for the verifier to judge. `entry.body` is empty: `get` has it."""

    entry: Entry
    similarity: float
    age_s: float
    observations: tuple[tuple[float, bool], ...]


def new_id() -> EntryId:
    """Random, so that no id is ever used twice, not even when the last writes before a crash were lost."""
    return EntryId(secrets.randbits(63))


def id_of(request_id: str) -> EntryId:
    """The entry made from a request: whoever knows the request can name it. Request ids are never used twice."""
    return EntryId(int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest()) >> 1)


def public(entry_id: EntryId) -> str:
    """As headers, the admin API and `Recalled.entry_id` write it."""
    return f"{entry_id:016x}"


def from_public(text: str) -> EntryId | None:
    """None for what is no id."""
    try:
        value = int(text, 16)
    except ValueError:
        return None
    return EntryId(value) if 0 <= value < 1 << 63 else None


def stored_bytes(entry: Entry, dim: int) -> int:
    """What the entry takes in the file, as it counts against the bound."""
    return len(entry.body) + len(entry.text.encode()) + 2 * dim + _ROW_BYTES

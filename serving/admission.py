"""Who is asking, and may they? Keys, model permissions and rate limits, before anything is parsed or spent.

Knows no HTTP beyond the Authorization header's text.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from models.errors import Forbidden, RateLimited, Unauthenticated
from serving.capacity import Capacity
from serving.ledger.allowance import Admission as Slot
from serving.ledger.allowance import Allowance
from serving.ledger.grants import Bucket
from serving.ledger.keys import ApiKey, KeyTable, Limits
from serving.wire.options import Options
from serving.wire.request import Asked

ANONYMOUS = ApiKey(id="", tenant="default")
OPERATOR = ApiKey(id="operator", tenant="", role="admin", limits=Limits(models=()))
FEEDBACK_PER_MINUTE = 600  # of a key whose requests have no limit
HEADER_NAMES = {"requests": "requests", "tokens": "tokens"}


@dataclass(slots=True)
class Principal:
    """The caller of one request, and the slot it holds while it runs."""

    key: ApiKey
    slot: Slot | None = None

    @property
    def tenant(self) -> str:
        return self.key.tenant

    @property
    def key_id(self) -> str:
        return self.key.id

    @property
    def defaults(self) -> Options:
        return self.key.defaults


@dataclass(slots=True)
class FeedbackLimit:
    """How often each key may say what it thinks of answers: as often as it may ask, and apart from its asking, so that
    every answer can be spoken of. Each time costs looks into the ledger, and for an unknown request up to two seconds
    of them. In this replica alone: it bounds a flood, and need not be exact."""

    clock_s: Callable[[], float] = time.monotonic
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    def take(self, key: ApiKey) -> None:
        """Raises RateLimited."""
        limit, now_s = key.limits.requests_per_minute or FEEDBACK_PER_MINUTE, self.clock_s()
        bucket = self._buckets.setdefault(key.id, Bucket(limit, limit, now_s))
        bucket.per_minute = limit  # a key's limits may be changed
        if bucket.fill(now_s, 0) < 1:
            wait_s = max(1.0, bucket.wait_s(1))
            text = f"this key may send feedback {limit} times a minute: try again in {wait_s:.0f} s"
            raise RateLimited(text, retry_after_s=wait_s)
        bucket.level -= 1


@dataclass(frozen=True, slots=True)
class Admission:
    """The door. Without `required`, requests without one of our keys belong to the tenant `default`."""

    table: KeyTable
    required: bool
    allowance: Allowance
    capacity: Capacity
    operator_token: str = ""  # of this machine's command line; it may delete and look, and asks no model
    feedback: FeedbackLimit = field(default_factory=FeedbackLimit)

    def authenticate(self, authorization: str | None) -> Principal:
        """Raises Unauthenticated. SDKs always send some key: one that is not ours counts as none."""
        scheme, _, secret = (authorization or "").partition(" ")
        given = secret.strip() if scheme.lower() == "bearer" else ""
        if self.operator_token and hmac.compare_digest(given.encode(), self.operator_token.encode()):
            return Principal(OPERATOR)
        if given.startswith("fk-") or (given and self.required):
            return Principal(self.table.check(given))
        if self.required:
            raise Unauthenticated("no API key was sent; add the header 'Authorization: Bearer fk-...'")
        return Principal(ANONYMOUS)

    async def admit(self, principal: Principal, asked: Asked) -> None:
        """Raises Forbidden for a model the key may not ask for, RateLimited over its limits."""
        await self.admit_to(principal, asked.model, asked.prompt_tokens)

    async def admit_to(self, principal: Principal, model: str, tokens: int) -> None:
        """`tokens` is an estimate of the prompt. Raises as `admit` does."""
        if not principal.key.may_ask(model):
            allowed = ", ".join(principal.key.limits.models or ())
            raise Forbidden(f"this key may not ask for '{model}'; it may ask for: {allowed}", param="model")
        principal.slot = await self.allowance.admit(principal.key, tokens)

    def left(self, principal: Principal, tokens: int | None = None) -> None:
        if principal.slot is not None:
            self.allowance.leave(principal.slot, tokens)

    def headers(self, principal: Principal) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI names them; nothing for a key without limits."""
        found: dict[str, str] = {}
        for standing in self.allowance.standing(principal.key):
            name = HEADER_NAMES.get(standing.name)
            if name is not None:
                found[f"x-ratelimit-limit-{name}"] = str(standing.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(standing.left)
                found[f"x-ratelimit-reset-{name}"] = f"{standing.reset_s:.0f}s"
        return found

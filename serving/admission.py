"""Who is asking, and may they? Keys, model permissions and rate limits, before anything is parsed or spent.

Knows no HTTP beyond the Authorization header's text.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from models.errors import Forbidden, Unauthenticated
from serving.capacity import Capacity
from serving.ledger.allowance import Admission as Slot
from serving.ledger.allowance import Allowance
from serving.ledger.keys import ApiKey, KeyTable, Limits
from serving.wire.options import Options
from serving.wire.request import Asked

ANONYMOUS = ApiKey(id="", tenant="default")
OPERATOR = ApiKey(id="operator", tenant="", role="admin", limits=Limits(models=()))
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


@dataclass(frozen=True, slots=True)
class Admission:
    """The door. Without `required`, requests without one of our keys belong to the tenant `default`."""

    table: KeyTable
    required: bool
    allowance: Allowance
    capacity: Capacity
    operator_token: str = ""  # of this machine's command line; it may delete and look, and asks no model

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

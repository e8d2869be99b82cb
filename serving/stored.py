"""What callers and operators may do to stored answers over HTTP: say that one was wrong, and delete.

    POST   /v1/farthing/feedback  {"request_id": "req_...", "good": false}
    DELETE /v1/farthing/cache?entry=ID | namespace=NAME | tenant=NAME | all=true

A tenant's own key reaches the tenant's own answers; a key with the role admin reaches all. Without authentication (on
loopback) everybody is the operator. Knows no HTTP framework.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import parse_qsl

import orjson

from models.errors import BadRequest, Forbidden, ModelNotFound
from models.types import Json
from serving.admission import Admission, Principal
from serving.cache.exact import ExactCache
from serving.ledger.store import Store
from serving.semantic import RouterCalls
from serving.wire.fields import refuse

LOOKS_FOR_ROW = 20  # a row reaches the ledger a moment after its answer
LOOK_EVERY_S = 0.1
ENTRY_ID_CHARS = 16  # of an answer found by meaning, also in the row of who shared it; an exact one's key has 64
KINDS = ("entry", "namespace", "tenant", "all")


@dataclass(frozen=True, slots=True)
class StoredAnswers:
    """One per gateway replica."""

    exact: ExactCache | None
    router: RouterCalls | None  # None without a semantic cache
    ledger: Store
    door: Admission

    async def feedback(self, principal: Principal, raw: bytes) -> Json:
        """Raises ModelNotFound for a request that is not the tenant's. What was bad is gone when this returns."""
        request_id, good = _feedback(raw)
        found = await self._found(request_id)
        if found is None or not self._may(principal, found[0]):
            raise ModelNotFound(f"there is no request '{request_id}' of yours in the ledger", param="request_id")
        dropped = False if good else await self._drop(request_id, *found)
        return {"request_id": request_id, "good": good, "dropped": dropped}

    async def _drop(self, request_id: str, tenant: str, cache: str, entry: str) -> bool:
        """The answer that was served, or what was stored from it, in both caches, whoever's request it was made for."""
        exact = False
        by_meaning = cache == "semantic" or len(entry) == ENTRY_ID_CHARS
        if self.exact is not None and entry and not by_meaning:
            exact = bool(await self.exact.delete_entry(bytes.fromhex(entry)))
        if self.router is None:
            return exact
        if by_meaning:
            return await self.router.complain(request_id, entry)
        made_for = await asyncio.to_thread(self.ledger.asked_for, tenant, entry) if entry else []
        return await self.router.drop_answers_of(list({request_id, *made_for})) or exact

    async def delete(self, principal: Principal, query: str) -> Json:
        """Durable, and true for every replica, when it returns."""
        asked = parse_qsl(query, keep_blank_values=True)
        if len(asked) != 1 or asked[0][0] not in KINDS:
            raise BadRequest(f"say what to delete, by exactly one of: {', '.join(KINDS)}", param="entry")
        kind, name = asked[0]
        if not name or (kind == "all" and name != "true"):
            refuse(kind, "true" if kind == "all" else "a name")
        operator = self._operates(principal)
        if kind in ("namespace", "all") and not operator:
            raise Forbidden(f"deleting by {kind} needs a key with the role admin", param=kind)
        if kind == "tenant" and not operator and name != principal.tenant:
            raise Forbidden("this key may delete its own tenant's answers only", param="tenant")
        if kind == "entry" and not operator:
            raise Forbidden("deleting by entry needs a key with the role admin; use feedback", param="entry")
        return {"deleted": await self._delete_exact(kind, name) + await self._delete_semantic(kind, name)}

    async def _delete_exact(self, kind: str, name: str) -> int:
        if self.exact is None or kind == "namespace":
            return 0
        if kind == "entry":
            key = _hex(name)
            return await self.exact.delete_entry(key) if key is not None else 0
        return await (self.exact.delete_tenant(name) if kind == "tenant" else self.exact.delete_all())

    async def _delete_semantic(self, kind: str, name: str) -> int:
        if self.router is None:
            return 0
        return await self.router.delete(kind, name)

    def _operates(self, principal: Principal) -> bool:
        return principal.key.role == "admin" or not self.door.required

    def _may(self, principal: Principal, tenant: str) -> bool:
        return tenant == principal.tenant or principal.key.role == "admin"

    async def _found(self, request_id: str) -> tuple[str, str, str] | None:
        for _ in range(LOOKS_FOR_ROW):
            if (found := await asyncio.to_thread(self.ledger.how_answered, request_id)) is not None:
                return found
            await asyncio.sleep(LOOK_EVERY_S)
        return None


def _feedback(raw: bytes) -> tuple[str, bool]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest('the body must be a JSON object: {"request_id": "req_...", "good": false}')
    if not isinstance(body.get("request_id"), str) or not body["request_id"]:
        refuse("request_id", "the x-request-id of the answer")
    if not isinstance(body.get("good"), bool):
        refuse("good", "true or false")
    return body["request_id"], body["good"]


def _hex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None

"""The smaller routes beside completions: embeddings, feedback, deletion. Each authenticates; embeddings have a row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from models.errors import DeadlineExceeded, FarthingError, ModelNotFound, Unavailable
from models.types import Json
from serving.accounts import Accounts
from serving.admission import Admission, Principal
from serving.asgi import ClientGoneError, Exchange
from serving.embeddings import answer, parse_embeddings
from serving.ledger.row import Row
from serving.semantic import RouterCalls
from serving.stored import StoredAnswers

BYTES_PER_TOKEN = 4
MAX_SMALL_BODY_BYTES = 64 * 1024
MAX_EMBEDDINGS_BODY_BYTES = 4 * 1024 * 1024
BODY_WAIT_S = 30.0

Handler = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SideRoutes:
    """One per gateway replica. `encoder` is the embedding model's name, empty where the service has none. `stored` is
    what knows stored answers: here, or whoever passes the request on to where they are."""

    door: Admission
    accounts: Accounts
    router: RouterCalls
    stored: StoredAnswers | Handler
    deadline_s: float
    encoder: str = ""

    def table(self) -> dict[tuple[str, str], Handler]:
        stored = self.stored
        told, deleted = (
            (partial(self.feedback, stored), partial(self.delete, stored))
            if isinstance(stored, StoredAnswers)
            else (stored, stored)
        )
        return {
            ("POST", "/v1/embeddings"): self.embeddings,
            ("POST", "/v1/farthing/feedback"): told,
            ("DELETE", "/v1/farthing/cache"): deleted,
        }

    async def embeddings(self, exchange: Exchange) -> None:
        principal = self._known(exchange)
        row = Row(request_id=exchange.request_id, at_ms=int(time.time() * 1000), endpoint="embeddings")
        row.tenant, row.key_id, row.cache = principal.tenant, principal.key_id, "bypass"
        began_s = time.monotonic()
        try:
            with self.door.capacity.entered():
                reply = await self._embedded(exchange, principal, row)
            row.status, row.http_status = "answered", 200
        except FarthingError as exc:
            row.status = "refused" if exc.http_status < 500 else "failed"
            row.http_status, row.error_code = exc.http_status, exc.code
            raise
        except (ClientGoneError, asyncio.CancelledError):
            row.status, row.http_status = "cancelled", 499
            raise
        finally:
            row.latency_ms = (time.monotonic() - began_s) * 1000
            self.accounts.recorded(row)
            self.door.left(principal, row.input_tokens or None)
        await exchange.reply_json(200, reply, self.door.headers(principal))

    async def _embedded(self, exchange: Exchange, principal: Principal, row: Row) -> Json:
        if not self.encoder:
            raise ModelNotFound("this service has no encoder: set embedding.enabled in its configuration")
        self.door.capacity.check()
        asked = parse_embeddings(await exchange.body(MAX_EMBEDDINGS_BODY_BYTES, BODY_WAIT_S), self.encoder)
        row.requested_model = row.model = asked.model
        await self.door.admit_to(principal, asked.model, sum(map(len, asked.texts)) // BYTES_PER_TOKEN)
        row.route, row.reason = "embedding", "named"
        try:
            async with asyncio.timeout(self.deadline_s):
                found = await self.router.embed(asked.texts)
        except FarthingError:
            raise
        except TimeoutError:
            raise DeadlineExceeded(
                f"the encoder had not answered after {self.deadline_s:g} s; send fewer texts at once"
            ) from None
        except Exception as exc:  # the edge to another process
            raise Unavailable("the encoder did not answer; try again shortly", retry_after_s=2.0) from exc
        row.input_tokens = found.tokens
        return answer(asked, found)

    async def feedback(self, stored: StoredAnswers, exchange: Exchange) -> None:
        principal = self._known(exchange)
        self.door.feedback.take(principal.key)
        told = await stored.feedback(principal, await exchange.body(MAX_SMALL_BODY_BYTES, BODY_WAIT_S))
        row = await asyncio.to_thread(stored.ledger.row, told["request_id"])
        if row is not None:
            self.accounts.metrics.feedback(row, told["good"])
        await exchange.reply_json(200, told)

    async def delete(self, stored: StoredAnswers, exchange: Exchange) -> None:
        principal = self._known(exchange)
        await exchange.reply_json(200, await stored.delete(principal, exchange.query))

    def _known(self, exchange: Exchange) -> Principal:
        try:
            return self.door.authenticate(exchange.header("authorization"))
        except FarthingError as exc:
            self.accounts.metrics.unauthenticated(exc.code)
            raise

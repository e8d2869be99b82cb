"""The `texts` table: what is kept of prompts and answers, its bounds, and its deletion. Knows redacted text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select, text
from sqlalchemy.sql.elements import ColumnElement

from models.types import Json
from serving.ledger.schema import deleted_tenants, texts
from serving.ledger.store import DAY_MS, DELETE_ROWS, Store, epoch_ms


@dataclass(frozen=True, slots=True)
class Kept:
    """The texts of one request, redacted. answer: None where none was made for it, or it was no text."""

    request_id: str
    at_ms: int
    tenant: str
    messages: list[Json]
    answer: str | None
    tools: bool
    size_bytes: int


def put(store: Store, kept: Sequence[Kept]) -> int:
    """Returns how many were written: all but those of tenants who were deleted after they had asked."""
    if not kept:
        return 0
    with store.write() as connection:
        if store.postgres:  # a deletion waits until these are in, and finds them; SQLite has one writer at a time
            connection.execute(text("LOCK TABLE deleted_tenants IN SHARE MODE"))
        gone = connection.execute(select(deleted_tenants.c.tenant, deleted_tenants.c.until_ms))
        until_ms: dict[str, int] = dict(map(tuple, gone))
        wanted = [one for one in kept if one.at_ms > until_ms.get(one.tenant, -1)]
        once = {one.request_id: one for one in wanted}.values()  # PostgreSQL refuses a key twice in one statement
        rows: list[dict[str, Any]] = [{name: getattr(one, name) for name in Kept.__slots__} for one in once]
        if rows:
            store.upsert(connection, texts, rows)
    return len(wanted)


def size_bytes(store: Store) -> int:
    """Of all texts, as counted when they were written."""
    with store.read() as connection:
        return int(connection.execute(select(func.coalesce(func.sum(texts.c.size_bytes), 0))).scalar_one())


def prune(store: Store, keep_days: int, max_bytes: int, now_ms: int | None = None) -> int:
    """Delete what is older than so many days, then the oldest until the rest fits. Returns how many went."""
    now_ms = now_ms if now_ms is not None else epoch_ms()
    with store.write() as connection:  # no request takes so long
        connection.execute(delete(deleted_tenants).where(deleted_tenants.c.until_ms < now_ms - DAY_MS))
    before_ms = max(0, now_ms - keep_days * DAY_MS)
    gone = store.delete_chunked(texts, texts.c.at_ms < before_ms)
    while (excess := size_bytes(store) - max_bytes) > 0:
        oldest = select(texts.c.request_id, texts.c.size_bytes).order_by(texts.c.at_ms, texts.c.request_id)
        with store.write() as connection:
            ids: list[str] = []
            for request_id, size in connection.execute(oldest.limit(DELETE_ROWS)).all():
                if excess <= 0:
                    break
                ids.append(request_id)
                excess -= size
            gone += _delete(connection, texts.c.request_id.in_(ids))
    return gone


def _delete(connection: Connection, condition: ColumnElement[bool]) -> int:
    return connection.execute(delete(texts).where(condition)).rowcount

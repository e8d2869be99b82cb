"""The database behind the ledger: SQLite in WAL mode, or PostgreSQL by URL. Owns connections, transactions and upserts.

Knows neither journals nor reports: they bring their own statements.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    Table,
    create_engine,
    delete,
    event,
    func,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.sql.elements import ColumnElement

from models.errors import ConfigError, StartError
from serving.ledger.migrations import migrate
from serving.ledger.row import Row
from serving.ledger.schema import (
    KEYS_VERSION,
    deleted_tenants,
    engine_uptime,
    keys,
    meta,
    open_requests,
    requests,
    texts,
)

DAY_MS = 86_400_000
_BUSY_TIMEOUT_MS = 10_000
DELETE_ROWS = 5_000  # a chunk: between two of them other writers get their turn
MOST_ASKED_FOR = 1_000  # of what was answered afresh that often one answer is still stored, hardly one so old
KEYS_LINGER_MS = 2_000  # gateways take deleted keys for a second longer
_ROW_NAMES = tuple(f.name for f in fields(Row))


@dataclass(frozen=True, slots=True)
class Spend:
    """What hosted providers bill for a request or several."""

    at_ms: int
    tenant: str
    key_id: str
    nusd: int


class Store:
    """One database. Methods block: call them from a thread, not from the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(farthing_write=True)
        self.postgres = engine.dialect.name == "postgresql"

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect and bring the schema up to date. Raises ConfigError or StartError with what to do."""
        parsed = _parse(url)
        try:
            store = cls(_sqlite(parsed) if parsed.get_backend_name() == "sqlite" else create_engine(parsed))
            with store.write() as connection:
                migrate(connection)
        except (OperationalError, OSError) as exc:
            cause = exc.orig if isinstance(exc, OperationalError) else exc
            raise StartError(f"cannot open the ledger {parsed.render_as_string()}: {cause}; check ledger.url") from exc
        return store

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds SQLite's write lock from its start: a late upgrade to it could not be waited for."""
        with self._writing.begin() as connection:
            yield connection

    def upsert(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], **unless: ColumnElement[bool]
    ) -> CursorResult[Any]:
        """Insert rows; over one with the same primary key write all columns, if `where` (when given) holds for it."""
        insert = (postgresql.insert if self.postgres else sqlite.insert)(table)
        key = [column.name for column in table.primary_key]
        rest = {c.name: insert.excluded[c.name] for c in table.columns if c.name not in key}
        statement = insert.on_conflict_do_update(index_elements=key, set_=rest, where=unless.get("where"))
        return connection.execute(statement.returning(*table.primary_key), rows)

    def put(self, connection: Connection, rows: Iterable[Row]) -> set[str]:
        """Take rows, each request once: only a row that is `lost` gives way. Returns the ids of those taken."""
        values = [{name: getattr(row, name) for name in _ROW_NAMES} for row in rows]
        if not values:
            return set()
        return set(self.upsert(connection, requests, values, where=requests.c.status == "lost").scalars())

    def row(self, request_id: str) -> Row | None:
        with self.read() as connection:
            found = connection.execute(select(requests).where(requests.c.request_id == request_id)).mappings().first()
        return None if found is None else Row.from_json(dict(found))

    def how_answered(self, request_id: str) -> tuple[str, str, str] | None:
        """A request's tenant, what the cache did for it, and its stored answer; None when there is no such row."""
        columns = (requests.c.tenant, requests.c.cache, requests.c.cache_entry)
        with self.read() as connection:
            found = connection.execute(select(*columns).where(requests.c.request_id == request_id)).first()
        return None if found is None else (found[0], found[1], found[2])

    def asked_for(self, tenant: str, entry: str) -> list[str]:
        """The latest `MOST_ASKED_FOR` requests of this tenant that a model was asked for and whose answer was stored as
        `entry`."""
        r = requests.c
        query = (
            select(r.request_id)
            .where(r.tenant == tenant, r.cache_entry == entry, r.route != "cache", r.cache != "coalesced")
            .order_by(r.at_ms.desc())
            .limit(MOST_ASKED_FOR)
        )
        with self.read() as connection:
            return [found[0] for found in connection.execute(query)]

    def spend_since(self, since_ms: int) -> list[Spend]:
        """What hosted providers have billed since, by tenant and key."""
        r = requests.c
        query = (
            select(r.tenant, r.key_id, func.sum(r.billed_nusd), func.max(r.at_ms))
            .where(r.at_ms >= since_ms, r.billed_nusd > 0)
            .group_by(r.tenant, r.key_id)
        )
        with self.read() as connection:
            return [
                Spend(at_ms, tenant, key_id, int(nusd)) for tenant, key_id, nusd, at_ms in connection.execute(query)
            ]

    def extend_uptime(self, engine: str, from_ms: int, to_ms: int, nusd_per_hour: int) -> None:
        """Say that an engine that started at `from_ms` still runs. Its GPU is paid for that time, used or not."""
        row = {"engine": engine, "from_ms": from_ms, "to_ms": to_ms, "nusd_per_hour": nusd_per_hour}
        with self.write() as connection:
            self.upsert(connection, engine_uptime, [row])

    def announce_keys(self, connection: Connection) -> None:
        """Within the transaction that changes keys: whoever holds them in memory sees a new version."""
        connection.execute(update(meta).where(meta.c.name == KEYS_VERSION).values(value=meta.c.value + 1))

    def retain(self, days: int, now_ms: int | None = None) -> int:
        """Delete requests (with texts, and uptime) older than so many days. Returns how many requests went."""
        if days < 1:
            raise ConfigError("retention is counted in whole days, at least 1: budgets need the present day's rows")
        before_ms = max(0, (now_ms if now_ms is not None else epoch_ms()) - days * DAY_MS)
        with self.write() as connection:
            connection.execute(delete(engine_uptime).where(engine_uptime.c.to_ms < before_ms))
        self.delete_chunked(texts, texts.c.at_ms < before_ms)
        return self.delete_chunked(requests, requests.c.at_ms < before_ms)

    def delete_tenant(self, tenant: str) -> int:
        """Delete a tenant's keys, texts and requests. Its requests in flight arrive later: repeat when they have
        ended. Their texts do not, nor those that wait in a gateway."""
        until_ms = epoch_ms() + KEYS_LINGER_MS
        with self.write() as connection:
            self.upsert(connection, deleted_tenants, [{"tenant": tenant, "until_ms": until_ms}])
            connection.execute(delete(keys).where(keys.c.tenant == tenant))
            connection.execute(delete(open_requests).where(open_requests.c.tenant == tenant))
            self.announce_keys(connection)
        self.delete_chunked(texts, texts.c.tenant == tenant)
        return self.delete_chunked(requests, requests.c.tenant == tenant)

    def delete_chunked(self, table: Table, condition: ColumnElement[bool]) -> int:
        """Of a table keyed by request; returns how many rows went."""
        total = 0
        chunk = select(table.c.request_id).where(condition).limit(DELETE_ROWS)
        while True:
            with self.write() as connection:
                count = connection.execute(delete(table).where(table.c.request_id.in_(chunk))).rowcount
            total += count
            if count < DELETE_ROWS:
                return total


def epoch_ms() -> int:
    return time.time_ns() // 1_000_000


def midnight_ms(now_ms: int) -> int:
    """The start of the UTC day."""
    return now_ms - now_ms % DAY_MS


def utc(ms: int) -> str:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"ledger.url is not a URL: {exc}") from exc
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError(
            "ledger.url: several processes share the ledger, so SQLite needs a file: sqlite:////path/to.db"
        )
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ConfigError(f"ledger.url: '{parsed.drivername}' is not supported; use sqlite:///FILE or postgresql://...")
    return parsed


def _sqlite(url: URL) -> Engine:
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions: SQLAlchemy's `begin` below does
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a journal is deleted once its rows are committed
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # a deleted text is overwritten, not left in a free page

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("farthing_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine

"""API keys: who may ask, for how much. A secret is shown once; the ledger holds its SHA-256.

That is enough for 32 random bytes: a slow hash protects guessable passwords. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

from sqlalchemy import RowMapping, select, update

from models.errors import BadRequest, Unauthenticated
from serving.ledger.schema import KEYS_VERSION, keys, meta
from serving.ledger.store import Store, epoch_ms
from serving.wire.options import Options

Role = Literal["user", "admin"]
_NOBODY_SHA256 = hashlib.sha256(b"").hexdigest()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """None is "no limit". `models` are the names (models, tiers, aliases, `auto`) that the key may ask for."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    nusd_per_day: int | None = None
    max_parallel: int | None = None
    models: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadRequest(f"{name} must be at least 1; leave it out for no limit", param=name)
        if self.nusd_per_day is not None and self.nusd_per_day < 0:
            raise BadRequest("usd_per_day cannot be negative; 0 forbids hosted models", param="usd_per_day")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. `defaults` are the caller's options where a request says nothing."""

    id: str
    tenant: str
    role: Role = "user"
    limits: Limits = field(default_factory=Limits)
    defaults: Options = field(default_factory=Options)
    created_ms: int = 0
    expires_ms: int | None = None
    revoked_ms: int | None = None

    def may_ask(self, model: str) -> bool:
        return self.limits.models is None or model in self.limits.models


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """All keys at one version: id to digest and key."""

    version: int
    keys: Mapping[str, tuple[str, ApiKey]]


Load = Callable[[int], Awaitable[KeySnapshot | None]]


def add(
    store: Store,
    tenant: str,
    role: Role = "user",
    limits: Limits | None = None,
    defaults: Options | None = None,
    expires_ms: int | None = None,
) -> tuple[str, str]:
    """Make a key. Returns its id and the secret, which cannot be had again."""
    if not tenant:
        raise BadRequest("a key belongs to a tenant: name one", param="tenant")
    key_id = secrets.token_hex(6)
    secret = f"fk-{key_id}-{secrets.token_urlsafe(32)}"
    row = {
        "id": key_id,
        "tenant": tenant,
        "role": role,
        "sha256": _sha256(secret),
        "limits": _spoken(limits or Limits()),
        "defaults": _spoken(defaults or Options()),
        "created_ms": epoch_ms(),
        "expires_ms": expires_ms,
    }
    with store.write() as connection:
        connection.execute(keys.insert(), row)
        store.announce_keys(connection)
    return key_id, secret


def all_keys(store: Store) -> list[ApiKey]:
    """Every key, also expired and revoked ones, oldest first."""
    with store.read() as connection:
        return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created_ms, keys.c.id)).mappings()]


def revoke(store: Store, key_id: str) -> bool:
    """Revoke for good. False when there is no such key, or it was revoked before."""
    with store.write() as connection:
        condition = (keys.c.id == key_id) & keys.c.revoked_ms.is_(None)
        revoked = connection.execute(update(keys).where(condition).values(revoked_ms=epoch_ms())).rowcount == 1
        store.announce_keys(connection)
    return revoked


def snapshot(store: Store, known_version: int) -> KeySnapshot | None:
    """All keys, or None when they are still at the known version."""
    with store.read() as connection:
        version = connection.execute(select(meta.c.value).where(meta.c.name == KEYS_VERSION)).scalar_one()
        if version == known_version:
            return None
        rows = connection.execute(select(keys)).mappings()
        return KeySnapshot(version, {row["id"]: (row["sha256"], _key(row)) for row in rows})


def loader(store: Store) -> Load:
    """For a KeyTable in a process that reaches the database itself."""
    return lambda version: asyncio.to_thread(partial(snapshot, store, version))


class KeyTable:
    """The keys as a gateway replica knows them: all in memory, renewed by `keep_fresh`."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._snapshot = KeySnapshot(-1, {})

    async def refresh(self) -> None:
        """Take the present keys; when nothing changed this costs one look-up in the database."""
        newer = await self._load(self._snapshot.version)
        if newer is not None:
            self._snapshot = newer

    async def keep_fresh(self, every_s: float = 1.0) -> None:
        """Refresh for ever. While keys cannot be read those known stay valid, and the log says so."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except Exception as exc:  # noqa: BLE001 - the edge of a background task: whatever happened, try again
                log.warning("keys cannot be read, the known ones stay: %s", exc)

    def check(self, secret: str, now_ms: int | None = None) -> ApiKey:
        """The key of this secret. Raises Unauthenticated; only who holds the secret learns more than that."""
        _, _, rest = secret.partition("fk-")
        digest, key = self._snapshot.keys.get(rest.partition("-")[0], (_NOBODY_SHA256, None))
        if not hmac.compare_digest(digest, _sha256(secret)) or key is None:
            raise Unauthenticated("this API key is not known; send 'Authorization: Bearer fk-...' with a valid key")
        if key.revoked_ms is not None:
            raise Unauthenticated("this API key was revoked; ask for a new one")
        if key.expires_ms is not None and key.expires_ms <= (now_ms if now_ms is not None else epoch_ms()):
            raise Unauthenticated("this API key has expired; ask for a new one")
        return key


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _spoken(value: Limits | Options) -> dict[str, Any]:
    silent = asdict(type(value)())
    return {name: said for name, said in asdict(value).items() if said != silent[name]}


def _key(row: RowMapping) -> ApiKey:
    limits = dict(row["limits"])
    if "models" in limits:
        limits["models"] = tuple(limits["models"])
    return ApiKey(
        id=row["id"],
        tenant=row["tenant"],
        role=row["role"],
        limits=Limits(**limits),
        defaults=Options.parse(row["defaults"]),
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
        revoked_ms=row["revoked_ms"],
    )

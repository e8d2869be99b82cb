"""The ledger's tables. docs/ledger.md says what each column means; migrations/ brings a database here.

All integers are 64 bits wide: money in nano-USD, times in milliseconds UTC. Strings carry no length: limits belong to
the edge that accepts them.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Double, Index, MetaData, Table, Text

metadata = MetaData()

KEYS_VERSION = "keys_version"  # the row of `meta` that counts changes of `keys`; the first migration makes it


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _integer(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    _integer("at_ms"),
    _text("status"),
    _text("tenant"),
    _text("key_id"),
    _text("endpoint"),
    Column("stream", Boolean, nullable=False),
    _text("requested_model"),
    _text("route"),
    _text("model"),
    _text("backend"),
    _text("cache"),
    _text("reason"),
    Column("score", Double),
    _text("policy_version"),
    _text("artifact"),
    _integer("http_status"),
    _text("error_code"),
    _integer("attempts"),
    _integer("input_tokens"),
    _integer("cached_input_tokens"),
    _integer("cache_write_tokens"),
    _integer("output_tokens"),
    _integer("reasoning_tokens"),
    Column("usage_estimated", Boolean, nullable=False),
    _integer("cost_input_nusd"),
    _integer("cost_cached_input_nusd"),
    _integer("cost_cache_write_nusd"),
    _integer("cost_output_nusd"),
    _integer("cost_wasted_nusd"),
    _integer("cost_nusd"),
    _integer("billed_nusd"),
    _integer("all_frontier_nusd", nullable=True),
    _integer("all_cheapest_nusd", nullable=True),
    Column("latency_ms", Double, nullable=False),
    Column("ttft_ms", Double),
    _text("prompt_sha256"),
    _text("prompt_name"),
    _text("conversation"),
    Column("tags", JSON, nullable=False),
    _text("shadow"),
    _text("cache_entry"),
    Column("similarity", Double),
    _integer("saved_nusd"),
    Index("requests_at", "at_ms"),
    Index("requests_tenant_at", "tenant", "at_ms"),
    Index("requests_cache_entry", "cache_entry", "tenant", "at_ms"),
)

texts = Table(
    "texts",
    metadata,
    Column("request_id", Text, primary_key=True),
    _integer("at_ms"),
    _text("tenant"),
    Column("messages", JSON, nullable=False),
    Column("answer", Text),
    Column("tools", Boolean, nullable=False),
    _integer("size_bytes"),
    Index("texts_at_size", "at_ms", "size_bytes"),
    Index("texts_tenant", "tenant"),
)

deleted_tenants = Table(  # for a while: of what was asked until then nothing may be kept
    "deleted_tenants",
    metadata,
    Column("tenant", Text, primary_key=True),
    _integer("until_ms"),
)

open_requests = Table(
    "open_requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    _text("journal"),
    _text("tenant"),
    Column("row", JSON, nullable=False),
    Index("open_requests_journal", "journal"),
)

journals = Table(
    "journals",
    metadata,
    Column("name", Text, primary_key=True),
    _integer("offset_bytes"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    _text("tenant"),
    _text("role"),
    _text("sha256"),
    Column("limits", JSON, nullable=False),
    Column("defaults", JSON, nullable=False),
    _integer("created_ms"),
    _integer("expires_ms", nullable=True),
    _integer("revoked_ms", nullable=True),
    Index("keys_tenant", "tenant"),
)

engine_uptime = Table(
    "engine_uptime",
    metadata,
    Column("engine", Text, primary_key=True),
    Column("from_ms", BigInteger, primary_key=True),
    _integer("to_ms"),
    _integer("nusd_per_hour"),
    Index("engine_uptime_to", "to_ms"),
)

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    _integer("value"),
)

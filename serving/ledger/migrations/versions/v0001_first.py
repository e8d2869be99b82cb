"""The first schema."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Boolean, Column, Double, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    _requests()
    _bookkeeping()
    _keys()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _integer(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _requests() -> None:
    op.create_table(
        "requests",
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
    )
    op.create_index("requests_at", "requests", ["at_ms"])
    op.create_index("requests_tenant_at", "requests", ["tenant", "at_ms"])


def _bookkeeping() -> None:
    op.create_table(
        "open_requests",
        Column("request_id", Text, primary_key=True),
        _text("journal"),
        _text("tenant"),
        Column("row", JSON, nullable=False),
    )
    op.create_index("open_requests_journal", "open_requests", ["journal"])
    op.create_table(
        "journals",
        Column("name", Text, primary_key=True),
        _integer("offset_bytes"),
    )
    op.create_table(
        "engine_uptime",
        Column("engine", Text, primary_key=True),
        Column("from_ms", BigInteger, primary_key=True),
        _integer("to_ms"),
        _integer("nusd_per_hour"),
    )
    op.create_index("engine_uptime_to", "engine_uptime", ["to_ms"])


def _keys() -> None:
    op.create_table(
        "keys",
        Column("id", Text, primary_key=True),
        _text("tenant"),
        _text("role"),
        _text("sha256"),
        Column("limits", JSON, nullable=False),
        Column("defaults", JSON, nullable=False),
        _integer("created_ms"),
        _integer("expires_ms", nullable=True),
        _integer("revoked_ms", nullable=True),
    )
    op.create_index("keys_tenant", "keys", ["tenant"])
    meta = op.create_table(
        "meta",
        Column("name", Text, primary_key=True),
        _integer("value"),
    )
    op.bulk_insert(meta, [{"name": "keys_version", "value": 0}])

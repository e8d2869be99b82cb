"""Prompts and answers, redacted, of requests whose texts are kept."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Boolean, Column, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "texts",
        Column("request_id", Text, primary_key=True),
        Column("at_ms", BigInteger, nullable=False),
        Column("tenant", Text, nullable=False),
        Column("messages", JSON, nullable=False),
        Column("answer", Text),
        Column("tools", Boolean, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
    )
    op.create_index("texts_at_size", "texts", ["at_ms", "size_bytes"])
    op.create_index("texts_tenant", "texts", ["tenant"])

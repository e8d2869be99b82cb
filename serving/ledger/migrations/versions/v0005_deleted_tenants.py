"""Tenants deleted a short while ago: texts of theirs that a gateway still held must not be written afterwards."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "deleted_tenants",
        Column("tenant", Text, primary_key=True),
        Column("until_ms", BigInteger, nullable=False),
    )

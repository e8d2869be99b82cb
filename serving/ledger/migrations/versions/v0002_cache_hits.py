"""What the learned router would have done; of a hit, which stored answer it was, how near, and what it saved."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Double, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("requests", Column("shadow", Text, nullable=False, server_default=""))
    op.add_column("requests", Column("cache_entry", Text, nullable=False, server_default=""))
    op.add_column("requests", Column("similarity", Double))
    op.add_column("requests", Column("saved_nusd", BigInteger, nullable=False, server_default="0"))

"""Which requests a stored answer was made for: a complaint about it asks, and read every row to find out."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("requests_cache_entry", "requests", ["cache_entry", "tenant", "at_ms"])

"""Brings a database to the schema of this code, by Alembic, from within the program: there is no alembic.ini.

To change the schema: edit `schema.py`, add a file under `versions/`; a test compares the two.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from models.errors import StartError

_ADVISORY_LOCK = 0x6661_7274_6869_6E67  # "farthing": any number does that nothing else in the database uses


def migrate(connection: Connection) -> None:
    """Migrate within the connection's transaction, which on SQLite must hold the write lock already.

    Of two processes that start at once the second waits and finds nothing to do. Raises StartError for a database that
    a newer version has migrated.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
    if unknown:
        raise StartError(
            f"the ledger's schema ({', '.join(sorted(unknown))}) is newer than this version of Farthing: "
            "start the version that wrote it, or point ledger.url at another database"
        )
    command.upgrade(config, "head")

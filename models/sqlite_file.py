"""A private SQLite file (WAL) of one program and one format: opened, refused, set aside. Synchronous, for one thread,
and under a lock of the caller's: of two processes that find damage, the second would set aside what the first began.

A kill at any moment leaves a valid file; what is deleted is overwritten. Knows no table: the schema is the caller's.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S: Final = 5.0
_UNREADABLE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SIDE_FILES: Final = ("-wal", "-shm")


class OtherFormat(sqlite3.DatabaseError):
    """A sound file of another version of this program."""


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """What makes a file ours. `what` names it in messages; `format` rises with any change of what is in it.

    application_id: four letters in the file's header, so that another program's database is left alone.
    pragmas: further settings of each connection, as `name = value`. check: what else must hold of its content.
    """

    path: Path
    what: str
    application_id: int
    format: int
    schema: str
    pragmas: Sequence[str] = ()
    check: Callable[[sqlite3.Connection], None] | None = None

    @property
    def aside(self) -> Path:
        """Where a file goes that cannot be read."""
        return self.path.with_name(self.path.name + ".unreadable")

    def connect(self) -> sqlite3.Connection:
        """Makes the file where there is none. Raises sqlite3.DatabaseError for one that is not ours or is damaged."""
        # What is in it is private. An old file is not opened here: closing it would drop this process's locks on it.
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(f"BEGIN IMMEDIATE; {self.schema} {self._marks} COMMIT;")
            if db.execute("PRAGMA application_id").fetchone()[0] != self.application_id:
                raise sqlite3.DatabaseError(f"{self.path} is another program's database")
            if db.execute("PRAGMA user_version").fetchone()[0] != self.format:
                raise OtherFormat(f"its format is not {self.format}")
            for pragma in ("secure_delete = ON", "journal_size_limit = 16777216", *self.pragmas):
                db.execute(f"PRAGMA {pragma}")
            if self.check is not None:
                self.check(db)
        except BaseException:
            db.close()
            raise
        return db

    @property
    def _marks(self) -> str:
        return f"PRAGMA application_id = {self.application_id}; PRAGMA user_version = {self.format};"

    def connect_or_begin_anew(self) -> sqlite3.Connection:
        """As `connect`, but a file that cannot be read is set aside first."""
        try:
            return self.connect()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.set_aside(str(error))
            return self.connect()

    def set_aside(self, why: str) -> None:
        log.error("%s %s is set aside as %s and begun anew: %s", self.what, self.path, self.aside, why)
        self.path.replace(self.aside)
        for suffix in _SIDE_FILES:
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file, and not the statement or another process, is at fault."""
    return isinstance(error, OtherFormat) or (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _UNREADABLE


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and the write lock from the start."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")

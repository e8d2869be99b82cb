from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from models.errors import ConfigError, StartError
from serving.ledger.row import Row
from serving.ledger.schema import metadata, requests
from serving.ledger.store import Store


def test_migrations_lead_to_the_schema_of_the_code(store: Store) -> None:
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_table_has_the_columns_of_a_row() -> None:
    assert [column.name for column in requests.columns] == [field.name for field in dataclasses.fields(Row)]


def test_a_second_start_changes_nothing(store: Store, url: str) -> None:
    with store.write() as connection:
        store.put(connection, [Row(request_id="a", at_ms=1)])
    again = Store.open(url)
    with again.read() as connection:
        assert connection.execute(text("SELECT request_id FROM requests")).scalars().all() == ["a"]
    again.close()


def test_two_processes_may_start_at_once(url: str) -> None:
    program = "import sys; from serving.ledger.store import Store; Store.open(sys.argv[1]); print('ok')"
    starts = [
        subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for start in starts:
        out, err = start.communicate(timeout=60)
        assert out == b"ok\n", err.decode()


def test_a_database_of_a_newer_version_is_refused(store: Store, url: str) -> None:
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartError, match=r"9999.*newer than this version"):
        Store.open(url)


@pytest.mark.parametrize("bad", ["nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_an_impossible_url_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"ledger\.url"):
        Store.open(bad)


def test_an_unreachable_database_says_where_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"(?s)cannot open the ledger .*ledger\.url") as refused:
        Store.open(f"postgresql://me:geheim@/db?host={tmp_path}")
    assert "geheim" not in str(refused.value)

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, Table, create_engine, event, text

from models.errors import ConfigError, StartError
from serving.ledger import migrations
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


@pytest.mark.parametrize("version", ["0001", "0002", "0003"])
def test_a_ledger_of_an_earlier_version_is_brought_up_to_date(url: str, version: str) -> None:
    """Rows stay as they were; what their version did not know is as if it had not happened."""
    wanted = Row(request_id="a", at_ms=7, tenant="t", status="answered", route="small", tags=["x"], ttft_ms=0.5)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        table = Table("requests", MetaData(), autoload_with=connection)
        known = {column.name for column in table.columns}
        connection.execute(table.insert(), {k: v for k, v in wanted.to_json().items() if k in known})
    engine.dispose()
    store = Store.open(url)
    assert store.row("a") == wanted
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    store.close()


def test_whose_answer_was_stored_is_found_without_reading_every_row(store: Store) -> None:
    rows = [Row(request_id=f"r{i}", at_ms=i, tenant="t", route="small", cache_entry=f"{i:064x}") for i in range(2_000)]
    with store.write() as connection:
        store.put(connection, rows)
        if store.postgres:  # which knows nothing of a new table; SQLite, which nobody tells, decides by its shape
            connection.execute(text("ANALYZE"))
    explain, plans = "EXPLAIN" if store.postgres else "EXPLAIN QUERY PLAN", list[str]()

    @event.listens_for(store._engine, "before_cursor_execute")
    def _explained(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            plans.append(str(cursor.execute(f"{explain} {statement}", parameters).fetchall()))

    assert store.asked_for("t", f"{7:064x}") == ["r7"]
    assert len(plans) == 1 and "requests_cache_entry" in plans[0], plans

"""Stores to test against: SQLite always, a real PostgreSQL where its server is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from serving.ledger.row import Row
from serving.ledger.store import Store


def _program(name: str) -> Path | None:
    """From PATH, or where Debian keeps servers, the newest first."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, places)))
    return Path(found).resolve() if found else None


def _await_server(server: subprocess.Popen[bytes], dsn: str, log: Path) -> None:
    deadline_s = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
            time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """The socket directory of a PostgreSQL server of this test run, in a folder of its own."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL server is installed")
    as_user: dict[str, Any] = {}
    directory = Path(tempfile.mkdtemp(prefix="ledger-pg-", dir="/tmp"))  # a socket's path has at most 107 bytes
    if os.geteuid() == 0:  # the server refuses to run as root
        as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(directory, "nobody", "nogroup")
    log = directory / "log"
    try:
        subprocess.run(
            [initdb, "-D", directory / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=directory,
            **as_user,
        )
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}", "-c", "fsync=off"]
        with log.open("wb") as output:
            server = subprocess.Popen(
                [postgres, "-D", directory / "data", *options], cwd=directory, stdout=output, stderr=output, **as_user
            )
        try:
            _await_server(server, f"host={directory} user=postgres dbname=postgres", log)
            yield str(directory)
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(timeout=30)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    socket = request.getfixturevalue("postgres_socket")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"host={socket} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@/{name}?host={socket}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


@pytest.fixture
def put(store: Store) -> Any:
    """Put rows into the ledger as the writer does."""

    def _put(*rows: Row) -> set[str]:
        with store.write() as connection:
            return store.put(connection, rows)

    return _put

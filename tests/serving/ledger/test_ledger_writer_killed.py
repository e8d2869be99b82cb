"""Gateway replicas and the writer are killed with SIGKILL under load: every request must have one row."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from serving.ledger.schema import open_requests, requests
from serving.ledger.store import Store
from serving.ledger.writer import Writer

REPLICA = """
import collections, itertools, os, sys, time
from pathlib import Path
from serving.ledger.journal import Journal
from serving.ledger.row import Row

directory, diary, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
journal = Journal(directory, name, rotate_bytes=200_000)
note = os.open(diary, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
flying = collections.deque()
for i in itertools.count():
    row = Row(request_id=f"{name}-{i}", at_ms=time.time_ns() // 10**6, tenant=name, billed_nusd=0)
    os.write(note, b'["will","%b"]\\n' % row.request_id.encode())
    journal.open(row)
    os.write(note, b'["open","%b"]\\n' % row.request_id.encode())
    flying.append(row)
    if len(flying) > 20:
        done = flying.popleft()
        done.status, done.billed_nusd = "answered", 3
        journal.close(done)
        os.write(note, b'["close","%b"]\\n' % done.request_id.encode())
    time.sleep(0.0003)
"""
WRITER = """
import sys, time
from pathlib import Path
from serving.ledger.store import Store
from serving.ledger.writer import Writer

writer = Writer(Store.open(sys.argv[1]), Path(sys.argv[2]))
while True:
    writer.ingest_once()
    time.sleep(0.005)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE)


def kill(process: subprocess.Popen[bytes]) -> None:
    """It must have lived until now: a program that fell over would prove nothing."""
    assert process.poll() is None, process.communicate()[1].decode()
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


def test_no_request_is_lost_or_doubled(url: str, store: Store, tmp_path: Path, diary: Path) -> None:
    directory, seed = tmp_path / "journals", random.Random(4)
    replicas = [start(REPLICA, directory, diary, f"r{i}") for i in range(2)]
    for round_ in range(4):
        writer = start(WRITER, url, directory)
        time.sleep(1.2 + seed.random() * 0.3)
        kill(writer)
        if round_ == 2:
            kill(replicas.pop())
            replicas.append(start(REPLICA, directory, diary, "r9"))
    for replica in replicas:
        kill(replica)

    with Writer(store, directory) as last:
        last.ingest_once()
    notes = [json.loads(line) for line in diary.read_text().splitlines()]
    will, opened, closed = ({name for kind, name in notes if kind == k} for k in ("will", "open", "close"))
    with store.read() as connection:
        rows = dict(connection.execute(select(requests.c.request_id, requests.c.status)).all())
        billed = connection.execute(select(func.sum(requests.c.billed_nusd))).scalar()
        assert connection.execute(select(func.count()).select_from(open_requests)).scalar() == 0
    answered = {name for name, status in rows.items() if status == "answered"}
    assert len(closed) > 100  # a machine with other work to do writes fewer
    assert opened <= rows.keys() <= will
    assert len(will) - len(opened) <= 3  # a replica may die between the journal and the diary
    assert closed <= answered
    assert len(answered) - len(closed) <= 3
    assert set(rows.values()) == {"answered", "lost"}
    assert billed == 3 * len(answered)
    assert [path.name for path in directory.iterdir()] == ["writer.lock"]

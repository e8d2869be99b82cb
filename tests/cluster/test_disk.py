"""A disk that is full or not ours to write: nothing is rented, what must end ends, and no file is cut off."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import operate, state
from cluster.__main__ import main
from cluster.config import load
from cluster.errors import NotWritten
from cluster.state import Store, day_of, write_private
from tests.cluster.conftest import ROOT, command, written
from tests.cluster.fake_vast import FakeVast

DONE, UNDONE = 0, 2


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Call `setattr` of it with `refuse` when the disk is to fill up."""
    with monkeypatch.context() as patch:
        yield patch


def refuse(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_does_not_fit_leaves_the_old_one_whole(tmp_path: Path) -> None:
    """The kernel writes what fits and says how much that was; the rest was lost in silence."""
    file = tmp_path / "state.json"
    write_private(file, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(NotWritten, match=r"cannot write .*state\.json: File too large"):
            write_private(file, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_on_a_full_disk_up_rents_nothing(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, full: pytest.MonkeyPatch, capsys: Any
) -> None:
    full.setattr(state.os, "fsync", refuse)
    assert main(["up", str(written(document, tmp_path))]) == UNDONE
    assert "error: cannot write" in capsys.readouterr().err and fake.contracts == {}


def test_on_a_full_disk_down_ends_everything_and_says_what_is_left_to_do(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, full: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    full.setattr(state.os, "fsync", refuse)
    assert main(["down", str(file)]) == UNDONE
    assert "nothing bills, but cannot write" in capsys.readouterr().err and fake.standing() == []
    full.undo()
    assert main(["down", str(file)]) == DONE
    assert Store(tmp_path / "state" / "test").state.closed


def test_on_a_full_disk_watch_holds_the_budget_and_rents_nothing(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, full: pytest.MonkeyPatch
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    deck = operate.open_deck(load(file), print)
    watcher = operate.Watcher(deck, threading.Event())
    full.setattr(state.os, "fsync", refuse)
    searches = fake.searches
    for _ in range(3):
        assert isinstance(watcher._look(), NotWritten)
    assert len(fake.standing()) == 1
    full.undo()
    deck.store.state.spent_usd_by_day[day_of(deck.now_s())] = 40.0
    deck.store.save()
    full.setattr(state.os, "fsync", refuse)
    for _ in range(3):
        assert isinstance(watcher._look(), NotWritten)
    assert fake.standing() == [] and fake.searches == searches


def test_a_members_file_that_cannot_be_written_is_no_success(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    """The gateway would go on without the boxes, or with those that are gone, and nobody would know."""
    (tmp_path / "state" / "test" / "members.json").mkdir(parents=True)
    assert main(["up", str(written(document, tmp_path))]) == UNDONE
    assert "members.json: Is a directory" in capsys.readouterr().err


def test_a_state_folder_that_is_a_file_is_said_to_be_one(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "state").write_text("")
    assert main(["up", str(written(document, tmp_path))]) == UNDONE
    assert "error: " in capsys.readouterr().err and fake.contracts == {}


def test_a_reader_that_leaves_early_is_no_error(fake: FakeVast, document: dict[str, Any], tmp_path: Path) -> None:
    file = written(document, tmp_path)
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        command("offers", str(file)), cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")

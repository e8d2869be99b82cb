"""Engines announce themselves by locks: seen while they live, gone with them, however they went."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.local.presence import announce, anyone, stay

ROOT = Path(__file__).parents[2]
HOLD = "import sys, pathlib, time; from models.local.presence import announce; announce(pathlib.Path(sys.argv[1])); "


def test_nobody_is_there_before_anyone_came(tmp_path: Path) -> None:
    assert not anyone(tmp_path / "never-made")


def test_who_announced_itself_is_there_until_it_takes_leave(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    fd = announce(folder)
    assert [p.name.split("-")[0] for p in folder.iterdir()] == [str(os.getpid())]
    os.close(fd)
    assert not anyone(folder)
    assert list(folder.iterdir()) == []  # what was left behind is removed


@pytest.mark.parametrize("dies", [True, False], ids=["its core dies", "it is ended"])
async def test_an_engine_stays_as_long_as_it_can_answer(tmp_path: Path, dies: bool) -> None:
    alive = [True]
    staying = asyncio.create_task(stay(tmp_path / "small", lambda: alive[0]))
    await asyncio.sleep(0.3)
    assert anyone(tmp_path / "small") and not staying.done()
    if dies:
        alive[0] = False
    else:
        staying.cancel()
    await asyncio.wait([staying], timeout=10)
    assert staying.done() and not anyone(tmp_path / "small")


def test_a_killed_engine_is_gone_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    code = HOLD + "print('there', flush=True); time.sleep(60)"
    engine = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None and engine.stdout.readline() == "there\n"
    assert anyone(folder)
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    engine.stdout.close()
    assert not anyone(folder)


def test_those_who_look_while_engines_come_and_go_disturb_none(tmp_path: Path) -> None:
    """A look takes the lock for a moment: it must not make an engine that is just starting fail."""
    folder = tmp_path / "small"
    looking = "import sys, pathlib; from models.local.presence import anyone\n"
    looking += "print(1, flush=True)\nwhile True: anyone(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", looking, str(folder)]
    lookers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for looker in lookers:
            assert looker.stdout is not None
            assert looker.stdout.readline() == b"1\n"  # from here on they look
        for _ in range(300):
            fd = announce(folder)
            assert len(list(folder.glob(f"{os.getpid()}-*"))) >= 1 and anyone(folder)
            os.close(fd)
    finally:
        for looker in lookers:
            looker.kill()
            looker.communicate()

"""Which engines are up, told by locks: a process holds its file's lock for as long as it lives, and the kernel lets go.

Faster and surer than asking over HTTP: a proxy in between may hold requests for a dead engine until a new one is up
(Ray Serve's does, for as long as a model takes to load), while a lock is free the moment its owner is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY_S = 0.1


def announce(folder: Path) -> int:
    """Say that this process serves from now on. Returns the descriptor that must stay open; closing it takes leave."""
    folder.mkdir(parents=True, exist_ok=True)
    # A name of its own: whoever removes what a dead one left must not remove what took its place under the same name.
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    draft = folder.with_name(f".{folder.name}-{name}")
    fd = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    draft.replace(folder / name)  # seen only once locked: a look in between would take it for a dead one's
    return fd


async def stay(folder: Path, alive: Callable[[], bool]) -> None:
    """Announce this process until `alive` is false or the task is cancelled: an engine whose core has died answers
    nobody, and its process outlives it until somebody notices."""
    fd = announce(folder)
    try:
        while alive():  # noqa: ASYNC110 - vLLM offers a state to look at, no event
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        os.close(fd)


def anyone(folder: Path) -> bool:
    """Whether some announced process is alive; what the dead left is removed. A few microseconds an engine."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are all that is needed
    except FileNotFoundError:
        return False
    return any(_held(folder / name) for name in names)


def _held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(fd)

"""Runs `python -m cluster ...`, killed with SIGKILL at the n-th write to its disk: `killed.py before|after N ARGS`.

Each step that matters is bracketed by a write (state, a secret, the members file), so this visits every gap.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from cluster import members, state, vault
from cluster.__main__ import main

when, number = sys.argv[1], int(sys.argv[2])
writes = iter(range(1, 10_000))
really_write = state.write_private


def counting(path: Path, data: bytes, mode: int = 0o600) -> None:
    at = next(writes)
    if at == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    really_write(path, data, mode)
    if at == number:
        os.kill(os.getpid(), signal.SIGKILL)


for module in (state, vault, members):
    module.write_private = counting
sys.exit(main(sys.argv[3:]))

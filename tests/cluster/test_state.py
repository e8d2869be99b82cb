"""The lock of a cluster: one process at a time, and the others know for whom they wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.errors import Busy
from cluster.state import only_one


def test_who_waits_is_told_for_whom_and_refused_in_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    held, waits = only_one(tmp_path), only_one(tmp_path, 1.3, said.append)
    with held, pytest.raises(Busy, match=f"process {os.getpid()} is working"), waits:
        pass
    assert len(said) == 1 and f"waiting for process {os.getpid()}" in said[0]
    with only_one(tmp_path, 1.3, said.append):  # nobody holds it now: nothing to say
        assert len(said) == 1

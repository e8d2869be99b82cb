"""The state's file from other versions, and the lock of a cluster: one process at a time, and the others know for whom
they wait."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from cluster.errors import Busy, StateBroken
from cluster.state import Rental, Store, only_one


def test_who_waits_is_told_for_whom_and_refused_in_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    held, waits = only_one(tmp_path), only_one(tmp_path, 1.3, said.append)
    with held, pytest.raises(Busy, match=f"process {os.getpid()} is working"), waits:
        pass
    assert len(said) == 1 and f"waiting for process {os.getpid()}" in said[0]
    with only_one(tmp_path, 1.3, said.append):  # nobody holds it now: nothing to say
        assert len(said) == 1


def test_a_state_of_before_a_field_was_kept_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    times = {"since_s": 1.0, "created_s": 1.0, "accrued_until_s": 1.0, "expected_usd_per_hour": 0.4}
    store.state.rentals.append(Rental(label="farthing:t:0:a", slot=0, offer_id=1, machine_id=1, gpu="x", **times))
    store.save()
    written = json.loads((tmp_path / "state.json").read_text())
    del written["rentals"][0]["profile"]
    (tmp_path / "state.json").write_text(json.dumps(written))
    assert Store(tmp_path).state.rentals == store.state.rentals


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"version": 2}', "version: Input should be 1"),
        ('{"of_next_year": 1}', "of_next_year: Extra inputs"),
        ('{"rentals": [{"label": "x"}]}', "rentals.0.slot: Field required"),
        ('{"spent_usd_by_day": {"2026-11-27": null}}', "spent_usd_by_day.2026-11-27: Input should be a valid number"),
        ("", "as a whole: Invalid JSON"),
    ],
)
def test_a_state_of_another_version_is_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(StateBroken, match=re.escape(why)):
        Store(tmp_path)


def test_a_state_that_is_not_ours_to_read_is_not_said_to_be_broken(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(StateBroken, match=r"cannot read .*state\.json: Is a directory$"):
        Store(tmp_path)

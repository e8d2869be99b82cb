"""What people do with the commands beside the plan: half a file, another folder, an edited file, two at once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cluster import operate
from cluster.__main__ import main
from cluster.config import load
from cluster.errors import NeverUp
from tests.cluster.conftest import written
from tests.cluster.fake_vast import FakeVast

DONE, UNDONE = 0, 2


@pytest.mark.parametrize("command", ["up", "upgrade", "watch"])
def test_nothing_is_rented_for_an_image_without_the_code(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """`cluster/example.yaml` as it is: every box of it would bill until its time to boot is over."""
    del document["image"]
    assert main([command, str(written(document, tmp_path))]) == UNDONE
    assert "image.source: a stock CUDA image holds no Farthing" in capsys.readouterr().err
    assert fake.contracts == {}


def test_watch_without_an_up_rents_nothing_and_ends_nothing(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from another folder than the one that `up` was run in."""
    assert main(["up", str(written(document, tmp_path))]) == DONE
    serving = [c.id for c in fake.standing()]
    elsewhere = written({**document, "state_dir": str(tmp_path / "elsewhere")}, tmp_path)
    assert main(["watch", str(elsewhere)]) == UNDONE
    said = capsys.readouterr().err
    assert "no `up` was run in" in said and "1 boxes of this name bill" in said
    assert [c.id for c in fake.standing()] == serving and len(fake.contracts) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_watch_leaves_the_boxes_alone_when_the_state_is_moved_away(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == DONE
    deck = operate.open_deck(load(file), print)
    (tmp_path / "state" / "test" / "state.json").unlink()
    trouble = operate.Watcher(deck, threading.Event())._look()
    assert isinstance(trouble, NeverUp) and len(fake.standing()) == 1 == len(fake.contracts)

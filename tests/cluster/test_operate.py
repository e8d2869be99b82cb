"""What people do with the commands beside the plan: half a file, another folder, an edited file, two at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.__main__ import main
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

"""What the command line takes and refuses before anything is asked of anybody, and how it says so."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.__main__ import main
from cluster.config import ClusterConfig
from cluster.plan import _notes
from tests.cluster.conftest import written
from tests.cluster.fake_vast import FakeVast, Reply

UNDONE = 2


@pytest.mark.parametrize(
    "args",
    [
        ("offers", "--limit", "-1"),
        ("offers", "--limit", "0"),
        ("logs", "--tail", "-5"),
        ("cost", "--days", "0"),
        ("cost", "--days", "999999999"),
        ("watch", "--metrics-port", "99999"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main([*args, "cluster.yaml"])
    assert refused.value.code == UNDONE and f"argument {args[1]}" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_to_be(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["watch", "--metrics-port", str(taken.getsockname()[1]), str(file)]) == UNDONE
    assert "already in use" in capsys.readouterr().err


def test_with_json_every_line_of_both_streams_is_json(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.machines.clear()
    assert main(["up", "--json", str(written(document, tmp_path))]) == UNDONE
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == "nothing_within_cap"
    assert [json.loads(line)["say"] for line in said.err.splitlines()][-1].startswith("error: no offer within")


def test_status_does_not_need_to_know_of_rising_prices(
    fake: FakeVast, document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(document, tmp_path)
    assert main(["up", str(file)]) == 0

    def on_call(verb: str, path: str, at: str) -> None:
        if "pending-price-increases" in path:
            raise Reply(404, "not found")

    fake.on_call = on_call
    assert main(["status", str(file)]) == 0 and "1 of 1 serve" in capsys.readouterr().out


@pytest.mark.parametrize(("url", "told"), [("http://vast.example", True), ("http://127.0.0.1:1", False)])
def test_a_key_that_would_go_in_the_clear_is_told(document: dict[str, Any], url: str, told: bool) -> None:
    config = ClusterConfig.model_validate({**document, "provider": {"url": url}})
    assert any("in the clear" in note for note in _notes(config)) is told

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from serving.ledger import export
from serving.ledger.row import Row
from serving.ledger.store import Store, epoch_ms

Put = Callable[..., set[str]]


def command(store: Store, *words: str) -> int:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parser.parse_args(words), store)


def test_rows_come_out_as_they_went_in(store: Store, put: Put) -> None:
    rows = [
        Row(request_id=f"{i:05}", at_ms=i // 2, tenant="tü"[i % 2], tags=["a"] * (i % 3), score=None if i % 2 else 0.1)
        for i in range(2_500)
    ]
    put(*reversed(rows))
    assert [Row.from_json(orjson.loads(line)) for line in export.lines(store)] == rows
    assert [orjson.loads(line)["request_id"] for line in export.lines(store, 1_249, "ü")] == ["02499"]


def test_to_a_file(store: Store, put: Put, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(Row(request_id="a", at_ms=epoch_ms()), Row(request_id="b", at_ms=1))
    target = tmp_path / "rows.jsonl"
    assert command(store, "--since", "1h", "--output", str(target)) == 0
    assert [orjson.loads(line)["request_id"] for line in target.read_bytes().splitlines()] == ["a"]
    assert "1 requests written" in capsys.readouterr().err
    assert command(store, "--output", str(tmp_path / "no" / "dir")) == 2
    assert "cannot write" in capsys.readouterr().err


def test_to_stdout(store: Store, put: Put, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    put(Row(request_id="a", at_ms=1), Row(request_id="b", at_ms=2))
    assert command(store) == 0
    assert len(capfdbinary.readouterr().out.splitlines()) == 2


def test_a_reader_that_has_seen_enough_is_no_error(store: Store, put: Put, url: str) -> None:
    put(*(Row(request_id=str(i), at_ms=i, tags=["x" * 1_000]) for i in range(2_000)))
    program = (
        "import argparse, sys; from serving.ledger import export; from serving.ledger.store import Store;"
        "p = argparse.ArgumentParser(); export.add_arguments(p);"
        "sys.exit(export.run(p.parse_args([]), Store.open(sys.argv[1])))"
    )
    reading = subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert reading.stdout is not None
    assert reading.stdout.readline().startswith(b'{"request_id":"0"')
    reading.stdout.close()
    assert reading.stderr is not None
    assert reading.stderr.read() == b""
    assert reading.wait(timeout=30) == 0
    reading.stderr.close()


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"{}\n"
        raise RuntimeError("the database went away")

    target = tmp_path / "rows.jsonl"
    target.write_text("old")
    with pytest.raises(RuntimeError):
        export.to_file(broken(), target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]

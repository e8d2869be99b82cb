"""The parts of a label run by themselves: the judge's words, the work file, and running what a model wrote."""

from __future__ import annotations

import argparse
import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from models.errors import ConfigError
from serving.label import code, judge
from serving.label.arguments import add_arguments
from serving.label.client import Stopped
from serving.label.work import WorkFile
from tests.serving.conftest import running
from tests.serving.label.conftest import Setup, read_lines, sums, write_lines


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Both are right. Verdict: tie", "tie"),
        ("I thought Verdict: 1 at first.\n**Verdict: 2**", "second"),
        ("verdict : ** answer_1", "first"),
        ("2.", "second"),
        ("Tie", "tie"),
        ("Answer 1 is better", None),
        ("Verdict: 12", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_or_there_is_none(reply: str, said: str | None) -> None:
    assert judge.verdict(reply) == said


def test_only_a_verdict_that_survives_the_swap_counts() -> None:
    assert judge.scores("first", "second") == (1.0, 0.0)
    assert judge.scores("second", "first") == (0.0, 1.0)
    for same in ("first", "second", "tie"):
        assert judge.scores(same, same) == (0.5, 0.5)  # type: ignore[arg-type]
    assert judge.scores("first", "tie") == (0.5, 0.5)


def test_braces_in_a_text_stay_as_they_are() -> None:
    assert "{x} {request}" in judge.question("{x} {request}", "{0}", "b")


def test_a_work_file_keeps_what_was_written_and_only_whole_lines(tmp_path: Path) -> None:
    path, settings = tmp_path / "w", {"small": "s"}
    work = WorkFile.open(path, settings)
    work.add({"key": "k", "what": "s", "cost_usd": 0.5, "text": "a"})
    work.add({"key": "l", "what": "s", "cost_usd": 0.25, "error": "passing", "final": False})
    with pytest.raises(ConfigError, match="in use"):
        WorkFile.open(path, settings)
    work.close()
    path.write_bytes(path.read_bytes() + b'{"key": "m", "wha')
    again = WorkFile.open(path, settings)
    assert (again.spent_usd, list(again.answers)) == (0.75, [("k", "s")])
    again.close()
    assert path.read_bytes().endswith(b"}\n")
    with pytest.raises(ConfigError, match="other settings"):
        WorkFile.open(path, {"small": "t"})


def test_a_full_disk_leaves_whole_lines_and_can_be_gone_on_with(tmp_path: Path) -> None:
    path, entry = tmp_path / "w", {"key": "k", "what": "s", "cost_usd": 0.5, "text": "a" * 100}
    work = WorkFile.open(path, {})
    work.add(entry)
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for room_bytes in (50, 0):  # half a line, then nothing at all
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room_bytes, limits[1]))
            with pytest.raises(Stopped, match="cannot write"):
                work.add({**entry, "key": "l"})
            assert path.read_bytes() == whole and work.spent_usd == 0.5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    work.add({**entry, "key": "m"})
    work.close()
    again = WorkFile.open(path, {})
    assert list(again.answers) == [("k", "s"), ("m", "s")]
    again.close()


@pytest.mark.parametrize(
    "line", [b"no json\n", b"[]\n", b'{"settings":{}}\n{"key":"k"}\n', b'{"settings":{}}\n5\n', b"one line"]
)
def test_a_file_that_is_no_work_file_is_left_alone(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "w"
    path.write_bytes(line)
    with pytest.raises(ConfigError, match=r"work file"):
        WorkFile.open(path, {})
    assert path.read_bytes() == line


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("```python\ndef f(x):\n    return x + 1\n```", True),
        ("def f(x):\n    return x + 1", True),
        ("```python\ndef f(x):\n    return 0\n```\nbetter:\n```py\ndef f(x):\n    return x + 1\n```\nDone.", True),
        ("```python\ndef f(x):\n    return x\n```", False),
        ("I cannot do that.", False),
        ("import sys\nsys.exit(0)", False),
        ("import os\nos._exit(0)", False),
        ("def f(x):\n    return x + 1\nif __name__ == '__main__':\n    input()", True),
        ("while True: pass", False),
        ("x = 'a' * (4 << 30)\ndef f(x): return x + 1", False),
        ("def f(x): return x + 1\nprint('x' * 10**7)", False),
        ("import time\ntime.sleep(60)", False),
    ],
)  # fmt: skip
async def test_code_passes_its_tests_or_not(answer: str, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "CPU_S", 2)
    monkeypatch.setattr(code, "WALL_S", 4.0)
    assert await code.passes(answer, "assert f(1) == 2") is right


async def test_code_sees_no_secret_and_what_it_starts_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FARTHING_API_KEY", "fk-secret")
    monkeypatch.setattr(code, "WALL_S", 3.0)
    assert await code.passes("import os", "assert 'FARTHING_API_KEY' not in os.environ")
    mark = tmp_path / "mark"
    late = f"import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 2; touch {mark}'])\ndef f(x): return 2"
    assert await code.passes(late, "assert f(1) == 2")
    await code.passes("import time\ntime.sleep(60)", "")
    assert not mark.exists()


async def test_what_the_code_starts_ends_also_out_of_its_group(tmp_path: Path) -> None:
    if not await code.network_is_cut():
        pytest.skip("the kernel lets us make no process numbers")
    began, mark = tmp_path / "began", tmp_path / "mark"
    words = f"['sh', '-c', 'touch {began}; sleep 1; touch {mark}']"
    late = f"import os, subprocess, time\nsubprocess.Popen({words}, start_new_session=True)\n"
    late += f"while not os.path.exists('{began}'): time.sleep(0.01)"
    assert await code.passes(late, "")
    await asyncio.sleep(1.5)
    assert began.exists() and not mark.exists()


async def test_code_has_no_network_where_it_can_be_cut() -> None:
    if not await code.network_is_cut():
        pytest.skip("the kernel lets us make no network")
    reach = "import socket\nnames = [name for _, name in socket.if_nameindex()]\nassert names in ([], ['lo']), names\n"
    assert await code.passes(
        "x = 1", reach + "s = socket.socket(); s.settimeout(1)\nassert s.connect_ex(('127.0.0.1', 1))"
    )


async def test_code_has_to_be_allowed(classroom: Setup, label: Any, tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "What is 2 + 3?", "tests": "assert 1"}]
    file, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5"]
        told = await label(*words)
        assert told[0] == 2 and "--run-code" in told[1] and not classroom.small.calls
        assert (await label(*words, "--run-code"))[0] == 0
    (row,) = read_lines(out)
    assert row["scored_by"] == "python" and row["models"]["small"]["correct"] == 0.0  # prose is no code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--strong", "small"], "same tier"),
        (["--sample", "0"], "--sample is more than nothing"),
        (["--max-usd", "0"], "--max-usd is more than nothing"),
        (["--url", "localhost:8000"], "an address like"),
        (["--key-file", "/nowhere/key"], "cannot read the key"),
        (["--out", "/nowhere/out.jsonl"], "cannot write"),
        (["--out", "/"], "a file is expected"),
        (["--out", "."], "a file is expected"),
    ],
)
async def test_a_mistake_is_told_before_anything_is_asked(
    label: Any, tmp_path: Path, words: list[str], says: str
) -> None:
    file = write_lines(tmp_path / "in.jsonl", sums(3))
    code_, told = await label(
        str(file), "--out", str(tmp_path / "o"), "--max-usd", "1", "--url", "http://127.0.0.1:9", *words
    )
    assert code_ == 2 and says in told


async def test_the_prompts_are_not_written_over_and_a_key_is_one(
    label: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_lines(tmp_path / "in.jsonl", sums(3))
    words, before = ["--max-usd", "1", "--url", "http://127.0.0.1:9"], file.read_bytes()
    code_, told = await label(str(file), "--out", str(tmp_path / "." / "in.jsonl"), *words)
    assert code_ == 2 and "would replace the prompts" in told and file.read_bytes() == before
    for key in (b"fk-\xff", b"fk-secret\nand more", "fk-\u200bsecret".encode()):
        (tmp_path / "key").write_bytes(key)
        code_, told = await label(str(file), "--out", str(tmp_path / "o"), *words, "--key-file", str(tmp_path / "key"))
        assert code_ == 2 and "holds no key" in told and "secret" not in told
    monkeypatch.setenv("FARTHING_API_KEY", "fk-secret\r\nx: y")
    code_, told = await label(str(file), "--out", str(tmp_path / "o"), *words)
    assert code_ == 2 and "FARTHING_API_KEY holds no key" in told


@pytest.mark.parametrize("error", ["not found", ["not found"], None])
async def test_an_error_in_another_servers_words_ends_the_run(label: Any, tmp_path: Path, error: Any) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"error": error}, status=404)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    file = write_lines(tmp_path / "in.jsonl", sums(3))
    async with TestServer(app) as server:
        words = ["--max-usd", "1", "--url", str(server.make_url("")), "--parallel", "1"]
        code_, told = await label(str(file), "--out", str(tmp_path / "o"), *words)
    assert code_ == 1 and "does not know this tier" in told


@pytest.mark.parametrize("text", ["{", "[]"])
def test_fields_are_an_object(text: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parser.parse_args(["in", "--out", "o", "--max-usd", "1", "--fields", text])

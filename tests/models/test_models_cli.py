"""`python -m models`: figures for people, JSON for machines, and errors in one line with exit code 2."""

from __future__ import annotations

import json

import pytest

from models.__main__ import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--gpu", "voodoo2"],
        ["fit", "--gpu", "rtx4090", "--context", "0"],
        ["fit", "--gpu-memory-gib", "-3"],
        ["fit", "no-such-profile", "--gpu", "rtx4090"],
        ["price", "no-such-model"],
        ["prepare", "no-such-profile"],
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ") and told.err.count("\n") == 1 and told.out == ""


def test_without_a_gpu_fit_asks_for_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("models.__main__.detect_gpu", lambda: None)
    assert main(["fit"]) == 2
    assert "--gpu rtx4090" in capsys.readouterr().err


def test_fit_prints_every_profile_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--gpu", "rtx4090", "--context", "4096"]) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    assert "fits" in shown["qwen3-8b-awq"] and "4,096" in shown["qwen3-8b-awq"]
    assert "weights too large" in shown["qwen3-32b-fp8"]
    assert main(["fit", "--gpu", "rtx4090", "--context", "4096", "--json"]) == 0
    reports = {report["profile"]: report for report in json.loads(capsys.readouterr().out)}
    report = reports["qwen3-8b-awq"]
    assert report["fits"] and report["concurrent"] == report["kv_tokens"] // 4096
    assert f"{report['kv_tokens']:,}" in shown["qwen3-8b-awq"]


def test_a_card_may_be_given_by_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "embedded", "--gpu-memory-gib", "24"]) == 0
    assert "24 GiB: 24.0 GiB" in capsys.readouterr().out


def test_profiles_and_prices_say_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles"]) == 0
    assert "Apache-2.0" in capsys.readouterr().out
    assert main(["price", "gpt-6-luna", "--provider", "openai", "--on", "2026-11-20"]) == 0
    assert "genai-prices" in capsys.readouterr().out
    assert main(["price", "qwen3-8b-awq"]) == 0
    assert "/h at" in capsys.readouterr().out

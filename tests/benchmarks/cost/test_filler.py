from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import filler
from benchmarks.cost.mixing import Mix
from benchmarks.cost.workload import by_text

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{i:02d}.6805900,{100 + i},{10 + i}\n" for i in range(50)
)
MODELS = ["a", "b"]


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE, encoding="utf-8")
    return path


def test_both_trace_formats_give_times_from_zero_and_lengths(azure: Path, tmp_path: Path) -> None:
    found = filler.read_trace(azure)
    assert (found[0].at_s, found[3].at_s) == (0.0, pytest.approx(3.0))
    assert (found[3].input_tokens, found[3].output_tokens) == (103, 13)
    mooncake = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 1000 * i, "input_length": 9, "output_length": 4, "hash_ids": [0]} for i in (5, 4)]
    mooncake.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [a.at_s for a in filler.read_trace(mooncake)] == [0.0, 1.0]


def test_another_file_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(BenchmarkError, match="is no trace"):
        filler.read_trace(path)


def test_traffic_has_the_traces_lengths_at_the_stated_rate(azure: Path) -> None:
    mix = Mix(seed=1, rps=5.0, repeat_rate=0.3, paraphrase_rate=0.1)
    found = filler.traffic(azure, mix, 40, MODELS, 120)
    assert len(found.requests) == 21  # those of at most 120 tokens
    assert len(found.requests) / found.duration_s == pytest.approx(5.0)
    kinds = [r.kind for r in found.requests]
    assert kinds.count("repeat") and kinds.count("new")
    fresh = [r for r in found.requests if r.kind == "new"]
    answers = found.recorded()
    assert set(answers) == {"a", "b"}
    assert [answers["a"][r.question].input_tokens for r in fresh] == [len(r.text.split()) for r in fresh]
    assert all(by_text(found.requests)[r.text] == r.question for r in found.requests)
    assert filler.traffic(azure, mix, 40, MODELS, 120) == found


def export(tmp_path: Path, *rows: dict[str, object]) -> Path:
    usual = {"status": "answered", "endpoint": "chat/completions", "tenant": "t", "input_tokens": 7, "output_tokens": 3}
    path = tmp_path / "export.jsonl"
    path.write_text("".join(json.dumps(usual | row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_ledger_without_texts_keeps_times_lengths_tenants_and_repeats(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        {"request_id": "r1", "at_ms": 5_000, "prompt_sha256": "x"},
        {"request_id": "r2", "at_ms": 6_000, "prompt_sha256": "y", "tenant": "u"},
        {"request_id": "r3", "at_ms": 7_000, "prompt_sha256": "x", "status": "cached"},
        {"request_id": "r4", "at_ms": 8_000, "prompt_sha256": "z", "status": "failed"},
    )
    found = filler.from_ledger(path, MODELS, None, None)
    assert [(r.id, r.arrival_s, r.kind, r.tenant) for r in found.requests] == [
        ("r1", 0.0, "new", "t"),
        ("r2", 1.0, "new", "u"),
        ("r3", 2.0, "repeat", "t"),
    ]
    assert found.requests[0].text == found.requests[2].text != found.requests[1].text
    assert found.recorded()["b"]["x"].output_tokens == 3
    assert found.facts["with_texts"] == 0


def test_a_ledger_with_texts_is_asked_and_answered_in_them(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Why?"}]
    path = export(
        tmp_path, {"request_id": "r1", "at_ms": 0, "prompt_sha256": "x", "messages": messages, "answer_text": "So."}
    )
    found = filler.from_ledger(path, MODELS, 2.0, None)
    assert found.requests[0].messages == messages
    assert found.recorded()["a"]["x"].text == "So."
    assert found.facts["with_texts"] == 1


def test_an_export_without_answered_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no answered chat request"):
        filler.from_ledger(export(tmp_path, {"request_id": "r", "at_ms": 0, "status": "failed"}), MODELS, None, None)

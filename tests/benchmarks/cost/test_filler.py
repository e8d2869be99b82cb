from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import filler
from benchmarks.cost.mixing import Mix
from benchmarks.cost.workload import by_conversation, conversation

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
    cut_off = tmp_path / "cut.csv.gz"
    cut_off.write_bytes(gzip.compress(AZURE.encode())[:-20])
    for found in (path, cut_off, tmp_path / "none.csv", tmp_path):
        with pytest.raises(BenchmarkError, match=r"is no trace|cannot read"):
            filler.read_trace(found)


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
    names = by_conversation(found.requests)
    assert all(names[conversation(r.messages)] == r.question for r in found.requests)
    assert filler.traffic(azure, mix, 40, MODELS, 120) == found

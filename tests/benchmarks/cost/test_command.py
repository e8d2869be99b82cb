from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import command, prepared, zeroeval
from benchmarks.cost import options as cost_options
from benchmarks.cost.architectures import RTX_4090
from tests.benchmarks.cost import questions


def options(*arguments: str) -> object:
    return cost_options.parse(list(arguments))


def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:15:{i:02d}.6805900,1000,100\n" for i in range(40))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows, encoding="utf-8")
    return path


def test_a_trace_needs_no_learning_and_one_service_with_every_row(tmp_path: Path) -> None:
    ready, plan = command.prepare(options("--trace", str(trace(tmp_path)), "--rps", "20"), tmp_path)  # type: ignore[arg-type]
    ((deployed, rows),) = plan
    assert deployed.artifacts is None
    assert [row.name for row in rows][-1] == "routed-semantic"
    assert ready.known is None
    busy_s = 1000 / RTX_4090.prefill_tokens_per_s + 100 / RTX_4090.decode_tokens_per_s
    assert ready.gpu.count == pytest.approx(20 * busy_s / 0.8, abs=1)
    assert {row["tier"] for row in ready.prices.rows()} == {"small", "cheap", "frontier"}


def test_a_stated_gpu_is_used_and_said_to_be_stated(tmp_path: Path) -> None:
    given = options("--trace", str(trace(tmp_path)), "--gpu-usd-per-hour", "1.5")
    ready, _ = command.prepare(given, tmp_path)  # type: ignore[arg-type]
    assert ready.gpu.usd_per_hour == 1.5
    assert "command line" in ready.gpu.price_source
    assert "command line" not in ready.gpu.source
    assert 1.5 in [hour.usd_per_hour for hour in ready.hours]


def test_a_file_without_the_models_is_refused_with_their_names(tmp_path: Path) -> None:
    rows = questions.write(tmp_path / "rows.jsonl", 5)
    with pytest.raises(BenchmarkError, match="Llama"):
        command.prepare(options("--zeroeval", str(rows)), tmp_path)  # type: ignore[arg-type]


def test_low_loads_are_the_same_requests_stretched(tmp_path: Path) -> None:
    asked = zeroeval.read(questions.write(tmp_path / "rows.jsonl", 60), list(questions.MODELS.values()))
    fold = np.zeros(60, np.int64)
    whole = prepared.workload(asked, fold, command.Mix(0, 10.0, 0.0, 0.0), None, asked)
    (low,) = prepared.low_loads(whole, [1.0], 20.0)
    assert 0 < len(low.requests) < 60
    first = low.requests[0]
    assert first.arrival_s == pytest.approx(whole.requests[0].arrival_s * 10)
    assert low.requests[-1].arrival_s <= 20.0
    (rare,) = prepared.low_loads(whole, [0.05], 1.0)
    assert len(rare.requests) == 2, "one request is no load"

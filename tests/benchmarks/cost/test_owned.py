"""Whose word counts on what a GPU costs and how fast it is, and that the report says whose it was."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.child import ROOT, BenchmarkError
from benchmarks.cost import configured, options, owned
from benchmarks.cost.architectures import RTX_4090
from benchmarks.cost.breakeven import Capacity
from benchmarks.cost.market import Market
from benchmarks.cost.measured import Measured
from benchmarks.cost.prices import rate_card
from models.prices import RateCard

USD = [0.30, 0.40, 0.44, 0.50, 0.90]


def offers(tmp_path: Path, *more: dict[str, Any], gpu: str = "RTX 4090") -> Path:
    """As `python -m cluster offers FILE --json` prints them."""
    path = tmp_path / "offers.json"
    rows = [{"offer_id": i, "gpu": gpu, "usd_per_hour": usd, "bid_usd_per_hour": None} for i, usd in enumerate(USD)]
    path.write_text(json.dumps([row | {"seen_at": "2026-11-20T10:00:00+00:00"} for row in rows] + list(more)))
    return path


def engine(tmp_path: Path, gpu: str = "NVIDIA H100 80GB HBM3, 81559 MiB", **config: Any) -> Path:
    """As `python -m benchmarks.engine` writes them, on a GPU, with keys that nobody here knows."""
    rates = {1: 120.0, 64: 4800.0, 128: 4700.0}
    rows = [
        {"contender": name, "kind": "stream", "clients": n, "output_tokens_per_s": {"median": rate * part}, "new": 1}
        for n, rate in rates.items()
        for name, part in (("bare", 1.1), ("gateway", 1.0))
    ]
    usual = {"model": "qwen3-8b-fp8", "dummy": True, "tokens": 128, "prompt_words": 256, "usd_per_hour": "None"}
    machine = {"gpus": [gpu] if gpu else [], "cpu": "A CPU", "commit": "abc1234"}
    record = {"date": "2026-11-26T20:00:00+00:00", "machine": machine, "config": usual | config, "extra": {}}
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(record | {"vllm": {"results": rows, "extra": 1}}))
    return path


def found(*arguments: object, card: RateCard | None = None) -> owned.Owned:
    given: argparse.Namespace = options.parse([str(argument) for argument in arguments])
    return owned.of_options(given, card, "some.yaml")


def card() -> RateCard:
    config = {"tiers": [{"name": "s", "backends": [{"kind": "engine", "profile": "qwen3-14b-awq"}],
                         "price": {"usd_per_hour": 0.55}}]}  # fmt: skip
    own = configured.own_card(config)
    assert own is not None
    return own


def test_nobody_said_anything() -> None:
    assert found().gpu == owned.replace(RTX_4090, price_source=f"{RTX_4090.price_source} (2026-11-22)")
    assert [hour.usd_per_hour for hour in found().hours] == [0.24, 0.40, 0.68]


def test_the_hours_price_is_the_command_lines_then_the_markets_then_the_configurations(tmp_path: Path) -> None:
    market = offers(tmp_path)
    told = found("--market", market, "--gpu-usd-per-hour", 0.35, card=card()).gpu
    assert (told.usd_per_hour, told.price_source.startswith("stated on the command line")) == (0.35, True)
    told = found("--market", market, card=card()).gpu
    assert told.usd_per_hour == 0.44
    assert told.price_source == (
        "median of 5 offers of one RTX 4090, none of them interruptible, in offers.json (2026-11-20)"
    )
    told = found(card=card()).gpu
    assert told.usd_per_hour == 0.55
    assert "some.yaml" in told.price_source
    assert (told.prefill_tokens_per_s, told.decode_tokens_per_s) == (2800, 540)
    assert "assumed: RTX 4090" in told.source


def test_break_even_is_worked_out_at_prices_of_the_market_where_it_is_known(tmp_path: Path) -> None:
    hours = found("--market", offers(tmp_path)).hours
    assert [hour.usd_per_hour for hour in hours] == [0.34, 0.44, 0.74]
    assert [hour.source.partition(" of ")[0] for hour in hours] == ["10 % quantile", "median", "90 % quantile"]
    assert {hour.as_of for hour in hours} == {"2026-11-20"}


def test_the_providers_own_answer_is_a_market_too_and_its_date_the_files(tmp_path: Path) -> None:
    rows = [{"gpu_name": "RTX 4090", "dph_total": usd, "num_gpus": 1, "is_bid": True} for usd in USD]
    rows += [{"gpu_name": "RTX 4090", "dph_total": 9.0, "num_gpus": 8}, {"gpu_name": "H200", "dph_total": 2.5}]
    path = tmp_path / "bundles.json"
    path.write_text(json.dumps({"offers": rows}))
    os.utime(path, (1_790_000_000, 1_790_000_000))
    market = Market.read(path, "rtx4090")
    assert market.median().usd_per_hour == 0.44, "eight cards at once are not the price of one"
    assert market.as_of == "2026-09-21, when the file was last changed"
    assert "5 of them interruptible" in market.source


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "no offer of one 'rtx4090'; it has: none"),
        ('[{"gpu": "H200", "usd_per_hour": 2}]', "it has: H200"),
        ('[{"gpu": "RTX 4090", "usd_per_hour": 0}]', "is no market file"),
        ('[{"gpu": "RTX 4090"}]', "is no market file"),
        ('{"success": false}', "is no market file"),
        ("7", "is no market file"),
        ("not json", "is no market file"),
    ],
)
def test_another_file_is_no_market(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "market.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=complaint):
        Market.read(path, "rtx4090")


def test_a_measured_engine_gives_the_speed_and_the_report_says_where_from(tmp_path: Path) -> None:
    told = found("--engine", engine(tmp_path), "--gpu-usd-per-hour", 2.4)
    assert told.gpu.decode_tokens_per_s == 4800
    said = ("measured: 4,800 output tokens/s, gateway, 64 callers", "qwen3-8b-fp8 with random weights", "abc1234")
    for part in (*said, "NVIDIA H100 80GB HBM3", "engine.json", "prompts are read at 8000 tokens/s (assumed"):
        assert part in told.gpu.source
    speeds = told.speeds()
    assert (speeds.gpu_answer_tokens_per_s, speeds.gpu_running) == (120, 64)
    capacity = Capacity.of_card(rate_card(told.gpu), 800, 480)
    assert capacity.measured
    assert capacity.rps == pytest.approx(1 / (800 / 8000 + 480 / 4800))
    assert [hour.usd_per_hour for hour in told.hours] == [1.2, 2.4, 4.8]
    assert "nobody's offer" in told.hours[0].source


def test_prices_of_a_4090_are_not_taken_for_another_card(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="what does an hour of one NVIDIA H100 80GB HBM3 cost"):
        found("--engine", engine(tmp_path))
    with pytest.raises(BenchmarkError, match="--gpu is rtx4090: name one card"):
        found("--engine", engine(tmp_path), "--market", offers(tmp_path), "--gpu", "rtx4090")
    with pytest.raises(BenchmarkError, match="no offer of one 'NVIDIA H100 80GB HBM3'; it has: RTX 4090"):
        found("--engine", engine(tmp_path), "--market", offers(tmp_path))
    with pytest.raises(BenchmarkError, match="how fast is a h200"):
        found("--gpu", "h200", "--gpu-usd-per-hour", 2.5)
    on_4090 = engine(tmp_path, gpu="NVIDIA GeForce RTX 4090, 24564 MiB")
    assert found("--engine", on_4090).gpu.usd_per_hour == 0.40
    assert found("--engine", engine(tmp_path, usd_per_hour=2.2)).gpu.usd_per_hour == 2.2


def test_a_configuration_of_another_card_says_nothing_about_this_one(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="what does an hour of one NVIDIA H100 80GB HBM3 cost"):
        found("--engine", engine(tmp_path), card=card())
    with pytest.raises(BenchmarkError, match="how fast is a h200"):
        found("--gpu", "h200", "--gpu-usd-per-hour", 2.5, card=card())


def test_speeds_stated_on_the_command_line_are_not_called_measured(tmp_path: Path) -> None:
    stated = ["--gpu-usd-per-hour", 2.4, "--gpu-prefill-tokens-per-s", 30_000]
    told = found("--engine", engine(tmp_path), *stated).gpu
    assert (told.prefill_tokens_per_s, told.decode_tokens_per_s) == (30_000, 4800)
    assert "prompts are read at 30000 tokens/s (stated)" in told.source
    told = found("--engine", engine(tmp_path), *stated, "--gpu-decode-tokens-per-s", 5000).gpu
    assert told.decode_tokens_per_s == 5000
    assert not Capacity.of_card(rate_card(told), 1, 1).measured


def test_a_run_that_parted_reading_from_writing_gives_both_speeds() -> None:
    kept = ROOT / "benchmarks" / "results" / "2026-11-26-engine-h100-9e420ad.json"
    gpu = found("--engine", kept).gpu
    card = json.loads(kept.read_text())["vllm"]["rate_card"]["bare"]
    assert (gpu.prefill_tokens_per_s, gpu.decode_tokens_per_s) == tuple(card.values())
    assert gpu.usd_per_hour == 2.4 and "measured too" in gpu.source
    assert found("--engine", kept, "--gpu-prefill-tokens-per-s", 100).gpu.prefill_tokens_per_s == 100


def test_the_kept_engine_result_can_be_used() -> None:
    path = next((ROOT / "benchmarks" / "results").glob("*-engine-vllm-*.json"))
    kept = Measured.read(path)
    assert (kept.best, kept.callers, kept.gpu, kept.usd_per_hour) == (pytest.approx(125, rel=0.01), 16, "", 0.04)
    assert found("--engine", path).gpu.usd_per_hour == 0.04


@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"vllm": {"results": []}}', '{"scripted": {"results": []}}'])
def test_another_file_is_no_engines_result(tmp_path: Path, text: str) -> None:
    path = tmp_path / "engine.json"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match="a result of `python -m"):
        Measured.read(path)

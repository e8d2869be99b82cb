"""The arithmetic of samples."""

from __future__ import annotations

import pytest

from benchmarks.measure import Sample, Spread, Targets, percentile, summarize


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert percentile([3.0], 0.01) == 3.0
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)


def test_rates_and_times_of_a_run() -> None:
    stream = Sample(latency_s=0.3, ttft_s=0.1, gaps_s=[0.05, 0.15], tokens=5, prompt_tokens=10)
    whole = Sample(latency_s=0.2, tokens=3, prompt_tokens=4)
    report = summarize([stream, whole], 2.0, Targets(ttft_ms=100))
    assert (report["rps"], report["output_tokens_per_s"], report["prompt_tokens"]) == (1.0, 4.0, 14)
    assert report["ttft_ms"]["p50"] == 100.0
    assert report["tpot_ms"]["p50"] == 50.0, "0.2 s between arrivals over the four tokens after the first"
    assert report["goodput_rps"] == 0.5, "the one that was not streamed has no first token to be in time"


def test_a_spread_is_the_middle_and_both_ends() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert (spread.median, spread.low, spread.high) == (2.0, 1.0, 3.0)

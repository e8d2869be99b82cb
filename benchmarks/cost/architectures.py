"""What is compared: ways to arrange the same tiers, each as a service configuration and keys of its own.

Rows of one service differ in nothing but the name of the tier that their callers ask for (`auto`: the router chooses)
and how much of the cache their keys may use. Each row's keys are of tenants of its own, so that no row meets
another's answers. Knows no workload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks import service
from benchmarks.cost.replay import Speed

SMALL, CHEAP, FRONTIER = "small", "cheap", "frontier"
ENGINE_MODULE: Final = "benchmarks.cost.replay_engine"
GPU_TTFT_S: Final = 0.02
DECIDE_MS: Final = 30_000  # of the router: on a busy CPU an embedding may take longer than a service would wait


@dataclass(frozen=True, slots=True)
class Gpu:
    """The owned GPUs and what is taken of each: at full load, as a rate card has it.

    `source` is that of the speeds, `price_source` that of the hour's price.
    """

    usd_per_hour: float = 0.40
    prefill_tokens_per_s: float = 8000.0
    decode_tokens_per_s: float = 975.0
    count: int = 1
    source: str = "assumed: the rate card of profile qwen3-8b-fp8 on an RTX 4090 (models/local/profiles.yaml)"
    price_source: str = "assumed: the rate card of profile qwen3-8b-fp8"

    def price(self) -> dict[str, Any]:
        """As the service's configuration states it."""
        return {
            "usd_per_hour": self.usd_per_hour,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "decode_tokens_per_s": self.decode_tokens_per_s,
        }


RTX_4090: Final = Gpu()


@dataclass(frozen=True, slots=True)
class Architecture:
    """`model` is what its requests name; `cache` the key's default (docs/api.md)."""

    name: str
    label: str
    model: str
    cache: Literal["off", "exact", "semantic"] = "off"


ALL_SMALL: Final = Architecture("all-small", "all to the owned GPU", SMALL)
FIXED: Final = (
    Architecture("all-frontier", "all to the frontier", FRONTIER),
    Architecture("all-cheapest", "all to the cheapest hosted", CHEAP),
    ALL_SMALL,
)
WITH_GPU: Final = Architecture("routed-gpu", "routed, owned GPU → frontier", "auto")
ROUTED: Final = (
    Architecture("routed", "routed", "auto"),
    Architecture("routed-exact", "routed + exact cache", "auto", "exact"),
    Architecture("routed-semantic", "routed + semantic cache", "auto", "semantic"),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """The tiers as this run has them. `urls`: base URL of each hosted tier's replay server."""

    models: Mapping[str, str]
    urls: Mapping[str, str]
    gpu: Gpu
    gpu_flags: Mapping[str, Any]
    no_weights: Path

    def tier(self, name: str) -> dict[str, Any]:
        if name != SMALL:
            url = f"{self.urls[name]}/v1"
            return {"name": name, "backends": [{"kind": "http", "url": url, "model": self.models[name]}]}
        flags = {f"replay-{key}": value for key, value in self.gpu_flags.items()}
        engine = {"kind": "engine", "profile": "embedded", "weights": str(self.no_weights), "args": flags}
        return {"name": SMALL, "backends": [engine], "price": self.gpu.price()}

    def config(
        self, tiers: Sequence[str], artifacts: Path | None, strengths: Mapping[str, float] | None
    ) -> dict[str, Any]:
        """The learned router acts where no tier is named; without artifacts the rules do."""
        config = service.configuration([self.tier(name) for name in tiers])
        routing: dict[str, Any] = {"deadline_ms": DECIDE_MS}
        if artifacts is not None:
            learned = {"mode": "act"} | ({} if strengths is None else {"strengths": dict(strengths)})
            routing |= {"decider": "learned", "learned": learned, "artifacts": str(artifacts)}
        return config | {"routing": routing, "cache": {"semantic": {"mode": "serve"}}}


def gpu_speed(gpu: Gpu, one_answer_tokens_per_s: float, running: int) -> Speed:
    """All GPUs as one that is so many times as fast: what a balancer in front of them comes near to."""
    return Speed(
        ttft_s=GPU_TTFT_S,
        tokens_per_s=one_answer_tokens_per_s,
        prefill_tokens_per_s=gpu.prefill_tokens_per_s * gpu.count,
        decode_tokens_per_s=gpu.decode_tokens_per_s * gpu.count,
        running=running * gpu.count,
    )

"""What fits which GPU, computed from a model's config before anything is downloaded or started. Knows no vLLM.

memory vLLM may take   = utilization x total - what the embedder and the index share the card for
KV cache               = that - weights - activations and CUDA graphs
a request of n tokens  = n x (2 x layers x KV heads x head size x bytes) + the state of its linear-attention layers
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from models.errors import ConfigError, DoesNotFit
from models.local.gpus import GIB, Gpu
from models.local.profiles import Architecture, Profile, catalogue

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """How a card's memory is shared out. Bytes; the defaults are stated, not measured.

    `overhead_bytes`: activations of one batch, CUDA graphs, the engine's CUDA context. It grows with the requests in a
    batch: an 8B model took 2.73 GB with 256 (docs/profiles.md), and the profiles run 48 at most.
    `shared_bytes`: a second CUDA context, the encoder and a ring of 256k vectors of 384 floats.
    """

    utilization: float = 0.90
    overhead_bytes: int = 1_500_000_000
    shared_bytes: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FitReport:
    """The numbers for one profile on one GPU. `concurrent` is how many requests of `context_tokens` the KV cache holds.

    `reason` is empty when it fits, or `unknown_config`, `weights`, `context`.
    """

    profile: str
    gpu: str
    gpu_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int
    kv_cache_bytes: int
    kv_tokens: int
    context_tokens: int
    concurrent: int
    note: str = ""
    reason: str = ""

    @property
    def fits(self) -> bool:
        return not self.reason

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fits": self.fits}

    def explain(self) -> str:
        """Why it does not fit, with the numbers and what to do about it."""
        if self.reason == "unknown_config":
            return f"{self.profile}: its size is unknown until its config is here; run: python -m models prepare NAME"
        room = f"{self.gpu} has {self.gpu_bytes / GIB:.1f} GiB; weights take {self.weight_bytes / GB:.1f} GB"
        if self.reason == "weights":
            return f"{self.profile} does not fit: {room}, {-self.kv_cache_bytes / GB:.1f} GB more than is left for them"
        return (
            f"{self.profile} does not fit: {room}, which leaves KV cache for {self.kv_tokens:,} tokens at "
            f"{self.kv_bytes_per_token:,} bytes each, below one request of {self.context_tokens:,} tokens; "
            "lower max_model_len, or take a smaller profile (python -m models fit)"
        )


def fit(profile: Profile, gpu: Gpu, *, context_tokens: int | None = None, budget: Budget = Budget()) -> FitReport:
    """`context_tokens` defaults to the profile's max_model_len, since vLLM refuses to start without room for that."""
    context = context_tokens or profile.engine.max_model_len
    model = profile.architecture
    if model is None:
        return FitReport(profile.name, gpu.name, gpu.total_bytes, 0, 0, 0, 0, context, 0, reason="unknown_config")
    per_token = model.kv_bytes_per_token(profile.kv_dtype)
    usable = int(budget.utilization * gpu.total_bytes) - budget.shared_bytes
    kv_cache = usable - model.weight_bytes - budget.overhead_bytes
    concurrent = max(0, kv_cache) // (context * per_token + model.state_bytes)
    reason = "weights" if kv_cache <= 0 else "context" if concurrent < 1 else ""
    return FitReport(
        profile=profile.name,
        gpu=gpu.name,
        gpu_bytes=gpu.total_bytes,
        weight_bytes=model.weight_bytes,
        kv_bytes_per_token=per_token,
        kv_cache_bytes=kv_cache,
        kv_tokens=_kv_tokens(kv_cache, per_token, model),
        context_tokens=context,
        concurrent=concurrent,
        note=_note(profile, gpu),
        reason=reason,
    )


def check_fits(
    profile: Profile, gpu: Gpu, *, context_tokens: int | None = None, budget: Budget = Budget()
) -> FitReport:
    """Raises DoesNotFit with the numbers. A model whose config nobody has seen passes: vLLM decides."""
    report = fit(profile, gpu, context_tokens=context_tokens, budget=budget)
    if report.reason in ("weights", "context"):
        raise DoesNotFit(report.explain())
    return report


def pick_profile(gpu: Gpu, profiles: Iterable[Profile] | None = None) -> Profile:
    """The catalogue's choice for this card: the largest default that fits and that its tensor cores can multiply."""
    candidates = catalogue().values() if profiles is None else profiles
    defaults = [p for p in candidates if p.default_from_gib is not None]
    for profile in sorted(defaults, key=lambda p: p.default_from_gib or 0, reverse=True):
        big_enough = gpu.total_bytes >= (profile.default_from_gib or 0) * GIB
        if big_enough and (profile.quantization != "fp8" or gpu.fp8_native) and fit(profile, gpu).fits:
            return profile
    smallest = min(p.default_from_gib or 0 for p in defaults)
    raise ConfigError(
        f"no default profile for {gpu.name} ({gpu.total_bytes / GIB:.1f} GiB; the smallest wants {smallest} GiB); "
        "name a profile, a Hugging Face id or a folder in the configuration, or run without a GPU"
    )


def _kv_tokens(kv_cache_bytes: int, per_token: int, model: Architecture) -> int:
    """Tokens left for the KV cache, with one request's state set aside."""
    return max(0, kv_cache_bytes - model.state_bytes) // per_token


def _note(profile: Profile, gpu: Gpu) -> str:
    if profile.quantization == "fp8" and gpu.capability is not None and not gpu.fp8_native:
        return "no FP8 units: weights are unpacked to 16 bit, slower than AWQ here"
    return ""

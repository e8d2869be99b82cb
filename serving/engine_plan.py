"""From the configured profile to what the engine deployment is started with: weights on disk, vLLM flags, GPU share.

Runs in the driver before Ray starts, so that a model that does not fit or cannot be fetched stops the start with words.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import UnknownPrice
from models.local.fit import check_fits, pick_profile
from models.local.gpus import Gpu, detect_gpu, known_name
from models.local.profiles import Profile, catalogue, flags, from_folder, resolve
from models.local.weights import prepare
from models.prices import RateCard
from models.types import Capabilities
from serving.config import Config, EngineBackend, LocalPrice, MembersBackend, Tier
from serving.runtime import Runtime

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What to run for the local tier. `gpus` is the fraction of a GPU Ray reserves, 0 on a CPU."""

    tier: str
    model: str
    weights: Path
    flags: Sequence[str]
    replicas: int
    gpus: float
    max_queued: int


def local_tier(config: Config) -> tuple[Tier, EngineBackend] | None:
    """The tier whose model runs here, if one does."""
    for tier in config.tiers:
        for backend in tier.backends:
            if isinstance(backend, EngineBackend):
                return tier, backend
    return None


def chosen_profile(backend: EngineBackend, gpu: Gpu | None) -> Profile:
    """The named profile, or for `auto` the one that suits the machine."""
    if backend.profile != "auto":
        return resolve(backend.profile)
    return catalogue()["embedded"] if gpu is None else pick_profile(gpu)


def plan_engine(config: Config, runtime: Runtime, tell: Callable[[str], None]) -> EnginePlan | None:
    """Raises DoesNotFit or another StartError; None when no tier runs here."""
    _tell_without_boxes(config, tell)
    found = local_tier(config)
    if found is None:
        return None
    tier, backend = found
    gpu = None if runtime.clustered else detect_gpu()  # the nodes' GPUs, which may not be this one's, load or refuse
    on_gpu = bool(backend.gpus) if runtime.clustered else gpu is not None
    profile = chosen_profile(backend, gpu)
    tell(f"tier '{tier.name}': {profile.name} on {_where(runtime, gpu, on_gpu)}")
    weights = (backend.weights or prepare(profile, runtime.state / "models", tell)).resolve()
    if profile.architecture is None:
        profile = from_folder(weights, profile)
    if gpu is not None and profile.architecture is not None:
        check_fits(profile, gpu)
    kv_bytes = int(backend.kv_cache_gib * GIB) if backend.kv_cache_gib else None
    return EnginePlan(
        tier=tier.name,
        model=profile.name,
        weights=weights,
        flags=[
            *flags(profile, weights, device="cuda" if on_gpu else "cpu", kv_cache_bytes=kv_bytes),
            *_extra(backend),
        ],
        replicas=backend.replicas,
        gpus=0.0 if not on_gpu else backend.gpus if backend.gpus is not None else 0.9,
        max_queued=profile.engine.max_num_queued_reqs,
    )


def _where(runtime: Runtime, gpu: Gpu | None, on_gpu: bool) -> str:
    if runtime.clustered:
        return "GPUs of the cluster" if on_gpu else "CPUs of the cluster"
    return gpu.name if gpu else "the CPU"


def _extra(backend: EngineBackend) -> list[str]:
    """The config's own vLLM arguments; later ones win over the profile's. `true` is a bare switch."""
    out: list[str] = []
    for name, value in backend.args.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            out.append(flag)
        elif value is False:
            out.append("--no-" + flag.removeprefix("--"))
        else:
            out += [flag, str(value)]
    return out


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What is known of a tier whose model we run. `profile_sha256` is of what decides its answers."""

    model: str
    capabilities: Capabilities
    price: RateCard
    profile_sha256: str

    @property
    def nusd_per_hour(self) -> int:
        return int(self.price.usd_per_hour * 1_000_000_000)


def _tell_without_boxes(config: Config, tell: Callable[[str], None]) -> None:
    """They may come at any time, or never, for the file is looked for in a wrong place."""
    for tier in config.tiers:
        for backend in tier.backends:
            if isinstance(backend, MembersBackend) and not backend.file.exists():
                tell(f"tier '{tier.name}' waits for its boxes: {backend.file} is not there yet (python -m cluster up)")


def local_facts(config: Config) -> LocalFacts | None:
    """For gateway replicas and the bookkeeper; None when no tier runs here."""
    found = local_tier(config)
    if found is None:
        return None
    tier, backend = found
    gpu = detect_gpu()
    return _facts(tier, chosen_profile(backend, gpu), gpu)


def member_facts(tier: Tier, backend: MembersBackend) -> LocalFacts:
    """The same of a tier whose model runs on rented boxes; `usd_per_hour` is one box's."""
    return _facts(tier, resolve(backend.profile), None)


def _facts(tier: Tier, profile: Profile, gpu: Gpu | None) -> LocalFacts:
    runs = profile.model_dump_json(include={"name", "weights", "revision", "engine"})
    digest = hashlib.sha256(runs.encode()).hexdigest()
    return LocalFacts(profile.name, profile.capabilities(), local_price(tier, profile, gpu), digest)


def local_price(tier: Tier, profile: Profile, gpu: Gpu | None = None) -> RateCard:
    """The configured hourly price over the profile's throughput, on this GPU where that was measured.

    Raises UnknownPrice when nobody stated either.
    """
    stated = tier.price
    card = profile.card_on(known_name(gpu.name if gpu else None))
    if not isinstance(stated, LocalPrice):
        if card is None:
            raise UnknownPrice(
                f"profile '{profile.name}' has no rate card: give tier '{tier.name}' a "
                "price: {usd_per_hour, prefill_tokens_per_s, decode_tokens_per_s}"
            )
        return card
    prefill = stated.prefill_tokens_per_s or (card and card.prefill_tokens_per_s)
    decode = stated.decode_tokens_per_s or (card and card.decode_tokens_per_s)
    if not prefill or not decode:
        raise UnknownPrice(
            f"tier '{tier.name}': profile '{profile.name}' has no measured throughput; state it in `price`"
        )
    return RateCard(
        usd_per_hour=stated.usd_per_hour,
        prefill_tokens_per_s=prefill,
        decode_tokens_per_s=decode,
        as_of=stated.as_of or datetime.datetime.now(datetime.UTC).date(),
        source="usd_per_hour from the configuration",
    )

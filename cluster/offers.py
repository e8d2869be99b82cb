"""Which offers would do for a profile, and which of them answers a thousand requests for least. Pure; knows no HTTP.

seconds of a request     = input / prefill speed + output / decode speed   (the profile's rate card, scaled to the GPU)
requests/s of a box      = 1 / seconds, or the load the file states if that is less
$/1k requests            = 1000 x ($/h + download of weights and packages over the expected hours) / 3600 / requests/s

A rate card is of one GPU. Another GPU is scaled by what bounds each phase: prefill by arithmetic (TFLOPS), decode by
memory bandwidth, both as the offer states them. That is an estimate; the benchmark at boot measures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import ClusterConfig, Workload
from cluster.errors import NothingWithin
from cluster.vast_types import Offer
from models.errors import ConfigError
from models.local.fit import fit
from models.local.gpus import Gpu, gpu_named, known_name
from models.local.profiles import Profile, catalogue, resolve

EPSILON_USD = 1e-6  # a price at the cap is within it, whatever its sum was rounded to
CUDA = 13.0  # of the wheels in requirements/gpu.txt; consumer cards have no forward compatibility, so it is a minimum
SEARCHED = 200  # the cheapest by the hour, of which the cheapest for a thousand requests is sought
MIN_DRIVER = 580  # NVIDIA's first with CUDA 13
MIN_COMPUTE_CAP = 750  # what vLLM's kernels are built for
PORTS = 2  # the TLS port, and SSH's
EXPECTED_HOURS = 24.0  # that a box is kept: over these the download is spread
PACKAGES_GB = 8.0  # the GPU requirement set and the image, once per box
MB = 1 << 20
CUDA_RESERVE = 0.975  # of a card's label; what CUDA reports is a little less (a 4090: 23.5 of 24 GiB)
# The makers' figures (memory GB/s, FP32 TFLOPS, as offers state them), to scale from the GPU of a rate card.
REFERENCE = {
    "rtx3090": (936.0, 35.6),
    "rtx4090": (1008.0, 82.6),
    "l40s": (864.0, 91.6),
    "h100": (3350.0, 67.0),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of one GPU at full load; `basis` says where the figures come from."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    basis: str

    def seconds(self, workload: Workload) -> float:
        return workload.input_tokens / self.prefill_tokens_per_s + workload.output_tokens / self.decode_tokens_per_s


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer that would do. `bid_usd_per_hour` is what we would bid for the GPU; None rents on demand."""

    offer: Offer
    usd_per_hour: float
    bid_usd_per_hour: float | None
    speed: Speed | None
    concurrent: int
    requests_per_s: float | None
    usd_per_1k: float | None
    usd_per_1k_full: float | None

    def to_json(self) -> dict[str, Any]:
        offer = self.offer
        return {
            "offer_id": offer.offer_id,
            "machine_id": offer.machine_id,
            "gpu": offer.gpu_name,
            "usd_per_hour": round(self.usd_per_hour, 4),
            "bid_usd_per_hour": self.bid_usd_per_hour,
            "usd_per_1k_requests": _rounded(self.usd_per_1k),
            "usd_per_1k_requests_full": _rounded(self.usd_per_1k_full),
            "requests_per_s": _rounded(self.requests_per_s),
            "decode_tokens_per_s": _rounded(self.speed.decode_tokens_per_s if self.speed else None),
            "concurrent_requests": self.concurrent,
            "place": offer.place,
            "datacenter": offer.datacenter,
            "reliability": offer.reliability,
            "down_mbps": offer.down_mbps,
            "down_usd_per_gb": offer.down_usd_per_gb,
            "cuda": offer.cuda_max,
            "driver": offer.driver,
        }


def query(config: ClusterConfig, profile: Profile) -> dict[str, Any]:
    """The search the provider answers; what it cannot express is filtered here by `rank`."""
    wanted = config.machines
    filters: dict[str, Any] = {
        "num_gpus": {"eq": 1},
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "gpu_ram": {"gte": min_gpu_ram_mb(profile)},
        "compute_cap": {"gte": 890 if profile.quantization == "fp8" else MIN_COMPUTE_CAP},
        "cuda_max_good": {"gte": CUDA},
        "reliability2": {"gte": wanted.min_reliability},
        "direct_port_count": {"gte": PORTS},
        "inet_down": {"gte": wanted.min_down_mbps},
        "inet_down_cost": {"lte": wanted.max_usd_per_gb},
        "disk_space": {"gte": config.disk_gb},
        "duration": {"gte": wanted.min_hours_left * 3600},
        "dph_total": {"lte": config.max_usd_per_hour},
        "allocated_storage": config.disk_gb,
        "type": "bid" if config.interruptible else "ondemand",
        "order": [["dph_total", "asc"]],
        "limit": SEARCHED,
    }
    if wanted.gpus:
        filters["gpu_name"] = {"in": list(wanted.gpus)}
    if wanted.regions:
        filters["geolocation"] = {"in": list(wanted.regions)}
    if wanted.datacenter:
        filters["datacenter"] = {"eq": True}
    return filters


def check_gpu_names(config: ClusterConfig) -> None:
    """Raises ConfigError for a card nobody knows: the provider would just answer with no offers."""
    for name in config.machines.gpus:
        try:
            gpu_named(name)
        except ConfigError as error:
            raise ConfigError(f"machines.gpus: {error.message.split(';')[0]}", param="machines.gpus") from error


def min_gpu_ram_mb(profile: Profile) -> int:
    """The smallest card, by its label, that has room for the weights and one request. 0 when nobody knows."""
    for gib in range(4, 256):
        report = fit(profile, _gpu("any", gib * 1024, 0))
        if report.reason == "unknown_config":
            return 0
        if report.fits:
            return gib * 1024 - 512  # labels differ by a few hundred MB; `rank` asks again for each card
    raise NothingWithin(f"{profile.name} fits no single card; python -m models fit --gpu h100 shows the numbers")


def speed_on(profile: Profile, offer: Offer) -> Speed | None:
    """The rate card's speeds, scaled to this offer's card. None without a card."""
    known = known_name(offer.gpu_name)
    card = profile.card_on(known)
    if card is None:
        return None
    prefill, decode = float(card.prefill_tokens_per_s), float(card.decode_tokens_per_s)
    reference = REFERENCE.get(card.gpu or "")
    if reference is None or card.gpu == known or not (offer.memory_gb_per_s and offer.tflops):
        return Speed(prefill, decode, f"rate card of {card.as_of}")
    bandwidth, tflops = reference
    basis = f"rate card of {card.as_of} for one {card.gpu}, scaled by bandwidth and TFLOPS"
    scale_prefill, scale_decode = offer.tflops / offer.num_gpus / tflops, offer.memory_gb_per_s / bandwidth
    return Speed(prefill * scale_prefill, decode * scale_decode, basis)


def rank(offers: Iterable[Offer], config: ClusterConfig, profile: Profile) -> list[Candidate]:
    """Those that fit model and cap, cheapest for a thousand requests first. What nobody can rate comes by $/h, last."""
    found = [candidate for offer in offers if (candidate := _candidate(offer, config, profile))]
    return sorted(found, key=lambda c: (c.usd_per_1k is None, c.usd_per_1k or 0.0, c.usd_per_hour, c.offer.offer_id))


def _candidate(offer: Offer, config: ClusterConfig, profile: Profile) -> Candidate | None:
    report = fit(profile, _gpu(offer.gpu_name, offer.gpu_ram_mb, offer.compute_cap))
    if report.reason in ("weights", "context") or offer.num_gpus != 1:
        return None
    if config.interruptible and not offer.min_bid_usd_per_hour:
        return None  # any bid may be under its floor, and then a stopped box is rented
    driver = re.match(r"\d+", offer.driver)
    if offer.cuda_max < CUDA or (driver and int(driver[0]) < MIN_DRIVER):
        return None
    bid = _bid(offer, config) if config.interruptible else None
    usd_per_hour = offer.usd_per_hour if bid is None else bid + offer.disk_usd_per_hour(config.disk_gb)
    if usd_per_hour > config.max_usd_per_hour + EPSILON_USD:
        return None
    speed = speed_on(profile, offer)
    if speed is None:
        return Candidate(offer, usd_per_hour, bid, None, report.concurrent, None, None, None)
    hourly_usd = usd_per_hour + download_gb(profile) * offer.down_usd_per_gb / EXPECTED_HOURS
    full = 1.0 / speed.seconds(config.workload)
    served = min(full, config.workload.requests_per_s or full)
    return Candidate(
        offer=offer,
        usd_per_hour=usd_per_hour,
        bid_usd_per_hour=bid,
        speed=speed,
        concurrent=report.concurrent,
        requests_per_s=served,
        usd_per_1k=1000 * hourly_usd / 3600 / served,
        usd_per_1k_full=1000 * hourly_usd / 3600 / full,
    )


def _bid(offer: Offer, config: ClusterConfig) -> float:
    """Above the floor by the stated factor, and never more than the cap leaves for the GPU."""
    room = config.max_usd_per_hour - offer.disk_usd_per_hour(config.disk_gb)
    floor = max(0.001, offer.min_bid_usd_per_hour)
    # at the floor itself the next bidder takes it; below it the provider rents a stopped box
    bid = min(floor * config.bid_over_min, max(floor, room))
    short = math.floor(bid * 10_000) / 10_000  # down: the cap stays one
    return short if short >= floor else bid


def download_gb(profile: Profile) -> float:
    return PACKAGES_GB + (profile.architecture.weight_bytes / 1e9 if profile.architecture else 0.0)


def profile_of(config: ClusterConfig) -> Profile:
    """Raises ConfigError for what no box could fetch."""
    if Path(config.profile).expanduser().is_dir() and config.profile not in catalogue():
        raise ConfigError(f"profile: {config.profile} is a folder of this machine, which no box has", param="profile")
    return resolve(config.profile)


def why_none(config: ClusterConfig, offers: list[Offer]) -> str:
    """What to say when no offer is left, from what there was."""
    cheapest = min((o.usd_per_hour for o in offers), default=None)
    seen = f"{len(offers)} offers passed the search" + (f", from ${cheapest:.3f}/h" if cheapest else "")
    return (
        f"no offer within ${config.max_usd_per_hour}/h for {config.profile} ({seen}). Raise max_usd_per_hour, loosen "
        "machines (gpus, regions, min_reliability), or set interruptible: true"
    )


def _gpu(name: str, ram_mb: float, compute_cap: int) -> Gpu:
    capability = (compute_cap // 100, compute_cap % 100 // 10) if compute_cap else None
    try:
        total = min(gpu_named(name).total_bytes, int(ram_mb * MB))
    except ConfigError:
        total = int(ram_mb * MB * CUDA_RESERVE)
    return Gpu(name, total, capability)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")

"""Which offers would do, and in which order: by money for a thousand requests, not by the hour."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from cluster.boot import SCRIPT_LIMIT, environment, rent_body, script
from cluster.config import ENV_VALUE_LIMIT, ClusterConfig
from cluster.errors import NothingWithin
from cluster.offers import REFERENCE, check_gpu_names, min_gpu_ram_mb, query, rank, speed_on
from cluster.vast_types import Offer
from models.errors import ConfigError
from models.local.gpus import KNOWN_GPUS
from models.local.profiles import Profile, catalogue, resolve
from tests.cluster.fake_vast import offer


def config(**changes: Any) -> ClusterConfig:
    base = {"profile": "qwen3-8b-awq", "max_usd_per_hour": 0.6, "budget_usd_per_day": 20, **changes}
    return ClusterConfig.model_validate(base)


def offered(*raw: dict[str, Any]) -> list[Offer]:
    return [Offer.read(r) for r in raw]


AWQ = resolve("qwen3-8b-awq")


def test_a_dearer_faster_card_may_answer_for_less() -> None:
    slow = offer(1, gpu="RTX 3090", usd=0.25, gpu_mem_bw=936.0, total_flops=35.6, compute_cap=860)
    fast = offer(2, usd=0.28)
    dear = offer(3, usd=0.59)
    ranked = rank(offered(slow, fast, dear), config(), AWQ)
    assert [c.offer.offer_id for c in ranked] == [2, 1, 3]
    by_id = {c.offer.offer_id: c for c in ranked}
    assert by_id[1].usd_per_hour < by_id[2].usd_per_hour
    assert by_id[1].speed is not None and "scaled" in by_id[1].speed.basis


def test_the_card_of_a_rate_card_is_a_field_and_its_figures_are_known() -> None:
    cards = [profile.rate_card for profile in catalogue().values() if profile.rate_card is not None]
    assert {card.gpu for card in cards if card.gpu} <= set(REFERENCE) <= set(KNOWN_GPUS)
    assert AWQ.rate_card is not None
    elsewhere = AWQ.rate_card.model_copy(update={"gpu": "rtx3090", "source": "a page about the RTX 4090"})
    (on_it,) = offered(offer(1, gpu="RTX 3090", gpu_mem_bw=936.0, total_flops=35.6, compute_cap=860))
    speed = speed_on(AWQ.model_copy(update={"rate_card": elsewhere}), on_it)
    assert speed is not None and speed.decode_tokens_per_s == float(elsewhere.decode_tokens_per_s)


def test_a_card_that_was_measured_itself_is_not_scaled_to() -> None:
    fp8 = resolve("qwen3-8b-fp8")
    (measured,) = fp8.measured_cards
    (on_it,) = offered(offer(1, gpu="H100 SXM", gpu_mem_bw=3350.0, total_flops=67.0, compute_cap=900))
    speed = speed_on(fp8, on_it)
    assert speed is not None and speed.decode_tokens_per_s == float(measured.decode_tokens_per_s)
    assert "scaled" not in speed.basis


def test_at_a_small_load_the_hour_decides() -> None:
    slow = offer(1, gpu="RTX 3090", usd=0.25, gpu_mem_bw=936.0, total_flops=35.6, compute_cap=860)
    ranked = rank(offered(slow, offer(2, usd=0.28)), config(workload={"requests_per_s": 0.5}), AWQ)
    assert [c.offer.offer_id for c in ranked] == [1, 2]
    assert ranked[0].requests_per_s == 0.5


def test_the_price_of_a_thousand_requests_is_arithmetic() -> None:
    (found,) = rank(offered(offer(1, usd=0.36, inet_down_cost=0.0)), config(), AWQ)
    seconds = 500 / 5000 + 150 / 975
    assert found.usd_per_1k == pytest.approx(1000 * 0.36 / 3600 * seconds)


def test_traffic_counts() -> None:
    free, dear = offer(1, inet_down_cost=0.0), offer(2, inet_down_cost=0.02)
    ranked = rank(offered(dear, free), config(), AWQ)
    assert [c.offer.offer_id for c in ranked] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"gpu_ram": 8192, "gpu_name": "RTX 3070"},
        {"driver_version": "570.86.15"},
        {"cuda_max_good": 12.8},
        {"dph_total": 0.61},
        {"num_gpus": 2},
    ],
)
def test_what_would_not_do_is_left_out(change: dict[str, Any]) -> None:
    assert rank(offered(offer(1) | change), config(), AWQ) == []


def test_memory_follows_from_the_profile() -> None:
    sizes = {name: min_gpu_ram_mb(resolve(name)) for name in ("embedded", "qwen3-8b-awq", "qwen3-14b-fp8")}
    assert sizes["embedded"] < sizes["qwen3-8b-awq"] < sizes["qwen3-14b-fp8"] <= 24 * 1024
    assert query(config(), AWQ)["gpu_ram"] == {"gte": sizes["qwen3-8b-awq"]}
    huge = AWQ.model_copy(update={"architecture": AWQ.architecture.model_copy(update={"weight_bytes": 10**12})})  # type: ignore[union-attr]
    with pytest.raises(NothingWithin, match="no single card"):
        min_gpu_ram_mb(huge)


def test_fp8_wants_fp8_units() -> None:
    assert query(config(), resolve("qwen3-8b-fp8"))["compute_cap"] == {"gte": 890}


def test_a_profile_without_a_rate_card_is_ranked_by_the_hour() -> None:
    bare: Profile = AWQ.model_copy(update={"rate_card": None})
    ranked = rank(offered(offer(1, usd=0.5), offer(2, usd=0.4)), config(), bare)
    assert [(c.offer.offer_id, c.usd_per_1k) for c in ranked] == [(2, None), (1, None)]


def test_an_unknown_card_is_said_to_be_unknown() -> None:
    with pytest.raises(ConfigError, match=r"machines\.gpus: no GPU 'RTX 4900'"):
        check_gpu_names(config(machines={"gpus": ["RTX 4900"]}))


def test_only_an_interruptible_rental_names_a_price() -> None:
    for interruptible in (False, True):
        asked = config(interruptible=interruptible)
        (found,) = rank(offered(offer(1, usd=0.4)), asked, AWQ)
        body = rent_body(asked, found, "farthing:default:0:a", {})
        assert ("price" in body) is interruptible
    assert body["price"] == pytest.approx(0.2 * 1.2)


def test_a_bid_stays_within_the_cap_and_above_the_floor() -> None:
    asked = config(interruptible=True, max_usd_per_hour=0.22, disk_gb=8)
    (found,) = rank(offered(offer(1, usd=0.4, storage_cost=0.09)), asked, AWQ)
    assert found.bid_usd_per_hour is not None and found.bid_usd_per_hour >= 0.2
    assert found.usd_per_hour <= 0.22


@pytest.mark.parametrize("floor", [0.2, 0.20004, 0.183337, 0.1])
@pytest.mark.parametrize("cap", [0.221237, 0.20129, 0.22004])
def test_a_bid_is_not_rounded_over_the_cap_nor_under_the_floor(cap: float, floor: float) -> None:
    asked = config(interruptible=True, max_usd_per_hour=cap, disk_gb=8)
    for found in rank(offered(offer(1, min_bid=floor, storage_cost=0.09)), asked, AWQ):
        assert found.bid_usd_per_hour is not None and found.bid_usd_per_hour >= floor
        assert found.usd_per_hour <= cap + 1e-9
    within = floor + 8 * 0.09 / 720 <= cap
    assert bool(rank(offered(offer(1, min_bid=floor, storage_cost=0.09)), asked, AWQ)) is within


def test_no_bid_is_made_where_the_floor_is_not_known() -> None:
    assert rank(offered(offer(1, min_bid=None)), config(interruptible=True), AWQ) == []


def test_a_price_at_the_cap_is_within_it() -> None:
    (found,) = rank(offered(offer(1, dph_total=0.1 + 0.2)), config(max_usd_per_hour=0.3), AWQ)
    assert found.usd_per_hour > 0.3  # by a rounding


def test_what_is_sent_keeps_to_the_providers_limits() -> None:
    source = {"url": "https://example.org/" + "x" * 200, "sha256": "0" * 64}
    asked = config(image={"source": source}, ssh=True)
    env = environment(asked, "farthing:default:0:" + "a" * 12, "n" * 60, "t" * 43)
    assert all(len(value) <= ENV_VALUE_LIMIT for value in env.values())
    assert len(script(asked)) <= SCRIPT_LIMIT
    assert [k for k in env if k.startswith("-p")] == ["-p 8443:8443"]


def test_the_start_script_is_valid_shell() -> None:
    for source in (None, {"url": "https://example.org/x", "sha256": "0" * 64}):
        text = script(config(image={"source": source}))
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""
    for name in ("bootstrap.sh", "box/deadman.sh"):
        assert subprocess.run(["bash", "-n", f"cluster/{name}"], capture_output=True, check=False).stderr == b""

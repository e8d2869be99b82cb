"""Parts of the service that are a page each: request ids, decisions across a border, names of tiers, engine plans."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from models.errors import BadRequest, ContextExceeded, ModelNotFound, UnknownPrice, Unsupported
from models.local.gpus import Gpu, gpu_named
from models.local.profiles import catalogue
from models.prices import PriceOverride
from models.types import Capabilities, Usage
from router.decision import Decision, Facts
from router.policy import RuleDecider, TierFacts
from serving.config import parse
from serving.deciding import Refusal, RemoteDecider, decide_or_refuse
from serving.engine_plan import _extra, chosen_profile, local_facts, local_price
from serving.request_id import OwnRequestId, middlewares, new_id
from serving.tiers import ServingTier, Target, Tiers

SMALL, LARGE = TierFacts("small", 1000, images=False, tools=False, local=True), TierFacts("large", 100_000)


def facts(**changed: Any) -> Facts:
    return Facts(**{"request_id": "r", "tenant": "t", "text": "hi", "prompt_chars": 2, "prompt_tokens": 1} | changed)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/health", "/enginex/"])
async def test_a_callers_request_id_is_replaced_and_the_gateways_own_is_kept(path: str) -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    theirs = [(b"x-request-id", b"req_forged"), (b"x-request-id", b"again"), (b"host", b"x")]
    for at in (path, "/engine/small/v1/chat/completions"):
        await OwnRequestId(app)({"type": "http", "path": at, "headers": list(theirs)}, None, None)  # type: ignore[arg-type]
    ours = [value for name, value in seen[0] if name == b"x-request-id"]
    assert len(ours) == 1 and ours[0].startswith(b"req_") and ours[0] != b"req_forged"
    assert seen[1] == theirs
    assert len({new_id() for _ in range(1000)}) == 1000
    assert middlewares()[0].cls is OwnRequestId


REFUSED = [
    (facts(prompt_tokens=10**6), ContextExceeded),
    (facts(local_only=True, images=True), Unsupported),
    (facts(local_only=True, tools=True), Unsupported),
]


@pytest.mark.parametrize(("asked", "kind"), REFUSED)
async def test_a_refusal_crosses_the_border_and_is_the_same_error_on_the_other_side(
    asked: Facts, kind: type[Exception]
) -> None:
    decider = RuleDecider([SMALL, LARGE])

    async def remote(given: Facts, deadline_s: float) -> Decision | Refusal:
        sent = pickle.loads(pickle.dumps(given))
        answer: Decision | Refusal = pickle.loads(pickle.dumps(await decide_or_refuse(decider, sent, deadline_s)))
        return answer

    with pytest.raises(kind) as direct:
        decider.decide_now(asked)
    with pytest.raises(kind) as crossed:
        await RemoteDecider(remote, [SMALL, LARGE], "small", 1.0, lambda cause: None)(asked)
    assert str(crossed.value) == str(direct.value)
    assert crossed.value.param == direct.value.param  # type: ignore[attr-defined]


async def test_without_a_local_tier_local_only_is_the_callers_error() -> None:
    answer = await decide_or_refuse(RuleDecider([LARGE]), facts(local_only=True), 1.0)
    assert isinstance(answer, Refusal) and isinstance(answer.error(), BadRequest)


async def test_a_late_or_dead_router_ends_in_the_default_order_of_those_that_can() -> None:
    fell: list[str] = []

    async def late(given: Facts, deadline_s: float) -> Decision:
        await asyncio.sleep(5)
        raise AssertionError

    async def dead(given: Facts, deadline_s: float) -> Decision:
        raise ConnectionError("gone")

    for ask in (late, dead):
        decide = RemoteDecider(ask, [SMALL, LARGE], "small", 0.05, fell.append)
        assert (await decide(facts())).tiers == ("small", "large")
        assert (await decide(facts(images=True))).tiers == ("large",)
        with pytest.raises(ContextExceeded):
            await decide(facts(prompt_tokens=10**6))
    assert fell == ["router_late"] * 3 + ["router_down"] * 3


def price(input_usd: float, output_usd: float) -> PriceOverride:
    stated = {"input_usd_per_mtok": input_usd, "output_usd_per_mtok": output_usd}
    return PriceOverride.model_validate({**stated, "as_of": "2026-11-01", "source": "test"})


def serving_tier(name: str, models: tuple[str, ...], local: bool = False, usd: float = 1.0) -> ServingTier:
    return ServingTier(name, 0, None, {f"{name}/0": price(usd, usd)}, models, Capabilities(), local, owned=local)


def test_names_lead_to_tiers_models_and_aliases_and_others_are_told_what_there_is() -> None:
    tiers = Tiers([serving_tier("small", ("tiny",)), serving_tier("large", ("huge", "tiny"))], {"best": "huge"})
    assert tiers.resolve("auto") == Target()
    assert tiers.resolve("large") == Target("large")
    assert tiers.resolve("tiny") == Target("small", "tiny")
    assert tiers.resolve("best") == Target("large", "huge")
    with pytest.raises(ModelNotFound, match="use one of: auto, small, large, tiny, huge, best"):
        tiers.resolve("gpt-2")
    assert tiers.names() == ["auto", "small", "large", "tiny", "huge", "best"]


def test_counterfactuals_are_the_strongest_and_the_cheapest_hosted_tier_present_or_not() -> None:
    import datetime

    now, usage = datetime.datetime.now(datetime.UTC), Usage(10**6)
    local = serving_tier("small", ("tiny",), local=True, usd=0.01)
    tiers = Tiers([local, serving_tier("cheap", ("a",), usd=1), serving_tier("frontier", ("b",), usd=9)])
    assert tiers.counterfactuals(usage, now) == (9 * 10**9, 10**9)
    assert Tiers([local]).counterfactuals(usage, now) == (None, None)


ENGINE = "tiers: [{name: small, %s backends: [{kind: engine, profile: %s}]}]"


def test_auto_is_the_embedded_model_without_a_gpu_and_what_fits_with_one() -> None:
    backend = parse(ENGINE % ("", "auto")).tiers[0].backends[0]
    assert chosen_profile(backend, None).name == "embedded"  # type: ignore[arg-type]
    assert chosen_profile(backend, gpu_named("rtx4090")).name == "qwen3-8b-fp8"  # type: ignore[arg-type]
    assert chosen_profile(backend, gpu_named("rtx3090")).name == "qwen3-8b-awq"  # type: ignore[arg-type]
    assert local_facts(parse('tiers: [{name: a, backends: [{kind: http, url: "http://x", model: m}]}]')) is None


def test_the_configs_hourly_price_goes_over_the_profiles_throughput() -> None:
    profile = catalogue()["qwen3-8b-awq"]
    assert profile.rate_card is not None
    stated = parse(ENGINE % ("price: {usd_per_hour: 0.5},", "qwen3-8b-awq")).tiers[0]
    card = local_price(stated, profile)
    assert float(card.usd_per_hour) == 0.5
    assert card.decode_tokens_per_s == profile.rate_card.decode_tokens_per_s
    assert local_price(parse(ENGINE % ("", "qwen3-8b-awq")).tiers[0], profile) == profile.rate_card


def test_a_measured_card_is_the_price_on_that_card_alone() -> None:
    profile = catalogue()["qwen3-8b-fp8"]
    tier = parse(ENGINE % ("", "qwen3-8b-fp8")).tiers[0]
    h100 = Gpu("NVIDIA H100 80GB HBM3", 80 << 30, (9, 0))
    assert local_price(tier, profile, h100) == profile.measured_cards[0]
    assert local_price(tier, profile, gpu_named("rtx4090")) == profile.rate_card
    stated = parse(ENGINE % ("price: {usd_per_hour: 3},", "qwen3-8b-fp8")).tiers[0]
    assert local_price(stated, profile, h100).decode_tokens_per_s == profile.measured_cards[0].decode_tokens_per_s


@pytest.mark.parametrize("stated", ["", "price: {usd_per_hour: 0.5},"])
def test_a_model_without_a_rate_card_needs_its_price_in_the_configuration(stated: str) -> None:
    tier = parse(ENGINE % (stated, "org/unknown")).tiers[0]
    with pytest.raises(UnknownPrice, match="price"):
        local_facts(parse(ENGINE % (stated, "org/unknown")))
    assert tier.local


def test_the_configs_own_arguments_become_flags() -> None:
    args = "{max_model_len: 4096, enforce_eager: true, x_y: false}"
    backend = parse(f"tiers: [{{name: small, backends: [{{kind: engine, args: {args}}}]}}]").tiers[0].backends[0]
    assert _extra(backend) == ["--max-model-len", "4096", "--enforce-eager", "--no-x-y"]  # type: ignore[arg-type]

"""From the configured tiers to pools of backends with their prices. Part of the composition root.

Knows each kind of backend: an engine of this node, a hosted model over HTTP, boxes or engines elsewhere listed in a
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from models.backend import Backend
from models.breaker import BreakerPolicy
from models.pool import Pool
from models.prices import Price, PriceBook
from models.retry import RetryPolicy
from models.types import Capabilities
from models.upstream.anthropic import AnthropicBackend
from models.upstream.engine import EngineBackend as LocalBackend
from models.upstream.openai import OpenAIBackend
from router.policy import TierFacts
from serving.config import Config, EngineBackend, HttpBackend, MembersBackend, Tier, TokenPrice
from serving.engine_plan import LocalFacts, local_facts, member_facts
from serving.members import Members
from serving.runtime import KeyFile, Runtime
from serving.telemetry import GatewayMetrics
from serving.tiers import ServingTier, Tiers

Configured = EngineBackend | HttpBackend | MembersBackend


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a configured backend is, before anything is connected."""

    model: str
    price: Price
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class BuiltTiers:
    """The tiers, and those of their pools whose members come and go by a file."""

    tiers: Tiers
    members: list[Members]


def tier_facts(config: Config) -> list[TierFacts]:
    """What the policy may know of each tier, weakest first."""
    book, local = PriceBook(config.prices), local_facts(config)
    found = []
    for tier in config.tiers:
        takes = _together(kind.capabilities for kind in _kinds(tier, book, local))
        found.append(TierFacts(tier.name, takes.context_tokens, takes.images, takes.tools, tier.local))
    return found


def tier_prices(config: Config, tier: Tier, book: PriceBook) -> list[Price]:
    """Of each of its backends."""
    return [kind.price for kind in _kinds(tier, book, local_facts(config))]


def check_prices(config: Config) -> None:
    """Before anything is started: every tier must have a price. Raises UnknownPrice."""
    tier_facts(config)


def build_tiers(
    config: Config, runtime: Runtime, session: aiohttp.ClientSession, metrics: GatewayMetrics
) -> BuiltTiers:
    """Raises UnknownPrice for a model nobody has a price for."""
    book, local = PriceBook(config.prices), local_facts(config)
    retry, breaker = RetryPolicy(**config.retry.model_dump()), BreakerPolicy(**config.breaker.model_dump())
    members: list[Members] = []
    found = []
    for strength, tier in enumerate(config.tiers):
        kinds = list(_kinds(tier, book, local))
        backends = [b for i in range(len(kinds)) if (b := _backend(tier, i, runtime, session, local)) is not None]
        listed = [file for backend in tier.backends if (file := _members_file(backend, runtime)) is not None]
        pool = Pool(tier.name, backends, retry, breaker, metrics) if backends or listed else None
        if pool is not None:
            members += [Members(pool, f, k.capabilities, session) for f, k in zip(listed, kinds, strict=False)]
        found.append(
            ServingTier(
                name=tier.name,
                strength=strength,
                pool=pool,
                prices={f"{tier.name}/{index}": kind.price for index, kind in enumerate(kinds)},
                models=tuple(dict.fromkeys(kind.model for kind in kinds)),
                capabilities=_together(kind.capabilities for kind in kinds),
                local=tier.local,
                owned=tier.owned,
                why_absent="" if pool else "no_key",
            )
        )
    return BuiltTiers(Tiers(found, config.aliases), members)


def _kinds(tier: Tier, book: PriceBook, local: LocalFacts | None) -> Iterator[_Kind]:
    for backend in tier.backends:
        if isinstance(backend, HttpBackend):
            stated = tier.price if isinstance(tier.price, TokenPrice) else None
            price = stated or book.price_of(tier.price_ref or backend.model, tier.price_provider)
            yield _Kind(backend.model, price, Capabilities(**backend.limits.model_dump()))
            continue
        facts = member_facts(tier, backend) if isinstance(backend, MembersBackend) else local
        assert facts is not None
        yield _Kind(facts.model, facts.price, facts.capabilities)


def _together(each: Iterator[Capabilities]) -> Capabilities:
    """What at least one backend of a tier takes."""
    known = list(each)
    return Capabilities(
        context_tokens=max(c.context_tokens for c in known),
        images=any(c.images for c in known),
        tools=any(c.tools for c in known),
        completions=any(c.completions for c in known),
    )


def _members_file(backend: Configured, runtime: Runtime) -> Path | None:
    """Where its members are listed, if they come and go: boxes, and engines on the nodes of a cluster."""
    if isinstance(backend, MembersBackend):
        return runtime.members_file(backend.file)
    return runtime.engines_file if isinstance(backend, EngineBackend) and runtime.clustered else None


def _backend(
    tier: Tier, index: int, runtime: Runtime, session: aiohttp.ClientSession, local: LocalFacts | None
) -> Backend | None:
    """None when the backend's key is not there, or its members are told by a file."""
    backend, name = tier.backends[index], f"{tier.name}/{index}"
    if _members_file(backend, runtime) is not None or isinstance(backend, MembersBackend):
        return None
    if isinstance(backend, EngineBackend):
        assert local is not None
        return LocalBackend(
            name,
            runtime.engine_url(tier.name),
            local.model,
            session,
            KeyFile(runtime.engine_token_file),
            local.capabilities,
            presence=runtime.presence(tier.name),
        )
    key = KeyFile(runtime.secret_file(name)) if backend.wants_key else None
    if key is not None and not key.path.is_file():
        return None
    kind = AnthropicBackend if backend.wire == "anthropic" else OpenAIBackend
    return kind(
        name,
        backend.url,
        backend.model,
        session,
        key,
        Capabilities(**backend.limits.model_dump()),
        extra_headers=backend.headers,
        ca_file=backend.ca_file,
        health_path=backend.health_path,
    )

"""The same requests through LiteLLM's proxy: both hosted tiers behind one name, its default routing, a cache.

By default LiteLLM spreads the requests of a name over its deployments at random (`simple-shuffle`); it has no learned
routing without an embedding service. Its cache is off by default and is turned on here (`cache: true`, in memory: word
for word). What it answers with is told by the replayed server's own answer ids: one seen before came from its cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from benchmarks.child import say
from benchmarks.cost.accounting import Driven
from benchmarks.cost.architectures import CHEAP, FRONTIER, Setup
from benchmarks.cost.drive import Reply, Target
from benchmarks.cost.replayed import Stage, drive_phases, scored_by
from benchmarks.peers import litellm

NAME: Final = "auto"
LABEL: Final = "LiteLLM: default routing + cache"


def settings(setup: Setup) -> dict[str, Any]:
    """LiteLLM's configuration file."""
    return {
        "model_list": [
            litellm.upstream(NAME, f"{setup.urls[tier]}/v1", setup.models[tier]) for tier in (CHEAP, FRONTIER)
        ],
        "litellm_settings": {"cache": True, "cache_params": {"type": "local"}},
    }


def run(stage: Stage, setup: Setup) -> Driven:
    """One more row. Its venv must be there (`litellm.install`)."""
    say("starting LiteLLM's proxy")
    with litellm.configured(stage.nursery, settings(setup)) as proxy:
        tenants = {request.tenant for request in stage.workload.requests}
        target = Target(proxy.v1, dict.fromkeys(tenants, proxy.key), NAME)
        stage.warm_up(target)
        say(f"{LABEL}: {len(stage.workload.requests):,} requests in {stage.workload.duration_s:.0f} s")
        replies, elapsed_s = drive_phases(stage.workload.requests, target, lambda _: None)
        say("stopping")
    told = labelled(list(replies.values()), setup.models)
    return Driven("litellm", LABEL, scored_by(stage.judge, stage.workload.requests, told), elapsed_s, 0, ())


def labelled(replies: Sequence[Reply], models: Mapping[str, str]) -> dict[str, Reply]:
    """Which tier answered, and whether it was asked at all, in the order of arrival."""
    tier_of = {f"chatcmpl-{model}": tier for tier, model in models.items()}
    seen: set[str] = set()
    found = {}
    for reply in sorted(replies, key=lambda reply: reply.at_s + reply.latency_s):
        copied = reply.answer_id in seen
        seen.add(reply.answer_id)
        route = tier_of.get(reply.answer_id.rpartition("-")[0], "")
        found[reply.id] = replace(reply, route=route, cache="exact" if copied else "miss")
    return found

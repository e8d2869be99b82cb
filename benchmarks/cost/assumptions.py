"""Everything a reader of the results has to grant, as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.cost import owned
from benchmarks.cost.architectures import Gpu
from benchmarks.cost.configured import Tier
from benchmarks.cost.prepared import Known, Prepared
from benchmarks.cost.replayed import MAX_LOAD

LOGGED: Final = (
    "a log's request is asked without tools and settings, for at most as many tokens as it was answered in; where it "
    "has no text, in filler of its length"
)


def of(ready: Prepared, notes: Sequence[str]) -> list[str]:
    """notes: further ones, of the break-even table."""
    requests = ready.workload.requests
    texts = filler() if ready.known is None else recorded(ready.known)
    texts += [LOGGED] if "with_texts" in ready.workload.facts else []
    return [
        *texts,
        *speeds(ready),
        f"a driven row with a GPU owns the fewest that its own small answers load to at most {MAX_LOAD:.0%}; the "
        f"server behind it is as fast as {ready.gpu.count}, so that all-small is not starved",
        "caches begin empty and each row is a tenant of its own; answers that are cached are billed once",
        "not compared: cascade (needs token probabilities: live only), batch for deferrable requests (not built yet)",
        f"{sum(r.deferrable for r in requests):,} of {len(requests):,} requests are deferrable; none is deferred",
        *notes,
    ]


def recorded(known: Known) -> list[str]:
    tiers = ", ".join(known.taught.chosen[0].candidate.tiers)
    return [
        "replayed: what each model says is what it once said to that question (greedy), with the tokens recorded; "
        "for models outside the gpt-4o family tokens are counted with gpt-4o's tokenizer",
        "the template each model was sent (instructions, JSON form) is the system message, the bare question the "
        "user's: routing and the semantic cache see the question; tokens are those of the prompt as it was sent",
        "a paraphrase is the question whole in another frame of words; its few more tokens are not billed, its "
        "answer is the original's",
        "the router is learned and its threshold chosen on one half of all questions and used on the other, both ways "
        f"(two folds); it chooses among: {tiers}",
        "`computed` rows follow from outcomes alone, with a GPU that is never idle and nothing cached; curves are over "
        "all questions, each once",
    ]


def filler() -> list[str]:
    return [
        "prompts and answers are filler of the source's lengths unless it has texts; every tier answers in as "
        "many tokens",
        "nothing is graded; filler says nothing to a learned router, so the hand-set rules decide where none is named",
    ]


def live(tiers: Sequence[Tier], gpu: Gpu | None, facts: Mapping[str, Any]) -> list[str]:
    """Of a run with real backends; quality kept is against the last tier. gpu: None where none is owned."""
    return [
        *([LOGGED] if "with_texts" in facts else []),
        *([] if gpu is None else owned.sentences(gpu)),
        f"quality kept is against '{tiers[-1].name}'; a tier of one's own is priced by its rate card, at full load",
        "idle: the time from the first arrival to the last answer, at the hour's price, less what its tokens cost",
        "hosted answers are billed by the provider's own usage; all rows at prices of the same date",
        "`auto` rows are the configuration as it stands, with its router and caches; a cascade that acts has a row of "
        "its own, without a cache, and is off in the others",
    ]


def speeds(ready: Prepared) -> list[str]:
    gpu, assumed, models = ready.gpu, ready.speeds, ready.prices.models
    hosted = "; ".join(
        f"{models[tier]} {speed.ttft_s * 1000:.0f} ms to the first token, then {speed.tokens_per_s:g} tokens/s"
        for tier, speed in assumed.hosted.items()
    )
    return [
        f"replayed: latency of hosted models is stated, not measured: {hosted}; tokens come in groups of a tenth of a "
        "second",
        *owned.sentences(gpu),
        f"the GPU's speed is shared by all its requests, {assumed.gpu_running} at once, one answer at most "
        f"{assumed.gpu_answer_tokens_per_s:.3g} tokens/s, 20 ms before the first token",
    ]

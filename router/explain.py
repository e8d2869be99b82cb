"""`python -m router explain`: why one prompt goes where it goes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from router import features, tables
from router.decision import Facts
from router.deployed import PRIOR, Deployed
from router.embedding.encoder import TextEncoder
from router.embedding.minilm import load_default
from router.estimators.base import Inputs
from router.learned import even_worths, wanted_tier
from router.outcomes import CHARS_PER_TOKEN

TOPICS_SHOWN: Final = 3
UNUSUAL: Final = 1.0  # standard deviations of the training prompts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="the text a user would send")
    parser.add_argument("--artifact", type=Path, default=PRIOR, metavar="DIR", help="default: the shipped prior")
    parser.add_argument("--tiers", nargs="+", default=["small", "frontier"], metavar="NAME", help="weakest first")


def run(arguments: argparse.Namespace) -> int:
    encoder = load_default()
    deployed = Deployed.load(arguments.artifact, encoder.identity.sha256)
    print("\n".join(explain(arguments.prompt, deployed, encoder, arguments.tiers)))
    return 0


def explain(prompt: str, deployed: Deployed, encoder: TextEncoder, tiers: Sequence[str]) -> list[str]:
    """Lines: the decision, what each estimator says, what is unusual about the prompt, the topics nearest to it."""
    tokens = round(len(prompt) / CHARS_PER_TOKEN)
    facts = Facts("explain", "", prompt, prompt_chars=len(prompt), prompt_tokens=tokens)
    inputs = Inputs(encoder.encode([prompt]), features.of_facts(facts)[None])
    gain = float(deployed.gain(inputs)[0])
    weak, strong = deployed.stack.predict(inputs)[0]
    threshold = deployed.policy.threshold
    wanted = tiers[wanted_tier(gain, threshold, even_worths(len(tiers)))]
    seen = encoder.count_tokens([prompt])[0]
    cut = (
        f" (of {seen} tokens the encoder reads {encoder.identity.max_tokens})"
        if seen > encoder.identity.max_tokens
        else ""
    )
    return [
        f"{wanted}: expected gain {gain:+.3f}, threshold {threshold:+.3f}{cut}",
        f"chance of being right: {tiers[0]} {weak:.0%}, {tiers[-1]} {strong:.0%}",
        f"artifact {deployed.manifest.version}, threshold by {deployed.policy.chosen.get('by')}",
        "",
        _parts(deployed, inputs),
        "",
        _features(deployed, inputs),
        "",
        _topics(deployed, inputs),
    ]


def _parts(deployed: Deployed, inputs: Inputs) -> str:
    rows = [["estimator", "weight", "gain it sees", "adds"]]
    for name, part in deployed.stack.parts(inputs).items():
        weight, adds = deployed.stack.weights[name], float(part[0])
        rows.append([name, f"{weight:.2f}", f"{adds / weight:+.3f}", f"{adds:+.3f}"])
    return tables.text_table(rows)


def _features(deployed: Deployed, inputs: Inputs) -> str:
    """Those beyond a standard deviation from the training prompts, by what the linear probes make of them."""
    found = deployed.stack.feature_effects(inputs)
    if found is None:
        return "no estimator of this artifact reads features one by one"
    deviations, effects = found
    rows = [["feature", "value", "sd from usual", "adds to the gain"]]
    for i in np.argsort(-np.abs(effects)):
        if abs(deviations[i]) >= UNUSUAL:
            name = deployed.stack.names[i]
            value = float(inputs.features[0, features.NAMES.index(name)])
            rows.append([name, f"{value:.3g}", f"{deviations[i]:+.1f}", f"{effects[i]:+.3f}"])
    return tables.text_table(rows) if len(rows) > 1 else "no feature is unusual"


def _topics(deployed: Deployed, inputs: Inputs) -> str:
    similarity = (inputs.vectors @ deployed.centroids.T)[0]
    rows = [["nearest topics in training", "cosine", "share", "small right", "frontier right"]]
    for i in np.argsort(-similarity)[:TOPICS_SHOWN]:
        topic = deployed.policy.topics[i]
        cells = [topic.label, f"{similarity[i]:.2f}", f"{topic.share:.1%}", f"{topic.weak:.0%}", f"{topic.strong:.0%}"]
        rows.append(cells)
    return tables.text_table(rows)

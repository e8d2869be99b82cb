"""A small made-up world: four groups of prompts, of which two gain from the stronger model, and a router for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router.artifacts import Manifest
from router.deployed import KIND, Deployed, Policy, score_edges, topics_of
from router.estimators.clusters import nearest, spherical_kmeans
from router.estimators.linear import Ridge
from router.estimators.stack import Stack
from router.outcomes import Outcomes, Pair
from router.training import Samples

DIM = 12
ENCODER = "e" * 64


def world(n: int = 400, seed: int = 0) -> Samples:
    """Group g lies around axis g. Groups 2 and 3 gain; longer prompts gain more."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) % 4
    vectors = 0.25 * rng.normal(size=(n, DIM)) + np.eye(DIM)[groups]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = rng.integers(1, 40, n)
    texts = [f"prompt {i} " + "word " * int(length) for i, length in enumerate(lengths)]
    hard = 0.15 + 0.5 * (groups >= 2) + 0.2 * (lengths > 20)
    outcomes = Outcomes(
        ids=[f"row/{seed}/{i}" for i in range(n)],
        tasks=np.array(["t"] * n),
        groups=np.array([f"g{g}" for g in groups]),
        texts=texts,
        prompts=np.arange(n),
        chars=np.array([len(text) for text in texts], float),
        weak=(rng.random(n) > hard).astype(float),
        strong=(rng.random(n) > 0.1).astype(float),
        prompt_tokens=np.full(n, 10.0),
        weak_tokens=np.full(n, 100.0),
        strong_tokens=np.full(n, 100.0),
        pair=Pair("w", "s"),
    )
    return Samples.of(outcomes, vectors.astype(np.float32))


def router_for(samples: Samples, threshold: float = 0.3) -> Deployed:
    estimator = Ridge(penalty=1.0)
    stack = Stack({"ridge": (estimator, estimator.fit(samples.inputs, samples.labels))}, {"ridge": 1.0}, DIM)
    centroids = spherical_kmeans(samples.inputs.vectors, 4)
    gains = stack.gain(samples.inputs)
    member = nearest(samples.inputs.vectors, centroids)
    topics = topics_of(samples.outcomes.groups, member, samples.labels.correct, 4)
    policy = Policy(threshold, {"by": "default"}, score_edges(gains), topics)
    manifest = Manifest(kind=KIND, version="v1", created="2026-11-26", encoder_sha256=ENCODER, data_sha256="d")
    return Deployed(manifest, stack, policy, centroids, "a card")


@pytest.fixture(scope="session")
def samples() -> Samples:
    return world()


@pytest.fixture(scope="session")
def fresh() -> Samples:
    """The same world, other prompts."""
    return world(seed=1)


@pytest.fixture(scope="session")
def deployed(samples: Samples) -> Deployed:
    return router_for(samples)


@pytest.fixture(scope="session")
def other(samples: Samples) -> Deployed:
    """The same estimator behind another threshold, hence another version."""
    made = router_for(samples)
    return replace(made, policy=replace(made.policy, threshold=0.9))

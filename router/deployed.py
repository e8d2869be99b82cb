"""A router's artifact, whole: estimators, threshold, and what its training data looked like. Written once, read hot.

    manifest.json     kind `router`, version, encoder, data, metrics
    estimators.json   members, weights, feature names        estimators.npz   their arrays
    policy.json       threshold, how it was chosen, the reference the watch compares with
    reference.npz     centroids of the training prompts
    card.md           what it was trained on, for people

Knows no tier: a threshold is a least gain, and whoever deploys says between which tiers.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router import artifacts
from router.artifacts import Manifest
from router.estimators.base import Floats, Inputs
from router.estimators.clusters import nearest
from router.estimators.stack import ARRAYS, SPEC, Stack

KIND: Final = "router"
PRIOR: Final = Path(__file__).parent / "priors" / "public-2024"
_POLICY, _REFERENCE, _CARD = "policy.json", "reference.npz", "card.md"


@dataclass(frozen=True, slots=True)
class Topic:
    """One cluster of the labelled prompts: its commonest group, and how often either model was right there."""

    label: str
    share: float
    weak: float
    strong: float


@dataclass(frozen=True, slots=True)
class Policy:
    """threshold: the least gain that is worth the stronger tier. chosen: how it came about, for people.

    score_edges: inner edges of ten bins that hold a tenth of the training scores each.
    """

    threshold: float
    chosen: Mapping[str, Any]
    score_edges: tuple[float, ...]
    topics: tuple[Topic, ...]


@dataclass(frozen=True, slots=True)
class Deployed:
    manifest: Manifest
    stack: Stack
    policy: Policy
    centroids: NDArray[np.float32]
    card: str

    @classmethod
    def load(cls, path: Path, encoder_sha256: str) -> Deployed:
        """path: one artifact, or a root whose pointer is followed. Raises ConfigError on damage or another encoder."""
        if not (path / "manifest.json").is_file():
            _, path = artifacts.load(path)
        manifest = artifacts.read(path, encoder_sha256=encoder_sha256)
        if manifest.kind != KIND:
            raise ConfigError(f"{path} is an artifact of kind '{manifest.kind}', not '{KIND}'")
        try:
            stated = json.loads((path / _POLICY).read_text(encoding="utf-8"))
            topics = tuple(Topic(**topic) for topic in stated.pop("topics"))
            policy = Policy(**(stated | {"topics": topics, "score_edges": tuple(stated["score_edges"])}))
            with np.load(path / _REFERENCE, allow_pickle=False) as stored:
                centroids = stored["centroids"].astype(np.float32)
            stack = Stack.restore((path / SPEC).read_bytes(), (path / ARRAYS).read_bytes())
            return cls(manifest, stack, policy, centroids, (path / _CARD).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise ConfigError(f"{path} cannot be read as a router: {error}") from error

    def write(self, root: Path) -> Path:
        """A new version under `root`, made current. Its version is a date and a hash of what it holds."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, centroids=self.centroids.astype(np.float16))
        policy = json.dumps(asdict(self.policy), indent=1).encode()
        files = self.stack.files() | {_POLICY: policy, _REFERENCE: buffer.getvalue(), _CARD: self.card.encode()}
        return artifacts.write(root, replace(self.manifest, version=version_of(files, self.manifest)), files)

    def with_policy(self, policy: Policy, metrics: Mapping[str, Any]) -> Deployed:
        manifest = replace(self.manifest, created=today(), metrics={**self.manifest.metrics, **metrics})
        return replace(self, policy=policy, manifest=manifest)

    def topic_of(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        return nearest(vectors, self.centroids)

    def gain(self, inputs: Inputs) -> Floats:
        return self.stack.gain(inputs)


def scored_by(manifest: Manifest) -> str:
    """Whose score it is, for who learns from it: the estimators' hash, which a new threshold leaves as it was."""
    return manifest.files.get(ARRAYS, manifest.version)[:16]


def version_of(files: Mapping[str, bytes], manifest: Manifest) -> str:
    digest = hashlib.sha256(manifest.encoder_sha256.encode())
    for name in sorted(files):
        digest.update(files[name])
    return f"{today()}-{digest.hexdigest()[:10]}"


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def score_edges(scores: Floats) -> tuple[float, ...]:
    return tuple(round(float(edge), 6) for edge in np.quantile(scores, np.linspace(0, 1, 11)[1:-1]))


def topics_of(labels: NDArray[np.str_], member: NDArray[np.int64], correct: Floats, count: int) -> tuple[Topic, ...]:
    """For each cluster its commonest group, share of rows and mean (weak, strong) of `correct`."""
    found = []
    for number in range(count):
        rows = member == number
        if not rows.any():
            found.append(Topic("", 0.0, 0.0, 0.0))
            continue
        names, counts = np.unique(labels[rows], return_counts=True)
        weak, strong = correct[rows].mean(axis=0)
        found.append(
            Topic(
                str(names[counts.argmax()]),
                round(float(rows.mean()), 4),
                round(float(weak), 4),
                round(float(strong), 4),
            )
        )
    return tuple(found)

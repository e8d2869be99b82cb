"""Will the small model's answer do? From the probabilities of its own tokens, and the prompt's score where there is
one.

Features after Gupta et al. (ICLR 2024): the mean favours short answers and hides one bad token among good ones, so low
quantiles stand beside it. A logistic on them is one *head*; an artifact has one for each number of tokens that may be
looked at, and one for whole answers. Pure: knows no stream and no tier.

    manifest.json   kind `cascade`, version, encoder of the prompt's score, data, metrics
    heads.json      feature names, whose prompt score was learned from, and each head's numbers
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from models.errors import ConfigError
from router import artifacts
from router.artifacts import Manifest
from router.decision import CascadePlan
from router.deployed import version_of
from router.estimators.base import Floats
from router.estimators.linear import fit_logistic, sigmoid

KIND: Final = "cascade"
WHOLE: Final = 0  # the head for answers that have ended, however long they are
PENALTY: Final = 10.0  # on standardised features
_HEADS: Final = "heads.json"
_LEAST: Final = -100.0
_REACH: Final = 4.0  # standard deviations: what training never saw must not carry a probability away

NAMES: Final = ("mean", "least", "low_quartile", "mean_entropy", "score")
"""An interface: an artifact stores the names it was trained on and is refused when they differ.

Few on purpose. With thirteen (deciles, the first token, margins, length) a head knew the kinds of questions it was
trained on by heart and was worse on others (docs/cascade.md).
"""
_SIGNS: Final = np.array([1, 1, 1, -1, -1])
"""What each may say at all: likelier tokens never speak against an answer, a harder prompt never for it.

Features that say nearly the same are else set against each other, which fits the questions at hand and no others.
"""


@dataclass(frozen=True, slots=True)
class Token:
    """What a model said of one token: its natural-log probability, and those of the likeliest ones, best first."""

    logprob: float
    top: tuple[float, ...] = ()

    @property
    def entropy(self) -> float:
        """In nats, of the listed alternatives with all others taken as one; NaN without a list."""
        if not self.top:
            return math.nan
        listed = [math.exp(min(0.0, one)) for one in self.top]
        rest = max(0.0, 1.0 - sum(listed))
        return -sum(p * math.log(p) for p in (*listed, rest) if p > 0.0)


def features(tokens: Sequence[Token], score: float | None = None) -> Floats:
    """(len(NAMES),), NaN for what is not known. At least one token. A likelihood of 0 counts as the least there is."""
    logprobs = np.maximum([token.logprob for token in tokens], _LEAST)
    entropies = [token.entropy for token in tokens]
    known = [one for one in entropies if not math.isnan(one)]
    entropy = sum(known) / len(known) if known else math.nan
    quarter = float(np.quantile(logprobs, 0.25))
    return np.array([logprobs.mean(), logprobs.min(), quarter, entropy, math.nan if score is None else score])


@dataclass(frozen=True, slots=True)
class Head:
    """A logistic on standardised features. mean, scale, weights: (len(NAMES),). An unknown feature counts as usual."""

    mean: Floats
    scale: Floats
    weights: Floats
    bias: float

    @classmethod
    def fit(cls, rows: Floats, right: Floats) -> Self:
        """rows: (n, len(NAMES)), NaN allowed. right: (n,), 0..1. A feature that never varies counts for nothing."""
        known = ~np.isnan(rows)
        counts = np.maximum(1, known.sum(axis=0))
        mean = np.where(known, rows, 0.0).sum(axis=0) / counts
        spread = np.sqrt(np.where(known, (rows - mean) ** 2, 0.0).sum(axis=0) / counts)
        scale = np.where(spread > 1e-9, 1.0 / np.maximum(spread, 1e-9), 0.0)
        head = cls(mean, scale, np.zeros(rows.shape[1]), 0.0)
        design = np.column_stack([head._standard(rows), np.ones(len(rows))])
        while True:
            fitted = fit_logistic(design, right, PENALTY)
            wrong = fitted[:-1] * _SIGNS < 0
            if not wrong.any():
                return replace(head, weights=fitted[:-1], bias=float(fitted[-1]))
            worst = int(np.argmin(fitted[:-1] * _SIGNS))
            design[:, worst] = 0.0

    def probability(self, rows: Floats) -> Floats:
        """(n,) for (n, len(NAMES))."""
        return sigmoid(self._standard(rows) @ self.weights + self.bias)

    def _standard(self, rows: Floats) -> Floats:
        scaled = np.clip((rows - self.mean) * self.scale, -_REACH, _REACH)
        return np.where(np.isnan(scaled), 0.0, scaled)

    def to_json(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).round(6).tolist() for name in ("mean", "scale", "weights")}
        return {**arrays, "bias": round(self.bias, 6)}

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Self:
        mean, scale, weights = (np.array(stated[name], np.float64) for name in ("mean", "scale", "weights"))
        if any(array.shape != (len(NAMES),) for array in (mean, scale, weights)):
            raise ValueError("a head has one number for each feature")
        return cls(mean, scale, weights, float(stated["bias"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    accepted: bool
    probability: float


@dataclass(frozen=True, slots=True)
class Cascade:
    """An artifact in use: after `tokens_k` tokens, or at the answer's end, accept from `accept_at` on; None: from where
    the plan says, from a half where it does not."""

    tokens_k: int
    accept_at: float | None
    early: Head
    whole: Head
    scored_by: str
    version: str

    def judge(self, tokens: Sequence[Token], plan: CascadePlan, *, ended: bool) -> Verdict:
        """The first `tokens_k` tokens count, all of them where the answer has ended. A score of other origin than the
        one learned from says nothing: it counts as usual."""
        known = plan.score if plan.scored_by == self.scored_by else None
        rows = features(tokens if ended else tokens[: self.tokens_k], known)
        probability = float((self.whole if ended else self.early).probability(rows[None])[0])
        stated = self.accept_at if self.accept_at is not None else plan.accept_at
        return Verdict(probability >= (0.5 if stated is None else stated), probability)


@dataclass(frozen=True, slots=True)
class Heads:
    """The artifact as a file: heads by number of tokens, `WHOLE` among them."""

    manifest: Manifest
    heads: Mapping[int, Head]
    scored_by: str

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises ConfigError on damage, or for one made with other features."""
        manifest = artifacts.read(folder)
        if manifest.kind != KIND:
            raise ConfigError(f"{folder} is an artifact of kind '{manifest.kind}', not '{KIND}'")
        try:
            stated = json.loads((folder / _HEADS).read_text(encoding="utf-8"))
            if tuple(stated["features"]) != NAMES:
                raise ConfigError(f"{folder} was trained on other features than this version computes: train again")
            heads = {int(tokens): Head.from_json(one) for tokens, one in stated["heads"].items()}
            return cls(manifest, {WHOLE: heads[WHOLE], **heads}, str(stated["scored_by"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{folder} cannot be read as a cascade: {error}") from error

    def write(self, root: Path) -> Path:
        """A new version under `root`, made current."""
        heads = {str(tokens): head.to_json() for tokens, head in self.heads.items()}
        stated = {"features": NAMES, "scored_by": self.scored_by, "heads": heads}
        files = {_HEADS: json.dumps(stated, indent=1).encode()}
        return artifacts.write(root, replace(self.manifest, version=version_of(files, self.manifest)), files)

    def using(self, tokens_k: int, accept_at: float | None) -> Cascade:
        """Raises ConfigError for a number of tokens that was not trained for."""
        if tokens_k not in self.heads or tokens_k == WHOLE:
            trained = ", ".join(str(tokens) for tokens in sorted(self.heads) if tokens != WHOLE)
            raise ConfigError(
                f"the cascade was trained for {trained} tokens, not {tokens_k}: choose one, or train again"
            )
        heads = self.heads
        return Cascade(tokens_k, accept_at, heads[tokens_k], heads[WHOLE], self.scored_by, self.manifest.version)

"""Labelled pairs put through the decision: how many would be served, and how many of those wrongly.

Owns the measuring, not the deciding: every pair is read, gated and scored by the code that serves. Knows an encoder
only as something that turns texts into vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from router.cache import bounds, gates, prior
from router.cache.learner import fresh
from router.cache.pairs import Pair
from router.cache.text import Reading, read
from router.cache.verify import Action, Candidate, Decider

NEVER_SAMPLED = 1.0


class Encodes(Protocol):
    """The part of an encoder that is needed here: (n, dim), rows of length one."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Case:
    """One pair, read and compared. `refused`: names of the gates that refuse, in order."""

    pair: Pair
    a: Reading
    b: Reading
    similarity: float
    refused: tuple[str, ...]

    @property
    def features(self) -> tuple[float, ...]:
        return prior.features(self.similarity, not self.refused)


@dataclass(frozen=True, slots=True)
class Tally:
    """What one rule did: `hits` are the pairs it would serve, `wrong` those that must not be."""

    positives: int
    negatives: int
    hits: int
    wrong: int

    @property
    def recall(self) -> float:
        return (self.hits - self.wrong) / self.positives if self.positives else 0.0

    @property
    def wrong_hit_bound(self) -> float:
        """95 % upper bound on wrong answers per hit."""
        return bounds.upper_bound(self.wrong, self.hits)

    def figures(self) -> dict[str, Any]:
        """For JSON: rates rounded, None where there is nothing to divide by. `precision_low`: 95 % lower bound."""
        return {
            "positives": self.positives,
            "negatives": self.negatives,
            "hits": self.hits,
            "wrong_hits": self.wrong,
            "recall": round(self.recall, 4) if self.positives else None,
            "wrong_of_negatives": round(self.wrong / self.negatives, 5) if self.negatives else None,
            "precision": round(1 - self.wrong / self.hits, 5) if self.hits else None,
            "precision_low": round(1 - self.wrong_hit_bound, 5) if self.hits else None,
        }


def cases(pairs: Sequence[Pair], encoder: Encodes) -> list[Case]:
    """Every distinct text is encoded and read once."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.a, pair.b)))
    vectors = encoder.encode(texts)
    at = {text: index for index, text in enumerate(texts)}
    readings = [read(text) for text in texts]
    made = []
    for pair in pairs:
        x, y = at[pair.a], at[pair.b]
        made.append(_case(pair, readings[x], readings[y], float(vectors[x] @ vectors[y])))
    return made


def _case(pair: Pair, a: Reading, b: Reading, similarity: float) -> Case:
    refused = () if gates.judge(a, b) is None else tuple(verdict.gate for verdict in gates.refusals(a, b))
    return Case(pair, a, b, similarity, refused)


def foreign_neighbours(known: Sequence[Case], encoder: Encodes, nearest: int = 10) -> list[Case]:
    """For each question the nearest ones of other pairs: what a search brings up in ordinary traffic, where labelled
    pairs are either repeats or chosen to be hard. Those the gates let pass are left out: they may be repeats that
    nobody labelled.
    """
    texts = list(dict.fromkeys(text for case in known for text in (case.pair.a, case.pair.b)))
    at = {text: index for index, text in enumerate(texts)}
    vectors, readings = encoder.encode(texts), [read(text) for text in texts]
    partners = [{index} for index in range(len(texts))]
    for case in known:
        partners[at[case.pair.a]].add(at[case.pair.b])
        partners[at[case.pair.b]].add(at[case.pair.a])
    found = []
    for index, text in enumerate(texts):
        similarities = vectors @ vectors[index]
        similarities[list(partners[index])] = -1.0
        for other in np.argsort(-similarities)[:nearest]:
            pair = Pair(text, texts[other], same=False, group="neighbour")
            found.append(_case(pair, readings[index], readings[other], float(similarities[other])))
    return [case for case in found if case.refused]


def tally(tested: Iterable[Case], serves: Callable[[Case], bool]) -> Tally:
    positives = negatives = hits = wrong = 0
    for case in tested:
        served = serves(case)
        positives += case.pair.same
        negatives += not case.pair.same
        hits += served
        wrong += served and not case.pair.same
    return Tally(positives, negatives, hits, wrong)


def decides(decider: Decider) -> Callable[[Case], bool]:
    """The full decision as it stands for an entry nobody has labelled yet, chance left out."""
    start = fresh(decider.rules.max_wrong_hit_rate)

    def serves(case: Case) -> bool:
        verdict = decider.decide(case.a, Candidate(case.b, case.similarity, start), draw=NEVER_SAMPLED)
        return verdict.action is Action.SERVE

    return serves

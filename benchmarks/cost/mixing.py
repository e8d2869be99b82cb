"""From questions to a workload: when each arrives, which come again, in what words; all of it follows from the seed.

A repeat is the same request word for word. A paraphrase is an honest rewording: the question whole, in another frame of
courtesy or asking, so that its answer stays the original's. Both come after the original, at a random later place.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.child import BenchmarkError
from benchmarks.cost.workload import Request
from benchmarks.cost.zeroeval import Question

FRAMES: Final = (
    "Please answer: {q}",
    "{q} Thank you!",
    "Hello! {q}",
    "Could you please help me with a question? {q}",
    "I need the answer to a question. {q}",
    "Quick question: {q}",
    "{q} Please explain how you get there.",
    "Here is a problem my class was given. {q}",
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Rates are parts of all requests. `rps`: arrivals a second, as a Poisson process."""

    seed: int = 0
    rps: float = 10.0
    repeat_rate: float = 0.2
    paraphrase_rate: float = 0.0
    deferrable_share: float = 0.0

    def check(self) -> None:
        """Raises BenchmarkError."""
        if not (self.repeat_rate >= 0 and self.paraphrase_rate >= 0 and self.repeat_rate + self.paraphrase_rate < 1):
            raise BenchmarkError("repeats and paraphrases are parts of all requests: together they stay below 1")
        if self.rps <= 0 or not 0 <= self.deferrable_share <= 1:
            raise BenchmarkError("arrivals a second are above 0, the deferrable share is 0 to 1")


def pick(questions: Sequence[Question], count: int | None, seed: int) -> list[Question]:
    """`count` of them, each task in its proportion, drawn by the seed; all of them for None."""
    if count is None or count >= len(questions):
        return list(questions)
    tasks: dict[str, list[Question]] = {}
    for question in questions:
        tasks.setdefault(question.task, []).append(question)
    rng = random.Random(f"pick/{seed}")
    kept: set[str] = set()
    for _, members in sorted(tasks.items()):
        kept |= {q.id for q in rng.sample(members, max(1, round(count * len(members) / len(questions))))}
    return [q for q in questions if q.id in kept]


def halves(questions: Sequence[Question], mix: Mix, fold_of: dict[str, int]) -> list[Request]:
    """One half's questions and then the other's, so that each half is routed by what was learned on the other.

    Repeats and paraphrases stay in their question's half.
    """
    mix.check()
    asked: list[Request] = []
    for fold in sorted(set(fold_of.values())):
        half = [q for q in questions if fold_of[q.id] == fold]
        asked += [replace(r, phase=fold) for r in _shuffled(half, replace(mix, seed=mix.seed * 1000 + fold))]
    return _timed(asked, mix)


def _shuffled(questions: Sequence[Question], mix: Mix) -> list[Request]:
    rng = random.Random(f"mix/{mix.seed}")
    order = rng.sample(list(questions), len(questions))
    fresh = 1 - mix.repeat_rate - mix.paraphrase_rate
    asked = [_request(q, q.text, "new", 0) for q in order]
    for kind, rate in (("repeat", mix.repeat_rate), ("paraphrase", mix.paraphrase_rate)):
        for number in range(round(len(order) * rate / fresh)):
            question = rng.choice(order)
            first = next(i for i, request in enumerate(asked) if request.question == question.id)
            wording = question.text if kind == "repeat" else rng.choice(FRAMES).format(q=question.text)
            asked.insert(rng.randint(first + 1, len(asked)), _request(question, wording, kind, number + 1))
    return asked


def _request(question: Question, wording: str, kind: str, number: int) -> Request:
    return Request(
        id=question.id if kind == "new" else f"{question.id}/{kind}-{number}",
        arrival_s=0.0,
        messages=question.messages(wording),
        question=question.id,
        kind=kind,  # type: ignore[arg-type]
        reference=question.reference,
        checker=question.checker,
        group=question.task,
    )


def _timed(asked: Sequence[Request], mix: Mix) -> list[Request]:
    rng = random.Random(f"arrivals/{mix.seed}")
    at_s, found = 0.0, []
    for request in asked:
        at_s += rng.expovariate(mix.rps)
        deferrable = rng.random() < mix.deferrable_share
        found.append(replace(request, arrival_s=round(at_s, 4), deferrable=deferrable))
    return found

"""Are two answers to one question the same? Labels for the learner and the monitor come from here and from nowhere
else.

Agreement of embeddings is no label: it is blind to just what goes wrong. No label is better than a guessed one.
"""

from __future__ import annotations

import re
from enum import StrEnum

_DECORATION = re.compile(r"[*_`#>~]+|\s+")
_PROMPT = """Two answers to the same question follow. Would a person who got the second instead of the first be told
the same? Differences of wording, length and politeness do not matter; a difference in any fact, number, name,
instruction or code does. Reply with one word, YES or NO.

Question: {question}

First answer: {first}

Second answer: {second}
"""


class Comparison(StrEnum):
    """How labels are made. `exact` and `normalised` call every difference wrong: right for answers that hardly vary
    (labels, numbers, code at temperature 0), too strict for prose. `judge` asks a model where they differ."""

    EXACT = "exact"
    NORMALISED = "normalised"
    JUDGE = "judge"


def agree(cached: str, afresh: str, how: Comparison) -> bool | None:
    """True, False, or None where the judge has to be asked."""
    if cached == afresh or (how is not Comparison.EXACT and normalised(cached) == normalised(afresh)):
        return True
    return None if how is Comparison.JUDGE else False


def question_for_judge(question: str, cached: str, afresh: str) -> str:
    """The prompt whose answer `verdict` reads."""
    return _PROMPT.format(question=question, first=cached, second=afresh)


def normalised(text: str) -> str:
    """Case, white space, Markdown's marks and a final full stop do not count."""
    return _DECORATION.sub(" ", text.casefold()).strip().rstrip(".!").strip()


def verdict(reply: str) -> bool | None:
    """The judge's word, strictly: the reply must be YES or NO and nothing else but punctuation."""
    word = reply.strip().strip(".!*\"'` ").casefold()
    return {"yes": True, "no": False}.get(word)

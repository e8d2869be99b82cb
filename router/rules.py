"""How hard a prompt looks, from its shape alone. Hand-set weights: a stand-in until one is learned from outcomes.

Owns no threshold and knows no tier. The score is a logistic of a few counted features; every part can be shown to
the person who asks why. The weights were chosen by judgement, not measured: docs/routing.md says what that means.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from router.decision import Facts

BIAS = -2.0
WEIGHTS = {
    "length": 0.9,  # per tenfold beyond 200 characters
    "code": 0.9,
    "maths": 1.1,
    "reasoning_words": 0.9,
    "constraints": 0.35,  # each, at most 4
    "questions": 0.25,  # each beyond the first, at most 4
    "long_answer": 0.5,  # per tenfold of wanted output beyond 256 tokens
    "json_schema": 0.3,
    "tools": 0.6,
    "turns": 0.08,  # each beyond the first, at most 10
}

_CODE = re.compile(
    r"```|\b(def|class|import|SELECT|function|public static|#include|traceback|stack trace)\b", re.IGNORECASE
)
_MATHS = re.compile(
    r"\\(frac|int|sum|sqrt)|[∑∫√≤≥]|\b(prove|proof|theorem|integral|derivative|equation|probability)\b", re.I
)
_REASON = re.compile(
    r"\b(step by step|analy[sz]e|compare|trade-?offs?|design|architect|refactor|debug|optimi[sz]e|why|explain how)\b",
    re.IGNORECASE,
)
_CONSTRAINT = re.compile(
    r"^\s*(?:[-*•]|\d+[.)])\s|\b(must|at least|at most|exactly|without|except|ensure)\b", re.I | re.M
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The score in 0..1 and what each feature added to it (log-odds)."""

    score: float
    parts: dict[str, float]


def _tenfold(value: float, base: float) -> float:
    return max(0.0, math.log10(max(value, 1.0) / base))


def shape(facts: Facts) -> Shape:
    """Score one prompt; costs tens of microseconds on a page of text."""
    text = facts.text
    counts = {
        "length": _tenfold(len(text), 200.0),
        "code": float(bool(_CODE.search(text))),
        "maths": float(bool(_MATHS.search(text))),
        "reasoning_words": float(bool(_REASON.search(text))),
        "constraints": float(min(4, len(_CONSTRAINT.findall(text)))),
        "questions": float(min(4, max(0, text.count("?") - 1))),
        "long_answer": _tenfold(facts.max_output_tokens or 0, 256.0),
        "json_schema": float(facts.json_schema),
        "tools": float(facts.tools),
        "turns": float(min(10, max(0, facts.turns - 1))),
    }
    parts = {name: WEIGHTS[name] * count for name, count in counts.items() if count}
    return Shape(1.0 / (1.0 + math.exp(-(BIAS + sum(parts.values())))), parts)

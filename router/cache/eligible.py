"""What may be answered from the cache by meaning at all: a property of the question, before anything is searched.

Two questions in the same words may still want different answers, when the answer depends on the time, the person who
asks, what was said before, or something the text only points to. Knows no cache and no vector.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from router.decision import Facts

MAX_CHARS: Final = 2_000
MAX_CODE_CHARS: Final = 200
_MIN_WORDS: Final = 2

_TIME: Final = re.compile(
    r"\b(today|tonight|tomorrow|yesterday|now|nowadays|currently|current|latest|newest|recent|recently|lately|upcoming"
    r"|so far|at the moment|right now|these days|as of|breaking|up[- ]to[- ]date"
    r"|(this|last|next|past|coming) (second|minute|hour|morning|afternoon|evening|night|week|weekend|month|quarter|year"
    r"|season|monday|tuesday|wednesday|thursday|friday|saturday|sunday|summer|winter|spring|autumn|fall)"
    r"|(what|which) (time|day|date) is it|what's the (time|date)|how long ago"
    r"|(weather|forecast|stock price|exchange rate|news) (in|for|of|about))\b",
    re.IGNORECASE,
)
_OWN: Final = (
    r"(account balance|balance|order|parcel|package|shipment|delivery|refund|invoice|bill|payment|ticket|booking"
    r"|reservation|appointment|subscription status|claim|case|application|contract|salary|payslip|schedule|calendar"
    r"|meeting|email|message|inbox|grade|result|location|name|birthday|age|file|data)s?"
)
_PERSONAL: Final = re.compile(
    rf"\b(where|when|why|what)('s| is| are| was| were| did| has| have| does| do)? (happened to )?(my|our) "
    rf"(\w+ )?{_OWN}\b"
    rf"|^\W*(please )?(has|have|did|is|was|are|will|does) (my|our) (\w+ )?{_OWN}\b"
    rf"|^\W*(please )?(show|list|summari[sz]e|check|track|find|read|open) (me )?(my|our) (\w+ )?{_OWN}\b"
    r"|\b((status|state|contents|amount|total) of (my|our)|who am i|where am i|do you (know|remember) (me|my)"
    r"|(about|for) me personally|based on my|given my)\b",
    re.IGNORECASE,
)
_BACKWARD: Final = re.compile(
    r"^\W*(and|but|so|also|then|no|yes|yeah|nope|ok(ay)?|sure|continue|go on|more|again|why|how|really|same|another"
    r"|next)\W*$|^\W*(what|how) about\b|^\W*(and|but|also|or)\b|^\W*(why|how) (not|so|is that|come)\W*$"
    r"|\b(the (above|former|latter|previous|preceding|following)|as (mentioned|discussed|said|above|before)"
    r"|you (just )?said|your (last|previous) (answer|message|reply)"
    r"|(this|that|these|those) (ones?|code|text|answer|error|email|article|file|document|image|picture|paragraph"
    r"|sentence|function|table|list|message|contract|report|letter)"
    r"|(rewrite|translate|summari[sz]e|explain|fix|shorten|improve|check|continue|expand|do|try|make|run|use)"
    r" (it|this|that|these|them))\b|\b(above|below)[.:?!]?$",
    re.IGNORECASE,
)
_POINTS: Final = re.compile(r"\b(it|this|that|they|them|these|those|he|she|him|her|his|their|its)\b", re.IGNORECASE)
_CODE_BLOCK: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CHANCE: Final = re.compile(
    r"\b(surprise me|roll (a|the) dice|flip a coin|pick (a|any) (number|card|color|colour)"
    r"|(give|tell|show|suggest|pick|choose|draw)\b.{0,30}\b(random|another|different|new)|something (new|else)"
    r"|more (ideas|examples|options))\b",
    re.IGNORECASE,
)
_ENGLISH: Final = frozenset(
    {"a", "an", "the", "is", "are", "do", "does", "did", "can", "could", "what", "how", "why", "where", "when", "who"}
    | {"which", "to", "of", "in", "on", "for", "with", "and", "or", "i", "my", "you", "your", "it", "not", "please"}
    | {"write", "give", "explain", "list", "show", "tell", "create", "make", "should", "would", "will", "was", "were"}
    | {"have", "has", "there", "from", "by"}
)


@dataclass(frozen=True, slots=True)
class OptIns:
    """What an operator takes upon themselves: each lets a class of questions be matched by meaning all the same."""

    time_dependent: bool = False
    personal: bool = False
    turns: bool = False
    tools: bool = False


_NONE: Final = OptIns()


def why_not(facts: Facts, allowed: OptIns = _NONE) -> str:
    """Why the question may not be matched by meaning: a stable code, empty where it may."""
    text = facts.text
    prose = _CODE_BLOCK.sub(" ", text)
    checks = (
        ("images", facts.images),
        ("tools", not allowed.tools and (facts.tools or facts.tool_results)),
        ("long", len(text) > MAX_CHARS),
        ("code_block", len(text) - len(prose) > MAX_CODE_CHARS),
        ("short", len(prose.split()) < _MIN_WORDS),
        ("time", not allowed.time_dependent and bool(_TIME.search(prose))),
        ("personal", not allowed.personal and bool(_PERSONAL.search(prose))),
        ("chance", bool(_CHANCE.search(prose))),
        ("backward", bool(_BACKWARD.search(prose))),
        ("turns", facts.turns > 1 and (not allowed.turns or bool(_POINTS.search(prose)))),
        ("language", _is_foreign(prose)),
    )
    return next((reason for reason, holds in checks if holds), "")


def _is_foreign(text: str) -> bool:
    """The gates read English. A longer text without one small English word is another language: exact matches only."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    foreign_script = sum(not word.isascii() for word in words)
    return (len(words) > 4 and _ENGLISH.isdisjoint(words)) or foreign_script > max(1, len(words) // 4)

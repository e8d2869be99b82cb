"""Cheap features of a prompt: counts and shares that stand beside its embedding. Pure, no model, a fraction of a
millisecond for a page of text.

`NAMES` is an interface: an artifact stores the names it was trained on and goes on reading those, so that names may be
added; it is refused when one is gone. What a name means never changes. Knows no label, no tier and no threshold.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router import code_features
from router.decision import Facts

# A score should not hang on what a longer text adds to a share or a count, and regexes cost by the character.
READ_CHARS: Final = 8_000

NAMES: Final = (
    "log_chars",
    "log_words",
    "log_lines",
    "word_chars",
    "sentence_words",
    "digit_share",
    "log_numbers",
    "upper_share",
    "symbol_share",
    "capitalised_share",
    "code",
    "maths",
    "operators",
    "reasoning_words",
    "constraints",
    "negations",
    "questions",
    "ends_with_question",
    "quotes",
    "blanks",
    "money",
    "percent",
    "years",
    "choices",
    "choice_chars",
    "numeric_choices",
    "list_items",
    "non_ascii_share",
    "cjk_share",
    "cyrillic_share",
    "arabic_share",
    "format_words",
    "log_output_tokens",
    "json_schema",
    "tools",
    "turns",
    *code_features.NAMES,
)


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CODE = re.compile(
    r"```|\[python\]|^\s*(?:def|class|import|from|select|function|const|let|var|public|#include)\b|=>|;\s*$"
    r"|\breturn\b|\btraceback\b|\bstack trace\b",
    re.MULTILINE,
)
_LATEX = re.compile(r"\\(?:frac|int|sum|sqrt|begin)|[∑∫√≤≥±×÷]")
_OPERATOR = re.compile(r"(?<=[\w\s)])[+*/=^<>](?=[\w\s(])|->|[∨∧⊃≡~]")
_MATHS = _vocabulary(
    "prove proof theorem integral derivative equation equations probability matrix polynomial triangle prime modulo "
    "logarithm many much"  # "how many", "how much"
)
_REASON = _vocabulary(
    "analyse analyze compare design architect refactor debug optimise optimize why explain therefore because suppose "
    "assume if then thus hence follow follows"
)
_CONSTRAINT = _vocabulary("must least most exactly only without except ensure more less each every all")
_NEGATION = _vocabulary("not no never none neither nor cannot false incorrect wrong")
_FORMAT = _vocabulary(
    "json yaml xml csv table markdown bullet bullets word words sentence sentences paragraph paragraphs essay"
)
_SENTENCE_END = re.compile(r"[.!?。！？](?:\s|$)")
_NUMERIC = re.compile(r"\W*\d")
_QUOTE = re.compile(r"[\"“”‘«»]")
_BLANK = re.compile(r"___+|\.\.\.\.+")
_YEAR = re.compile(r"\b(?:1[0-9]|20)\d\d\b")
_CHOICE = re.compile(r"^\s*\(?([A-Ha-h])[.):]\s+(.*)$", re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_SYMBOLS = "{}[]()<>=;:_\\/|&%$#@^~`*+-"


def of_facts(facts: Facts) -> NDArray[np.float32]:
    """float32, one value for each of `NAMES`."""
    asked = (facts.max_output_tokens or 0, facts.json_schema, facts.tools or facts.tool_results, facts.turns)
    return np.array(_row(facts.text, _of_request(*asked)), np.float32)


def of_texts(texts: Sequence[str]) -> NDArray[np.float32]:
    """(n, len(NAMES)) for bare single-turn prompts, as outcome files have them."""
    plain = _of_request(0, False, False, 1)
    rows = [_row(text, plain) for text in texts]
    return np.array(rows, np.float32).reshape(len(texts), len(NAMES))


def _row(text: str, request: list[float]) -> list[float]:
    return [*_of_text(text), *request, *code_features.of_text(text[:READ_CHARS])]


def _of_request(output_tokens: int, json_schema: bool, tools: bool, turns: int) -> list[float]:
    return [math.log1p(output_tokens), float(json_schema), float(tools), float(min(10, max(0, turns - 1)))]


def _of_text(whole: str) -> list[float]:
    text = whole[:READ_CHARS]
    lower = text.lower()
    chars = max(1, len(text))
    words = _WORD.findall(text)
    counts = Counter(_WORD.findall(lower))
    word_count = max(1, len(words))
    choices = [choice for _, choice in _CHOICE.findall(text)]

    def listed(vocabulary: frozenset[str], most: int) -> float:
        return float(min(most, sum(counts[word] for word in vocabulary & counts.keys())))

    return [
        math.log1p(len(whole)),
        math.log1p(len(words) * len(whole) / chars),
        math.log1p(whole.count("\n")),
        sum(map(len, words)) / word_count,
        math.log1p(word_count / max(1, len(_SENTENCE_END.findall(text)))),
        sum(map(str.isdigit, text)) / chars,
        math.log1p(len(_NUMBER.findall(text))),
        sum(map(str.isupper, text)) / chars,
        sum(map(text.count, _SYMBOLS)) / chars,
        sum(word[0].isupper() for word in words) / word_count,
        float(min(3, len(_CODE.findall(lower)))),
        min(3.0, listed(_MATHS, 3) + len(_LATEX.findall(text))),
        math.log1p(len(_OPERATOR.findall(text))),
        listed(_REASON, 5),
        listed(_CONSTRAINT, 5),
        min(4.0, listed(_NEGATION, 4) + lower.count("n't") + lower.count("n’t")),
        float(min(4, text.count("?") + text.count("？"))),
        float(text.rstrip().endswith(("?", "？"))),
        math.log1p(len(_QUOTE.findall(text))),
        float(min(3, len(_BLANK.findall(text)))),
        float(min(3, sum(map(text.count, "$€£¥")))),
        float(min(3, text.count("%") + counts["percent"])),
        float(min(3, len(_YEAR.findall(text)))),
        float(min(8, len(choices))),
        math.log1p(sum(map(len, choices)) / len(choices)) if choices else 0.0,
        sum(bool(_NUMERIC.match(choice)) for choice in choices) / len(choices) if choices else 0.0,
        float(min(8, len(_ITEM.findall(text)))),
        *_scripts(text, chars),
        listed(_FORMAT, 3),
    ]


def _scripts(text: str, chars: int) -> list[float]:
    """Shares of characters beyond ASCII, and of the scripts whose languages small models know worst."""
    if text.isascii():
        return [0.0, 0.0, 0.0, 0.0]
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    cjk = ((codes >= 0x3040) & (codes <= 0x9FFF)) | ((codes >= 0xAC00) & (codes <= 0xD7AF))
    counts = [codes > 0x7F, cjk, (codes >= 0x400) & (codes <= 0x52F), (codes >= 0x590) & (codes <= 0x6FF)]
    return [float(found.sum()) / chars for found in counts]

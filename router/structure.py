"""What a prompt asks to be carried out, step by step: the quantities of a word problem, the statements and literals of
code. Counts that grow with the work an answer takes, where length grows with the words as well.

Code is read line by line with patterns rather than parsed: prompts hold pieces of many languages, often broken ones.
Pure, linear in the text (every line is cut). Knows no label and no artifact.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

NAMES: Final = (
    "log_sentences",
    "log_distinct_numbers",
    "log_largest_number",
    "log_decimals",
    "number_words",
    "part_words",
    "multiple_words",
    "time_words",
    "rate_words",
    "order_words",
    "log_code_lines",
    "log_loops",
    "log_branches",
    "log_calls",
    "log_methods",
    "code_depth",
    "log_subscripts",
    "log_string_chars",
    "log_literal_chars",
    "log_arithmetic",
    "log_assignments",
    "log_longest_code_line",
)
_LINE_CHARS: Final = 500
_DEEPEST: Final = 8.0


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORD = re.compile(r"[a-z']+")
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_NUMBERS = _vocabulary(
    "one two three four five six seven eight nine ten eleven twelve dozen twenty thirty forty fifty hundred thousand "
    "million half third quarter thirds quarters fifth tenth twice double triple thrice"
)
_PARTS = _vocabulary(
    "half third quarter thirds quarters fifth fifths sixth eighth tenth fraction percent ratio average rest remaining "
    "remainder"
)
_MULTIPLES = _vocabulary("times twice double triple thrice as than fewer")
_TIMES = _vocabulary(
    "second seconds minute minutes hour hours day days week weeks month months year years daily weekly monthly"
)
_RATES = _vocabulary("per each every apiece a")
_ORDER = _vocabulary("if after before then while until first second when left another rest")

_CODE_LINE = re.compile(
    r"[ \t]*(?:(?:def|class|for|while|if|elif|else|return|try|except|with|import|from|assert|const|let|var|function"
    r"|public|private)\b|[\w.\[\]'\", ]+[-+*/%|&^]{0,3}=[^=]|[\w.]+\(.*\)\s*;?$|[{}]$)"
)
_LOOP = re.compile(r"\b(?:for|while)\b")
_BRANCH = re.compile(r"\b(?:if|elif|else|case|try|except)\b")
_CALL = re.compile(r"\w\(")
_METHOD = re.compile(r"\.\w+\(")
_SUBSCRIPT = re.compile(r"[\w\])]\[")
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_ARITHMETIC = re.compile(r"[-+*/%]")
_ASSIGNMENT = re.compile(r"[^=!<>]=[^=]")


def of_text(text: str) -> list[float]:
    """One value for each of `NAMES`; counts as log(1 + n), which keeps a list of a thousand items in range."""
    return [*_quantities(text), *_code(text)]


def _quantities(text: str) -> list[float]:
    words = Counter(_WORD.findall(text.lower()))
    numbers = _NUMBER.findall(text)
    # longer digit strings are identifiers, and would outweigh any quantity
    values = [float(number.replace(",", "")) for number in numbers if len(number) < 16]
    vocabularies = (_NUMBERS, _PARTS, _MULTIPLES, _TIMES, _RATES, _ORDER)
    return [
        math.log1p(len(_SENTENCE_END.findall(text))),
        math.log1p(len(set(numbers))),
        math.log1p(max(values, default=0.0)),
        math.log1p(sum("." in number for number in numbers)),
        *(math.log1p(sum(words[word] for word in listed & words.keys())) for listed in vocabularies),
    ]


def _code(text: str) -> list[float]:
    lines = [line for whole in text.split("\n") if _CODE_LINE.match(line := whole[:_LINE_CHARS])]
    if not lines:
        return [0.0] * 12
    code = "\n".join(lines)
    strings = [string for line in lines for string in _STRING.findall(line)]
    bare = "\n".join(_STRING.sub("", line) for line in lines)
    depth = max((len(line) - len(line.lstrip())) // 2 for line in lines)
    found = (_LOOP, _BRANCH, _CALL, _METHOD)
    return [
        math.log1p(len(lines)),
        *(math.log1p(len(pattern.findall(code))) for pattern in found),
        min(_DEEPEST, float(depth)),
        math.log1p(len(_SUBSCRIPT.findall(code))),
        math.log1p(sum(map(len, strings))),
        math.log1p(max(map(_bracketed_chars, lines))),
        math.log1p(len(_ARITHMETIC.findall(bare))),
        math.log1p(len(_ASSIGNMENT.findall(code))),
        math.log1p(max(map(len, lines))),
    ]


def _bracketed_chars(line: str) -> int:
    """From the first opening to the last closing bracket: arguments and literals, however nested."""
    first = min((at for bracket in "([{" if (at := line.find(bracket)) >= 0), default=len(line))
    return max(0, max(line.rfind(bracket) for bracket in ")]}") + 1 - first)

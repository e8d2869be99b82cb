"""What code in a prompt asks to be carried out: statements, loops, calls and literals. Counts that grow with the work
an answer takes, where length grows with the words as well.

Code is read line by line with patterns rather than parsed: prompts hold pieces of many languages, often broken ones.
Pure, linear in the text (every line is cut). Knows no label and no artifact.
"""

from __future__ import annotations

import math
import re
from typing import Final

NAMES: Final = (
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

_CODE_LINE = re.compile(
    r"[ \t]*(?:(?:def|class|for|while|if|elif|else|return|try|except|with|import|from|assert|const|let|var|function"
    r"|public|private)\b|[\w.\[\]'\", ]+[-+*/%|&^]{0,3}=[^=]|[\w.]+\(.*\)\s*;?$|[{}]$)"
)
_LOOP = re.compile(r"\b(?:for|while)\b")
_BRANCH = re.compile(r"\b(?:if|elif|else|case|try|except)\b")
_CALL = re.compile(r"\w\(")
_METHOD = re.compile(r"\.\w+\(")
_SUBSCRIPT = re.compile(r"[\w\])]\[")
_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")
_ARITHMETIC = re.compile(r"[-+*/%]")
_ASSIGNMENT = re.compile(r"[^=!<>]=[^=]")


def of_text(text: str) -> list[float]:
    """One value for each of `NAMES`, all 0 without code; counts as log(1 + n), which keeps a long list in range."""
    lines = [line for whole in text.split("\n") if _CODE_LINE.match(line := whole[:_LINE_CHARS])]
    if not lines:
        return [0.0] * len(NAMES)
    code = "\n".join(lines)
    bare = _STRING.sub("", code)
    depth = max((len(line) - len(line.lstrip())) // 2 for line in lines)
    found = (_LOOP, _BRANCH, _CALL, _METHOD)
    return [
        math.log1p(len(lines)),
        *(math.log1p(len(pattern.findall(code))) for pattern in found),
        min(_DEEPEST, float(depth)),
        math.log1p(len(_SUBSCRIPT.findall(code))),
        math.log1p(len(code) - len(bare)),
        math.log1p(max(map(_bracketed_chars, lines))),
        math.log1p(len(_ARITHMETIC.findall(bare))),
        math.log1p(len(_ASSIGNMENT.findall(code))),
        math.log1p(max(map(len, lines))),
    ]


def _bracketed_chars(line: str) -> int:
    """From the first opening to the last closing bracket: arguments and literals, however nested."""
    first = min((at for bracket in "([{" if (at := line.find(bracket)) >= 0), default=len(line))
    return max(0, max(line.rfind(bracket) for bracket in ")]}") + 1 - first)

"""Is an answer right? Checkers for questions whose right answer is known; pure functions of two texts.

The rules for `json_number` and `json_string` are those of the outcome files (docs/learned-routing.md): a model that was
asked for JSON with an `answer` is graded on that field. Executes nothing and asks nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from models.errors import ConfigError

TOLERANCE: Final = Fraction(1, 1_000_000)
MAX_DIGITS: Final = 1_000  # of a number; a model that repeats itself writes longer ones, which Python refuses to read

_ANSWER_FIELD = re.compile(r'"answer"\s*:\s*("(?:[^"\\]|\\.)*"|[^,}\n]+)', re.IGNORECASE)
_ANSWER_LINE = re.compile(r"answer\s*(?:is|:|=)\s*\**\s*([^\n]+)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+(?:\.\d+)?)?")
_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1},}}")
_MIXED = re.compile(r"(-?)(\d+)\s+(\d+)/(\d+)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
_HOURS = re.compile(r"(?<!\d)(\d{1,2}):00(?!\d)")
_LATEX_FRACTION = re.compile(r"\\d?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_CHOICE = re.compile(r"(?:^|\banswer\b[^A-Za-z]{0,12}(?:is\s*)?|\()\(?([A-J])(?:\)|\.|:|,|\s*$)", re.IGNORECASE)
_QUOTES = "\"'"
_SPACES = re.compile(r"\s+")


def grade(answer: str, reference: str, checker: str) -> bool:
    """Whether `answer` gives `reference` under the named checker. Raises ConfigError for a checker nobody knows."""
    try:
        check = CHECKERS[checker]
    except KeyError:
        raise ConfigError(f"there is no checker '{checker}'; there are {', '.join(CHECKERS)}") from None
    return check(answer, reference)


def exact(answer: str, reference: str) -> bool:
    """Equal but for case, white space and a full stop at the end."""
    return _plain(answer) == _plain(reference)


def contains(answer: str, reference: str) -> bool:
    """The reference stands in the answer as words of its own."""
    wanted = re.escape(_plain(reference))
    return bool(wanted) and re.search(rf"(?<!\w){wanted}(?!\w)", _plain(answer)) is not None


def number(answer: str, reference: str) -> bool:
    """The number the answer ends on: a boxed one, else after "answer is", else the last one there is."""
    return _same_number(_boxed(answer) or _last(_ANSWER_LINE, answer) or answer, reference, last=True)


def json_number(answer: str, reference: str) -> bool:
    """The value of the last `answer` field, else a bare "answer:", else the last box; without any it is wrong."""
    field = _last(_ANSWER_FIELD, answer)
    given = _unquoted(field) if field is not None else _last(_ANSWER_LINE, answer) or _boxed(answer)
    return given is not None and _same_number(given, reference, last=False)


def json_string(answer: str, reference: str) -> bool:
    """The `answer` of the first whole JSON object, character by character but for quotes at both ends."""
    found = _first_object(answer)
    if found is not None and "answer" in found:
        value = found["answer"]
        given = value if isinstance(value, str) else str(value)
    elif match := _ANSWER_FIELD.search(answer):
        given = _unquoted(match[1])
    else:
        return False
    return _stripped(given) == _stripped(reference)


def choice(answer: str, reference: str) -> bool:
    """The letter the answer names last, after "answer" or on a place of its own."""
    letters = _CHOICE.findall(answer.strip())
    return bool(letters) and letters[-1].upper() == reference.strip().strip("()").upper()


CHECKERS: Final[Mapping[str, Callable[[str, str], bool]]] = MappingProxyType(
    {check.__name__: check for check in (exact, contains, number, json_number, json_string, choice)}
)


def value_of(text: str, *, last: bool = False) -> Fraction | None:
    """The one number a text gives: units, currency and LaTeX set aside, `=` read to its end. None: none, or several.

    last: of several numbers the last one counts.
    """
    plain = _LATEX_FRACTION.sub(r"(\1)/(\2)", text.rpartition("=")[2])
    plain = _HOURS.sub(r"\1", _THOUSANDS.sub("", plain)).replace("\\!", "").replace("−", "-")
    plain = re.sub(r"[()${}\\°%]", "", plain)
    if _DIGITS.search(plain):
        return None
    if mixed := _MIXED.search(plain):
        sign, whole, over, under = mixed.groups()
        if int(under):
            return (-1 if sign else 1) * (int(whole) + Fraction(int(over), int(under)))
    numbers = [_fraction(found) for found in _NUMBER.findall(plain)]
    if not numbers or (len(set(numbers)) > 1 and not last):
        return None
    return numbers[-1]


def _fraction(text: str) -> Fraction | None:
    over, _, under = text.replace(" ", "").partition("/")
    divisor = Fraction(under) if under else Fraction(1)
    return Fraction(over) / divisor if divisor else None


def _same_number(given: str, reference: str, *, last: bool) -> bool:
    got, wanted = value_of(given, last=last), value_of(reference, last=True)
    return got is not None and wanted is not None and abs(got - wanted) <= TOLERANCE


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _boxed(text: str) -> str | None:
    return _last(_BOXED, text)


def _first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object that ends, wherever it begins."""
    decoder = json.JSONDecoder(strict=False)
    for match in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def _unquoted(literal: str) -> str:
    try:
        value = json.loads(literal, strict=False)
    except ValueError:
        return literal.strip()
    return value if isinstance(value, str) else literal.strip()


def _stripped(text: str) -> str:
    return text.strip(_QUOTES).replace("\n", "\\n")


def _plain(text: str) -> str:
    return _SPACES.sub(" ", text).strip().rstrip(".").casefold()

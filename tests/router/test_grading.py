"""Checkers against answers as models write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from router.grading import CHECKERS, grade, value_of

CASES = [
    ("exact", " Paris. ", "paris", True),
    ("exact", "Paris, France", "paris", False),
    ("contains", "It is Paris, of course.", "Paris", True),
    ("contains", "Comparison", "Paris", False),
    ("contains", "anything", "", False),
    ("number", "First 3 then 4, so the answer is 7.", "7", True),
    ("number", "The total is $1,234.50", "1234.5", True),
    ("number", "3 + 4 = 8", "7", False),
    ("number", "so \\boxed{\\frac{1}{2}} it is, 3 of them", "0.5", True),
    ("number", "no idea", "7", False),
    ("json_number", '{"reasoning": "2 and 3", "answer": "18"}', "18", True),
    ("json_number", '{"reasoning": "x = 9", "answer": "x = 6 dollars"}', "6", True),
    ("json_number", '{"answer": "2:00 pm"}', "2", True),
    ("json_number", '{"answer": "4 or 5"}', "5", False),
    ("json_number", "the sum is 18", "18", False),
    ("json_number", '{"answer": "1"} no, {"answer": "18"}', "18", True),
    ("json_string", '```json\n{"reasoning": "", "answer": "\'abc\'"}\n```', "'abc'", True),
    ("json_string", '{"reasoning": "", "answer": "ab c"}', "'abc'", False),
    ("json_string", '{"answer": " abc"}', "'abc'", False),
    ("json_string", '{"answer": [1, 2]}', "[1, 2]", True),
    ("json_string", '{"reasoning": cut off, "answer": "abc"', "abc", True),
    ("json_string", "abc", "abc", False),
    ("choice", "B", "B", True),
    ("choice", "The answer is (c).", "C", True),
    ("choice", "Answer: D) because A is wrong", "D", True),
    ("choice", "A cat sat", "A", False),
]


@pytest.mark.parametrize(("checker", "answer", "reference", "right"), CASES)
def test_an_answer_as_a_model_writes_it(checker: str, answer: str, reference: str, right: bool) -> None:
    assert grade(answer, reference, checker) is right


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 1/2", Fraction(3, 2)),
        ("-0.25", Fraction(-1, 4)),
        ("3/4 of it", Fraction(3, 4)),
        ("$1,000,000", Fraction(1_000_000)),
        ("7/0", None),
        ("1 and 2", None),
        ("none", None),
        ("9" * 5_000, None),
        ("1 " + "9" * 5_000 + "/7", None),
        ("0." + "3" * 5_000, None),
    ],
)
def test_a_text_has_one_value_or_none(text: str, value: Fraction | None) -> None:
    assert value_of(text) == value


def test_an_unknown_checker_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"exactly.*json_number"):
        grade("a", "b", "exactly")


@given(st.text(), st.text(), st.sampled_from(sorted(CHECKERS)))
def test_no_text_is_an_accident(answer: str, reference: str, checker: str) -> None:
    assert grade(answer, reference, checker) in (True, False)


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_right_however_it_is_grouped(number: int) -> None:
    assert grade(f'{{"answer": "{number:,}"}}', str(number), "json_number")

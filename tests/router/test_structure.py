"""Structure: what each count is for, and that no text breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.structure import NAMES, of_text

CODE = """\
def f(text, xs):
    out = []
    for x in xs:
        if x > 2:
            out.append(text[x] + 'abc')
    return out
assert f('abcdef', [1, 2, 3]) == ??
"""


def of(text: str) -> dict[str, float]:
    return dict(zip(NAMES, of_text(text), strict=True))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("She has 3 apples and 4 pears.", "log_distinct_numbers"),
        ("It weighs 1,200 grams", "log_largest_number"),
        ("It costs 2.50", "log_decimals"),
        ("There are seven of them", "number_words"),
        ("The remaining half", "part_words"),
        ("Twice as many", "multiple_words"),
        ("For three weeks", "time_words"),
        ("Ten per box", "rate_words"),
        ("Then another left", "order_words"),
        (CODE, "log_code_lines"),
        (CODE, "log_loops"),
        (CODE, "log_branches"),
        (CODE, "log_calls"),
        (CODE, "log_methods"),
        (CODE, "code_depth"),
        (CODE, "log_subscripts"),
        (CODE, "log_string_chars"),
        (CODE, "log_literal_chars"),
        (CODE, "log_arithmetic"),
        (CODE, "log_assignments"),
        (CODE, "log_longest_code_line"),
        ("One. Two.", "log_sentences"),
    ],
)
def test_each_sees_what_it_is_named_after(text: str, name: str) -> None:
    assert of(text)[name] > of("Tell me about the sea")[name]


def test_prose_holds_no_code() -> None:
    prose = "A train leaves (at noon) for Rome, and another one follows.\nIts speed is not known: why?"
    assert all(of(prose)[name] == 0.0 for name in NAMES[NAMES.index("log_code_lines") :])


def test_operators_inside_strings_are_no_arithmetic() -> None:
    assert of("x = 'a-b-c'")["log_arithmetic"] == 0.0
    assert of("x = a - b")["log_arithmetic"] > 0.0


def test_a_digit_string_is_no_quantity() -> None:
    assert of("Call 1234567890123456789")["log_largest_number"] == 0.0


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("()[]{}'\"\\ =\n0.,")), max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    assert all(0.0 <= value < 100.0 for value in of_text(text)) and len(of_text(text)) == len(NAMES)

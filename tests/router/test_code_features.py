"""Features of code: what each count is for, and that no text breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.code_features import NAMES, of_text

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


@pytest.mark.parametrize("name", NAMES)
def test_each_sees_what_it_is_named_after(name: str) -> None:
    assert of(CODE)[name] > 0.0


def test_prose_holds_no_code() -> None:
    prose = "A train leaves (at noon) for Rome, and another one follows.\nIts speed is not known: why?"
    assert all(of(prose)[name] == 0.0 for name in NAMES)


def test_operators_inside_strings_are_no_arithmetic() -> None:
    assert of("x = 'a-b-c'")["log_arithmetic"] == 0.0
    assert of("x = a - b")["log_arithmetic"] > 0.0


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("()[]{}'\"\\ =\n0.,")), max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    assert all(0.0 <= value < 100.0 for value in of_text(text)) and len(of_text(text)) == len(NAMES)

"""Features: what each is for, and that no text breaks them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decision import Facts
from router.features import NAMES, READ_CHARS, of_facts, of_texts


def of(text: str) -> dict[str, float]:
    return dict(zip(NAMES, of_texts([text])[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def f(x):\n    return x", "code"),
        ("Prove the theorem.", "maths"),
        ("What is \\frac{1}{2}?", "maths"),
        ("Compare them and explain why.", "reasoning_words"),
        ("It must have exactly two parts.", "constraints"),
        ("Which is not true?", "negations"),
        ("It isn't so.", "negations"),
        ("Is it? Why?", "questions"),
        ("The capital is ____.", "blanks"),
        ("It costs $20.", "money"),
        ("In 1914 it began.", "years"),
        ("Which?\nA. one\nB. two", "choices"),
        ("Which?\nA. 1\nB. 2", "numeric_choices"),
        ("- one\n- two", "list_items"),
        ("富士山はどこですか", "cjk_share"),
        ("Где находится гора?", "cyrillic_share"),
        ("أين الجبل؟", "arabic_share"),
        ("Answer in JSON.", "format_words"),
        ("x + 1 = y * 2", "operators"),
    ],
)
def test_each_feature_sees_what_it_is_named_after(text: str, name: str) -> None:
    assert of(text)[name] > 0
    assert of("Tell me about the sea.")[name] == 0


def test_the_request_counts_where_the_text_is_silent() -> None:
    plain = Facts("r", "t", "Hello", 5, 2)
    asked = Facts("r", "t", "Hello", 5, 2, max_output_tokens=500, turns=4, tool_results=True, json_schema=True)
    before, after = (dict(zip(NAMES, of_facts(facts).tolist(), strict=True)) for facts in (plain, asked))
    changed = {name for name in NAMES if before[name] != after[name]}
    assert changed == {"log_output_tokens", "json_schema", "tools", "turns"}


def test_facts_of_a_bare_prompt_are_those_of_its_text() -> None:
    text = "Prove that there are infinitely many primes."
    assert np.array_equal(of_facts(Facts("r", "t", text, len(text), 10)), of_texts([text])[0])


def test_length_counts_all_of_a_text_of_which_only_the_beginning_is_read() -> None:
    assert of("word " * READ_CHARS)["log_chars"] > of("word " * (READ_CHARS // 5))["log_chars"] + 1


@given(st.text(alphabet=st.characters(), max_size=300))
def test_no_text_breaks_them(text: str) -> None:
    found = of_texts([text])
    assert found.shape == (1, len(NAMES)) and found.dtype == np.float32
    assert np.isfinite(found).all()

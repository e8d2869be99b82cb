"""Token figures of backends: read, or not believed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.types import MAX_TOKENS, Usage

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = ["prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"]


@given(anything | st.dictionaries(st.sampled_from(NAMES), anything))
def test_whatever_a_backend_says_the_figures_are_counts_or_none(told: Any) -> None:
    usage = Usage.from_openai(told)
    if usage is not None:
        figures = (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens, usage.output_tokens)
        assert all(type(n) is int and 0 <= n <= MAX_TOKENS for n in (*figures, usage.reasoning_tokens))


counts = st.integers(0, 10**6)


@given(st.builds(Usage, counts, counts, counts, counts, counts))
def test_what_we_tell_is_read_back_the_same(usage: Usage) -> None:
    assert Usage.from_openai(usage.to_openai()) == usage


@pytest.mark.parametrize("told", [None, {}, [], "x", {"cost": 1.0}, {"prompt_tokens": None}])
def test_no_figure_is_none_and_not_a_free_call(told: Any) -> None:
    assert Usage.from_openai(told) is None

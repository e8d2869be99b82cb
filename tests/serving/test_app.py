"""The composition root's small decisions."""

from __future__ import annotations

import pytest

from serving.app import answering
from serving.config import parse

BASE = """
tiers:
  - {name: small, backends: [{kind: engine, profile: embedded}]}
  - {name: frontier, backends: [{kind: http, url: "http://a/v1", model: gpt-6-luna}]}
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("profile: embedded", "profile: qwen3-8b-awq"),
        ("profile: embedded", "profile: embedded, args: {max_model_len: 4096}"),
        ("profile: embedded", "profile: embedded, weights: elsewhere"),
        ("gpt-6-luna", "gpt-6.1-sol"),
        ("http://a/v1", "http://b/v1"),
        ("name: frontier", "name: best"),
    ],
)
def test_what_decides_an_answer_sets_caches_apart(old: str, new: str) -> None:
    assert answering(parse(BASE.replace(old, new))) != answering(parse(BASE))


@pytest.mark.parametrize(
    "more",
    ["listen: {port: 9000}", "budget: {frontier_usd_per_day: 3}", "gateway: {replicas: 2}", "retry: {base_s: 1}"],
)
def test_what_does_not_leaves_the_cache_valid(more: str) -> None:
    assert answering(parse(BASE + more)) == answering(parse(BASE))

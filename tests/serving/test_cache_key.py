"""The exact cache's key: equal for equal requests, different for every difference that can change the answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cache.key import IGNORED, cache_key, prompt_fingerprint, storable, uncacheable
from serving.wire.request import Asked, Limits, parse


def ask(endpoint: Any = "chat/completions", **fields: Any) -> Asked:
    prompt = (
        {"messages": [{"role": "user", "content": "why?"}]} if endpoint == "chat/completions" else {"prompt": "why?"}
    )
    return parse(endpoint, json.dumps({"model": "auto"} | prompt | fields).encode(), Limits())


def key(asked: Asked, tenant: str = "t", policy: str = "p1", namespace: str = "n") -> bytes:
    return cache_key(asked, tenant, policy, namespace)


TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}}},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"properties": {"why": {}, "answer": {}}}}}
SWAPPED = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"properties": {"answer": {}, "why": {}}}}}

# Each alone makes another request of the plain one.
CHANGES: list[dict[str, Any]] = [
    {"model": "small"},
    {"messages": [{"role": "user", "content": "Why?"}]},
    {"messages": [{"role": "user", "content": "why? "}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "why?"}]}]},
    {"messages": [{"role": "user", "content": "why?", "name": "ann"}]},
    {"messages": [{"role": "system", "content": "why?"}]},
    {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]},
    {"messages": [{"role": "user", "content": "why?"}] * 2},
    {"temperature": 0},
    {"temperature": 0.5},
    {"temperature": None},
    {"top_p": 0.9},
    {"n": 1},
    {"n": 2},
    {"seed": 1},
    {"seed": 2},
    {"stop": "x"},
    {"stop": ["x"]},
    {"max_tokens": 5},
    {"max_completion_tokens": 5},
    {"presence_penalty": 0.1},
    {"frequency_penalty": 0.1},
    {"logit_bias": {"5": 1}},
    {"logit_bias": {"6": 1}},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 2},
    {"tools": [TOOL]},
    {"tools": [TOOL], "tool_choice": "auto"},
    {"tools": [TOOL], "tool_choice": "required"},
    {"tools": [TOOL], "parallel_tool_calls": False},
    {"response_format": {"type": "json_object"}},
    {"response_format": SCHEMA},
    {"response_format": SWAPPED},
    {"reasoning_effort": "low"},
    {"a_field_nobody_knows": 1},
    {"a_field_nobody_knows": "1"},
    {"a_field_nobody_knows": {"a": 1}},
    {"another_field_nobody_knows": 1},
    {"farthing": {"local_only": True}},
]

UNCHANGED: list[dict[str, Any]] = [
    {"stream": True},
    {"stream": False},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"user": "ann"},
    {"metadata": {"a": "b"}},
    {"store": True},
    {"safety_identifier": "x"},
    {"prompt_cache_key": "x"},
    {"farthing": {"tags": ["a"], "deadline_ms": 5, "conversation": "c", "prompt": "p/1", "cache": "exact"}},
]


def test_no_two_of_these_requests_share_a_key() -> None:
    keys = [key(ask())] + [key(ask(**change)) for change in CHANGES]
    assert len(set(keys)) == len(CHANGES) + 1
    assert {len(one) for one in keys} == {32}


@pytest.mark.parametrize("same", UNCHANGED)
def test_how_it_is_delivered_and_who_may_look_is_not_in_the_key(same: dict[str, Any]) -> None:
    assert key(ask(**same)) == key(ask())
    assert prompt_fingerprint(ask(**same)) == prompt_fingerprint(ask())


def test_tenant_policy_namespace_and_endpoint_are_in_the_key() -> None:
    asked, chat_on_text = ask(), ask("completions", messages=[{"role": "user", "content": "why?"}])
    keys = {key(asked), key(asked, tenant="u"), key(asked, policy="p2"), key(asked, namespace="m"), key(chat_on_text)}
    moved = {key(asked, "tp", "1", "n"), key(asked, "t", "p", "1n")}  # the parts never run into each other
    assert len(keys | moved) == 7


def test_options_of_the_key_count_once_merged() -> None:
    asked = ask()
    local = dataclasses.replace(asked, options=ask(farthing={"local_only": True}).options.merged(asked.options))
    assert key(local) == key(ask(farthing={"local_only": True})) != key(asked)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":0.0,"top_p":1}',
         '{ "top_p": 1.0, "temperature": -0.0, "messages": [{"content": "\\u00e9", "role": "user"}], "model": "m" }'),
        ('{"model":"m","messages":[{"role":"user","content":"x"}],"logit_bias":{"1":2,"3":4}}',
         '{"model":"m","messages":[{"role":"user","content":"x"}],"logit_bias":{"3":4,"1":2}}'),
    ],
)  # fmt: skip
def test_spelling_of_json_is_not_in_the_key(one: str, other: str) -> None:
    assert key(parse("chat/completions", one.encode(), Limits())) == key(
        parse("chat/completions", other.encode(), Limits())
    )


names = st.text("abc", min_size=1, max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, -1.5]) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
bodies = st.dictionaries(names.map(lambda name: "x_" + name), values, max_size=4)


@given(bodies, bodies, st.randoms())
def test_keys_are_equal_exactly_when_the_requests_are(one: dict[str, Any], other: dict[str, Any], chance: Any) -> None:
    members = list(one.items())
    chance.shuffle(members)
    assert key(ask(**dict(members))) == key(ask(**one))
    # As JSON text, where 1 is not true and the order inside unknown objects counts
    same = {n: json.dumps(v) for n, v in one.items()} == {n: json.dumps(v) for n, v in other.items()}
    assert (key(ask(**one)) == key(ask(**other))) == same


@given(st.text(), st.text())
def test_tenants_never_share(one: str, other: str) -> None:
    asked = ask()
    assert (key(asked, tenant=one) == key(asked, tenant=other)) == (one == other)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, None),
        ({"temperature": None}, None),
        ({"temperature": 0}, None),
        ({"top_p": 0.5}, None),
        ({"seed": 4}, None),
        ({"n": 1}, None),
        ({"logprobs": True}, None),
        ({"tools": [TOOL]}, None),
        ({"temperature": 0.1}, "temperature"),
        ({"temperature": 1, "seed": 4}, "temperature"),
        ({"n": 2}, "choices"),
        ({"n": 2, "temperature": 0.2}, "temperature"),
    ],
)
def test_asking_for_chance_is_not_answered_from_the_cache_unless_opted_in(
    fields: dict[str, Any], why: str | None
) -> None:
    assert uncacheable(ask(**fields), opt_in_sampled=False) == why
    assert uncacheable(ask(**fields), opt_in_sampled=True) is None
    assert uncacheable(ask(**fields, farthing={"cache": "only"}), opt_in_sampled=False) is None
    assert uncacheable(ask(**fields, farthing={"cache": "bypass"}), opt_in_sampled=False) == why


def test_best_of_is_several_choices_too() -> None:
    assert uncacheable(ask("completions", best_of=3), opt_in_sampled=False) == "choices"


@pytest.mark.parametrize(
    ("choices", "good"),
    [
        ([{"finish_reason": "stop", "message": {"content": "x"}}], True),
        ([{"finish_reason": "length", "text": "x"}], True),
        ([{"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{}]}}], True),
        ([{"finish_reason": "stop"}, {"finish_reason": None}], False),
        ([{"finish_reason": "content_filter"}], False),
        ([{"finish_reason": "error"}], False),
        ([{"finish_reason": "stop", "message": {"refusal": "no"}}], False),
        ([], False),
    ],
)
def test_only_whole_answers_are_stored(choices: list[Any], good: bool) -> None:
    assert storable({"choices": choices}) is good


def test_the_fingerprint_is_of_the_words_alone() -> None:
    assert prompt_fingerprint(ask()) == prompt_fingerprint(ask(model="small", temperature=1, tools=[TOOL]))
    assert prompt_fingerprint(ask()) != prompt_fingerprint(ask(messages=[{"role": "user", "content": "how?"}]))
    assert prompt_fingerprint(ask("completions")) != prompt_fingerprint(ask("completions", prompt="how?"))
    assert len(prompt_fingerprint(ask())) == 64


def test_what_is_ignored_is_documented_in_one_place() -> None:
    text = (Path(__file__).parents[2] / "docs" / "exact-cache.md").read_text()
    assert all(f"`{name}`" in text for name in IGNORED)

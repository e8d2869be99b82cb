from __future__ import annotations

from pathlib import Path

from benchmarks.cost import peer
from benchmarks.cost.architectures import RTX_4090, Setup
from benchmarks.cost.drive import Reply

MODELS = {"small": "s", "cheap": "gpt-4o-mini-2024-07-18", "frontier": "gpt-4o-2024-08-06"}


def reply(id: str, at_s: float, answer_id: str, latency_s: float = 1.0) -> Reply:
    return Reply(id, at_s, latency_s, answer_id=answer_id)


def test_who_answered_is_told_by_the_answers_id_and_a_second_one_is_a_copy() -> None:
    mini, frontier = f"chatcmpl-{MODELS['cheap']}-7", f"chatcmpl-{MODELS['frontier']}-7"
    replies = [reply("b", 5.0, mini, 0.1), reply("a", 0.0, mini), reply("c", 1.0, frontier)]
    found = peer.labelled(replies, MODELS)
    assert {id: (r.route, r.cache) for id, r in found.items()} == {
        "a": ("cheap", "miss"),
        "b": ("cheap", "exact"),
        "c": ("frontier", "miss"),
    }


def test_both_hosted_tiers_stand_behind_one_name() -> None:
    setup = Setup(MODELS, {"cheap": "http://c", "frontier": "http://f"}, RTX_4090, {}, Path())
    found = peer.settings(setup)
    assert {entry["model_name"] for entry in found["model_list"]} == {"auto"}
    assert [entry["litellm_params"]["api_base"] for entry in found["model_list"]] == ["http://c/v1", "http://f/v1"]
    assert found["litellm_settings"]["cache"] is True

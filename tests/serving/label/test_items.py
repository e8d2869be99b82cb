"""Reading prompts: bad lines are named, what cannot be labelled is counted, and a sample has each group's share."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from models.errors import ConfigError
from serving.label.items import read, sample
from tests.serving.label.conftest import sums, write_lines

USER = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "x"}, "no 'id'"),
        ({"id": "", "prompt": "x"}, "no 'id'"),
        ({"id": ["a"], "prompt": "x"}, "no 'id', which is a text or a number"),
        ({"id": "a"}, "neither 'messages' nor a 'prompt'"),
        ({"id": "a", "prompt": ["x"]}, "neither 'messages' nor a 'prompt'"),
        ({"id": "a", "messages": []}, "'messages' is a list"),
        ({"id": "a", "messages": "hi"}, "'messages' is a list"),
        ({"id": "a", "messages": ["hi"]}, "'messages' is a list"),
        ({"id": "a", "messages": [{"role": "user"}]}, "'messages' is a list"),
        ({"id": "a", "prompt": "x", "reference": {}}, "a text or a number"),
        ({"id": "a", "prompt": "x", "reference": "1"}, "needs a checker"),
        ({"id": "a", "prompt": "x", "reference": "1", "checker": "guess"}, "no checker 'guess'"),
        (["x"], "an object is expected"),
    ],
)
def test_a_bad_line_is_named_with_its_file(tmp_path: Path, row: Any, says: str) -> None:
    file = write_lines(tmp_path / "in.jsonl", [*sums(2), row])
    with pytest.raises(ConfigError, match=rf"in\.jsonl:3: .*{says}"):
        read(file)


def test_ids_may_be_numbers_as_in_outcome_rows(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "in.jsonl", [{"id": 0, "prompt": "x"}, {"id": None, "request_id": "r", "prompt": "y"}]
    )
    assert [item.id for item in read(file).items] == ["0", "r"]


def test_what_is_no_json_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": ')
    with pytest.raises(ConfigError, match=r"in\.jsonl:1: not JSON"):
        read(tmp_path / "in.jsonl")
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="it is empty"):
        read(tmp_path / "empty.jsonl")


def test_what_cannot_be_labelled_is_passed_over_and_counted(tmp_path: Path) -> None:
    picture = [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url"}]}]
    calls = [*USER, {"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": "x"}]
    rows = [
        {"request_id": "a", "messages": USER, "prompt_name": "faq", "tags": []},
        {"request_id": "b", "messages": USER},
        {"request_id": "c", "messages": None, "text": None},
        {"request_id": "d", "messages": picture},
        {"request_id": "e", "messages": calls},
        {"request_id": "f", "messages": [*USER, *USER], "tools": True},
        {"request_id": "g", "messages": [*USER, *USER], "tags": ["label"]},
        {"id": "h", "prompt": None, "reference": "1"},
        {"id": "i", "messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}]},
    ]  # fmt: skip
    found = read(write_lines(tmp_path / "in.jsonl", rows))
    assert [(item.id, item.group, item.task) for item in found.items] == [
        ("a", "faq", "traffic"),
        ("i", "traffic", "traffic"),
    ]
    assert found.items[1].prompt == found.items[1].question == "a\nb"
    assert found.passed_over == {
        "asked before word for word": 1,
        "without a kept text": 2,
        "with pictures or sound": 1,
        "with tools": 2,
        "sent by a label run or a judge": 1,
    }


def test_the_question_is_the_last_of_a_conversation(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    (item,) = read(write_lines(tmp_path / "in.jsonl", [{"id": "a", "messages": messages}])).items
    assert item.question == "Why?"
    assert item.prompt == "Be brief.\n\nHi\n\nYes?\n\nWhy?"
    assert item.dialogue.endswith("[assistant]\nYes?\n\n[user]\nWhy?")


def test_references_of_the_outcome_files_are_read(tmp_path: Path) -> None:
    row = {"id": "z/1", "task": "gsm", "prompt": "p", "question": "q", "reference": 18, "models": {}}
    (item,) = read(write_lines(tmp_path / "in.jsonl", [row]), checker="json_number").items
    assert (item.reference, item.checker, item.group) == ("18", "json_number", "gsm")
    with pytest.raises(ConfigError, match="two different prompts have the same id"):
        read(write_lines(tmp_path / "in.jsonl", [row, {**row, "prompt": "other"}]), checker="number")


def test_each_group_has_its_share_and_the_seed_decides(tmp_path: Path) -> None:
    rows = [{**row, "group": "rare" if i % 10 == 0 else "common"} for i, row in enumerate(sums(200))]
    found = read(write_lines(tmp_path / "in.jsonl", rows)).items
    for seed in range(5):
        chosen = sample(found, 40, seed)
        assert len({item.id for item in chosen}) == 40
        assert abs(Counter(item.group for item in chosen)["rare"] - 4) <= 1
        assert chosen == sample(found, 40, seed)
    assert sample(found, 40, 1) != sample(found, 40, 2)
    assert {item.id for item in sample(found, 500, 0)} == {item.id for item in found}
    assert len(sample(found, 199, 3)) == len({item.id for item in sample(found, 199, 3)}) == 199


def test_a_larger_sample_holds_the_smaller_one_and_a_longer_file_most_of_it(tmp_path: Path) -> None:
    rows = [{**row, "group": f"group {i % 7}"} for i, row in enumerate(sums(300))]
    found = read(write_lines(tmp_path / "in.jsonl", rows)).items
    before = read(write_lines(tmp_path / "in.jsonl", rows[280:1:-1])).items
    for seed in range(5):
        chosen: set[str] = set()
        for count in (1, 10, 80, 100, 299):
            larger = {item.id for item in sample(found, count, seed)}
            assert chosen <= larger
            chosen = larger
        old, new = ({item.id for item in sample(items, 100, seed)} for items in (before, found))
        assert len(old & new) > 85


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a", "messages": 5},
        {"id": "a", "messages": [{"role": "user", "content": 5}]},
        {"id": "a", "messages": [{"role": "user", "content": {"a": 1}}]},
    ],
)
def test_messages_of_another_kind_are_named(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"in\.jsonl:1: 'messages' is a list"):
        read(write_lines(tmp_path / "in.jsonl", [row]))


@pytest.mark.parametrize("name", ["prompt", "reference", "group", "id"])
def test_half_a_character_is_told_before_it_is_paid_for(tmp_path: Path, name: str) -> None:
    row = {"id": "a", "prompt": "x", "reference": "1", "checker": "exact", "group": "g"}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({**row, name: "\ud83d"}))
    with pytest.raises(ConfigError, match=r"in\.jsonl:1: the row holds what is no text"):
        read(path)


@pytest.mark.parametrize("tags", [5, "label", [{}], [["label"]], {"label": 1}])
def test_tags_of_another_kind_are_nobodys(tmp_path: Path, tags: Any) -> None:
    assert len(read(write_lines(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x", "tags": tags}])).items) == 1

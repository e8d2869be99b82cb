"""Rows as `python -m serving export` writes them, to requests, and to the server that replays their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from benchmarks.child import BenchmarkError
from benchmarks.cost import drive, logged, replay, workload
from benchmarks.cost.drive import Reply, Target
from benchmarks.cost.replay import Recording, Speed
from benchmarks.cost.workload import Workload

MODELS = ["a", "b"]
TEXTS = {"messages": None, "answer_text": None, "tools": None, "text": None}
"""What `export --texts` writes for a request whose texts were not kept."""


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def kept(*messages: dict[str, Any], said: str | None = "So.") -> dict[str, Any]:
    return {"messages": list(messages), "answer_text": said, "tools": None, "text": "..."}


def export(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    usual = {"status": "answered", "endpoint": "chat/completions", "tenant": "t", "input_tokens": 7, "output_tokens": 3}
    path = tmp_path / "export.jsonl"
    lines = [usual | {"request_id": f"r{i}", "at_ms": 5_000 + 1000 * i, "prompt_sha256": f"s{i}"} | row
             for i, row in enumerate(rows)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_without_texts_times_lengths_tenants_and_repeats_are_kept(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        {"prompt_sha256": "x"},
        {"tenant": "u"},
        {"prompt_sha256": "x", "status": "cached"},
        {"status": "failed"},
        {"endpoint": "embeddings"},
    )
    found = logged.read(path, MODELS, None, None)
    assert [(r.id, r.arrival_s, r.kind, r.tenant) for r in found.requests] == [
        ("r0", 0.0, "new", "t"),
        ("r1", 1.0, "new", "u"),
        ("r2", 2.0, "repeat", "t"),
    ]
    assert found.requests[0].text == found.requests[2].text != found.requests[1].text
    assert found.requests[0].max_tokens == 3
    assert found.recorded()["b"]["x"].output_tokens == 3
    assert found.facts["with_texts"] == 0


def test_with_texts_the_words_are_asked_and_answered(tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "s"}, user("Why?")]
    found = logged.read(export(tmp_path, kept(*asked), TEXTS), MODELS, 2.0, None)
    assert found.requests[0].messages == asked
    assert found.recorded()["a"][found.requests[0].question].text == "So."
    assert found.requests[1].text.split()[0].isalpha(), "nothing kept: filler"
    assert found.facts["with_texts"] == 0.5
    assert found.duration_s == pytest.approx(2 / 2.0)


def test_redaction_makes_two_prompts_one_question(tmp_path: Path) -> None:
    found = logged.read(export(tmp_path, kept(user("Mail [EMAIL]")), kept(user("Mail [EMAIL]"))), MODELS, None, None)
    assert [r.kind for r in found.requests] == ["new", "repeat"]
    assert len(found.answers) == len(MODELS)


def test_an_answer_is_taken_from_the_row_that_has_one(tmp_path: Path) -> None:
    hit = kept(user("Why?"), said=None) | {"status": "cached", "output_tokens": 0}
    found = logged.read(export(tmp_path, hit, kept(user("Why?"))), MODELS, None, None)
    assert {(a.text, a.output_tokens) for a in found.answers} == {("So.", 3)}
    assert [r.max_tokens for r in found.requests] == [3, 3], "or the exact cache would tell the two apart"


def test_a_picture_left_only_its_type_and_is_asked_in_filler(tmp_path: Path) -> None:
    words = [{"type": "text", "text": "What is it?"}]
    path = export(tmp_path, kept(user([*words, {"type": "image_url"}])), kept(user(words)))
    picture, plain = logged.read(path, MODELS, None, None).requests
    assert isinstance(picture.messages[0]["content"], str)
    assert plain.messages == [user(words)]


async def test_each_conversation_gets_its_own_answer_from_the_replayed_model(tmp_path: Path) -> None:
    """The same last words in other conversations, and rows without texts among them."""
    talk = [user("Name a bird."), {"role": "assistant", "content": "Robin."}, user("Another one.")]
    other = [user("Name a colour."), {"role": "assistant", "content": "Red."}, user("Another one.")]
    path = export(tmp_path, kept(*talk, said="Eagle."), kept(*other, said="Green."), TEXTS, kept(user("Another one.")))
    asked = logged.read(path, ["m"], 100.0, None)
    texts = {reply.id: (reply.text, reply.output_tokens) for reply in await replayed(asked, tmp_path / "folder")}
    assert texts["r0"] == ("Eagle.", 3)
    assert texts["r1"] == ("Green.", 3)
    assert texts["r3"] == ("So.", 3)
    assert texts["r2"] == (asked.recorded()["m"]["s2"].text, 3)


async def replayed(asked: Workload, folder: Path) -> list[Reply]:
    workload.write(asked, folder)
    runner = web.AppRunner(replay.application(Recording.read(folder, "m"), Speed(0.0, 1e6)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found: list[Reply] = []
    keep = lambda reply: found.append(reply) is None  # noqa: E731
    target = Target(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", {}, "m")
    await drive.drive(asked.requests, target, keep, lambda _: None)
    await runner.cleanup()
    return found


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"status": "failed"}, {}], "no two answered chat requests"),
        ([{}, {"at_ms": 9_000_000_000}], "say how fast to ask them"),
        ([{"at_ms": 5_000}, {"at_ms": 5_000}], "say how fast to ask them"),
        ([{}, {"output_tokens": None}], "is not what `python -m serving export` writes"),
        ([{}, {"at_ms": "soon"}], "is not what `python -m serving export` writes"),
    ],
)
def test_what_cannot_be_asked_again_is_refused(tmp_path: Path, rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(BenchmarkError, match=complaint):
        logged.read(export(tmp_path, *rows), MODELS, None, None)


def test_a_long_log_is_asked_at_a_stated_rate(tmp_path: Path) -> None:
    found = logged.read(export(tmp_path, {}, {"at_ms": 9_000_000_000}), MODELS, 4.0, None)
    assert found.facts["offered_rps"] == 4.0
    assert found.duration_s == pytest.approx(0.5)

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import mixing, zeroeval
from benchmarks.cost.mixing import Mix
from benchmarks.cost.workload import Request, by_conversation, conversation
from benchmarks.cost.zeroeval import Question
from tests.benchmarks.cost.questions import MODELS, row, write

MIX = Mix(seed=3, rps=10.0, repeat_rate=0.2, paraphrase_rate=0.1, deferrable_share=0.25)


@pytest.fixture
def questions(tmp_path: Path) -> list[Question]:
    return zeroeval.read(write(tmp_path / "rows.jsonl", 200), list(MODELS.values()))


def mixed(questions: list[Question], mix: Mix) -> list[Request]:
    return mixing.halves(questions, mix, {q.id: i % 2 for i, q in enumerate(questions)})


def test_models_that_were_not_asked_are_null_or_missing_as_in_outcome_rows(tmp_path: Path) -> None:
    rows = [row(number) for number in range(4)]
    for number, one in enumerate(rows):
        one["models"] |= {"some": None if number else {"correct": 1}, "all": {"correct": number % 2}}
        one["models"]["ungraded"] = {"correct": None}
    rows[3]["models"]["little"] = None
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = zeroeval.read(path, list(MODELS.values()))
    assert [q.id for q in found] == ["test/gsm/0", "test/gsm/1", "test/gsm/2"]
    assert zeroeval.others(found, list(MODELS.values())).tolist() == [[0.0], [1.0], [0.0]]


def test_the_question_stands_alone_and_the_template_is_the_systems(questions: list[Question]) -> None:
    system, user = questions[0].messages(questions[0].text)
    assert user["content"] == questions[0].text
    assert "Answer with JSON." in system["content"]
    assert questions[0].text not in system["content"]


def test_the_same_seed_gives_the_same_requests_and_another_one_others(questions: list[Question]) -> None:
    assert mixed(questions, MIX) == mixed(questions, MIX)
    assert mixed(questions, MIX) != mixed(questions, replace(MIX, seed=4))


def test_rates_are_parts_of_all_requests(questions: list[Question]) -> None:
    kinds = Counter(request.kind for request in mixed(questions, MIX))
    total = sum(kinds.values())
    assert kinds["new"] == 200
    assert kinds["repeat"] / total == pytest.approx(0.2, abs=0.01)
    assert kinds["paraphrase"] / total == pytest.approx(0.1, abs=0.01)


def test_what_comes_again_comes_after_its_original_and_holds_the_question(questions: list[Question]) -> None:
    text = {q.id: q.text for q in questions}
    asked: set[str] = set()
    for request in mixed(questions, MIX):
        if request.kind == "new":
            asked.add(request.question)
            continue
        assert request.question in asked
        assert text[request.question] in request.text
        assert (request.text == text[request.question]) == (request.kind == "repeat")
        assert request.reference is not None


def test_a_half_is_asked_whole_before_the_other(questions: list[Question]) -> None:
    requests = mixed(questions, MIX)
    assert [r.phase for r in requests] == sorted(r.phase for r in requests)
    assert len({r.phase for r in requests if r.question == questions[0].id}) == 1


def test_arrivals_keep_the_stated_rate_and_order(questions: list[Question]) -> None:
    requests = mixed(questions, MIX)
    arrivals = [r.arrival_s for r in requests]
    assert arrivals == sorted(arrivals)
    assert len(requests) / arrivals[-1] == pytest.approx(10.0, rel=0.25)
    assert sum(r.deferrable for r in requests) / len(requests) == pytest.approx(0.25, abs=0.1)


def test_every_wording_leads_back_to_one_question(questions: list[Question]) -> None:
    requests = mixed(questions, MIX)
    found = by_conversation(requests)
    assert all(found[conversation(request.messages)] == request.question for request in requests)


def test_a_pick_keeps_the_tasks_proportions(questions: list[Question]) -> None:
    two = [replace(q, task="crux" if i % 4 == 0 else "gsm") for i, q in enumerate(questions)]
    tasks = Counter(q.task for q in mixing.pick(two, 100, 0))
    assert tasks == {"gsm": 75, "crux": 25}
    assert mixing.pick(two, None, 0) == two


@pytest.mark.parametrize("wrong", [{"repeat_rate": 0.7, "paraphrase_rate": 0.3}, {"rps": 0.0}, {"repeat_rate": -0.1}])
def test_impossible_rates_are_refused(questions: list[Question], wrong: dict[str, float]) -> None:
    with pytest.raises(BenchmarkError):
        mixed(questions, replace(MIX, **wrong))

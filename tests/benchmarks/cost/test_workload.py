from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import workload
from benchmarks.cost.workload import Answer, Request, Workload

ASK = [{"role": "system", "content": "be short"}, {"role": "user", "content": "Why?"}]
LINE = {"id": "a", "arrival_s": 0.5, "messages": ASK}


def file_of(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    requests = [
        Request("a", 0.0, ASK, "q1", reference="4", checker="number", max_tokens=9, deferrable=True, group="sums"),
        Request("b", 1.5, ASK, "q1", "repeat", tenant="other", phase=1),
    ]
    answers = [Answer("q1", "m", "four", 10, 1)]
    workload.write(Workload("test", requests, answers), tmp_path)
    assert workload.read_requests(tmp_path / workload.REQUESTS) == requests
    assert workload.read_answers(tmp_path / workload.ANSWERS) == answers


def test_a_request_that_repeats_nothing_is_its_own_question(tmp_path: Path) -> None:
    (request,) = workload.read_requests(file_of(tmp_path, LINE))
    assert request.question == "a"
    assert request.text == "Why?"


def test_requests_are_sorted_by_arrival(tmp_path: Path) -> None:
    found = workload.read_requests(file_of(tmp_path, LINE, {**LINE, "id": "b", "arrival_s": 0.1}))
    assert [request.id for request in found] == ["b", "a"]


def test_names_and_references_may_be_written_as_numbers(tmp_path: Path) -> None:
    (asked,) = workload.read_requests(file_of(tmp_path, {**LINE, "id": 7, "reference": 4, "checker": "number"}))
    assert (asked.id, asked.question, asked.reference) == ("7", "7", "4")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "2: not JSON"),
        ("[1]", "an object is expected"),
        ({**LINE, "id": "b", "mesages": []}, "unknown field 'mesages'"),
        ({"id": "b", "arrival_s": 0}, "messages"),
        ({**LINE, "id": "b", "messages": [{"role": "system", "content": "x"}]}, "one of them the user's"),
        ({**LINE, "id": "b", "arrival_s": "soon"}, "arrival_s is a number"),
        ({**LINE, "id": "b", "arrival_s": -1}, "arrival_s is a number"),
        ({**LINE, "id": "b", "arrival_s": float("inf")}, "arrival_s is a number"),
        ({**LINE, "id": "b", "arrival_s": float("nan")}, "arrival_s is a number"),
        ({**LINE, "id": "b", "reference": "4"}, "go together"),
        ({**LINE, "id": "b", "reference": "4", "checker": "guess"}, "checker is one of exact, contains"),
        ({**LINE, "id": "b", "reference": ["4"], "checker": "number"}, "reference is a text or a number"),
        ({**LINE, "id": None}, "id is a text"),
        ({**LINE, "id": "b", "tenant": 5}, "tenant is a text"),
        ({**LINE, "id": "b", "deferrable": "no"}, "deferrable is true or false"),
        ({**LINE, "id": "b", "max_tokens": "many"}, "max_tokens is a number"),
        ({**LINE, "id": "b", "max_tokens": 0}, "max_tokens is at least 1"),
        ({**LINE, "id": "b", "kind": "echo"}, "kind is one of"),
        (LINE, "'a' occurs twice"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, row: object, complaint: str) -> None:
    with pytest.raises(BenchmarkError, match=complaint):
        workload.read_requests(file_of(tmp_path, LINE, row))


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no requests"):
        workload.read_requests(file_of(tmp_path))
    with pytest.raises(BenchmarkError, match="cannot read"):
        workload.read_requests(tmp_path / "none.jsonl")


def test_two_questions_in_the_same_words_cannot_be_replayed() -> None:
    with pytest.raises(BenchmarkError, match="same words"):
        workload.by_conversation([Request("a", 0.0, ASK, "q1"), Request("b", 0.0, ASK, "q2")])


def test_the_same_last_words_after_another_beginning_are_another_conversation() -> None:
    longer = [{"role": "system", "content": "Be brief."}, *ASK]
    found = workload.by_conversation([Request("a", 0.0, ASK, "q1"), Request("b", 0.0, longer, "q2")])
    assert found == {workload.conversation(ASK): "q1", workload.conversation(longer): "q2"}

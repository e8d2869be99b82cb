"""The cascade's benchmark: tasks that can be graded, answers with right probabilities, and arithmetic of cost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cascade_generate
from benchmarks.cascade import main
from benchmarks.cascade_generate import Writer
from benchmarks.cascade_policies import BUDGETS, Requests, at_budgets, by_band, by_cascade, by_chance, by_prompt
from benchmarks.cascade_tasks import SHOTS, Task, tasks
from benchmarks.cascade_workload import RIGHT
from benchmarks.cost import workload
from benchmarks.cost.replay import Recording
from router.grading import grade

GENERATIONS = Path(cascade_generate.__file__).parent / "generations"


def test_tasks_are_the_same_everywhere_distinct_and_gradable() -> None:
    found = tasks()
    assert found == tasks() and found != tasks(seed=1)
    assert len({task.id for task in found}) == len({task.prompt for task in found}) == len(found) > 500
    assert all(grade(f"The answer is {task.reference}.", task.reference, task.checker) for task in found)
    assert not {question for question, _ in SHOTS} & {task.prompt for task in found}


def test_the_tasks_are_a_workload_whose_replayed_frontier_is_always_right(tmp_path: Path) -> None:
    assert main(["workload", "--out", str(tmp_path), "--count", "30", "--rps", "2"]) == 0
    requests = workload.read_requests(tmp_path / workload.REQUESTS)
    frontier = Recording.read(tmp_path, RIGHT)
    assert len(requests) == 30 and requests[-1].arrival_s == 14.5
    for request in requests:
        said = frontier.find({"messages": request.messages})
        assert request.reference and request.checker and grade(said.text, request.reference, request.checker)
        assert said.input_tokens > 0 and said.output_tokens > 0


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_the_kept_generations_answer_these_tasks_and_are_graded_as_now(name: str) -> None:
    with gzip.open(GENERATIONS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    by_id = {task.id: task for task in tasks()}
    assert [row["id"] for row in rows] == list(by_id)
    for row in rows:
        task = by_id[row["id"]]
        assert row["prompt"] == task.prompt and row["model"] == name
        assert row["correct"] == grade(row["text"], task.reference, task.checker)


def requests(count: int = 200, ratio: float = 10.0) -> Requests:
    rng = np.random.default_rng(0)
    weak = (rng.random(count) < 0.5).astype(float)
    return Requests(weak, np.ones(count), np.full(count, 20.0), np.full(count, 30.0), ratio)


def test_a_policy_goes_from_always_small_to_always_strong() -> None:
    given = requests()
    policy = by_prompt(given, np.random.default_rng(1).random(len(given)))
    assert (
        policy.cost[0].tolist() == given.small_cost.tolist() and policy.cost[-1].tolist() == given.strong_cost.tolist()
    )
    assert policy.right[0].mean() == given.weak.mean() and policy.right[-1].mean() == 1.0
    assert (np.diff(policy.cost.mean(axis=1)) >= 0).all()


def test_a_dropped_answer_costs_its_prompt_and_the_tokens_read() -> None:
    given = requests(4)
    early, whole = by_cascade(given, np.arange(4.0), 8), by_cascade(given, np.arange(4.0), 0)
    assert early.cost[0].tolist() == [50.0] * 4  # all kept
    assert early.cost[-1].tolist() == [20 + 8 + 500.0] * 4
    assert whole.cost[-1].tolist() == [20 + 30 + 500.0] * 4


def test_the_budget_is_what_is_compared_at() -> None:
    given = requests()
    oracle = at_budgets(by_prompt(given, -given.weak), given, np.ones((1, len(given))))[0]
    knows = at_budgets(by_cascade(given, given.weak, 8), given, np.ones((1, len(given))))[0]
    assert oracle[0] == given.weak.mean() and oracle[-1] == 1.0 and len(oracle) == len(BUDGETS)
    chance = at_budgets(by_chance(given), given, np.ones((1, len(given))))[0]
    assert np.allclose(chance, np.interp(BUDGETS, [0, 1], [given.weak.mean(), 1.0]))
    assert (knows <= oracle + 1e-9).all() and knows.mean() < oracle.mean()  # as sure, and dearer by what it drops


def test_a_band_tries_only_what_is_near_the_threshold() -> None:
    given = requests(1000)
    rng = np.random.default_rng(2)
    gain, doing = rng.random(1000), rng.random(1000)
    narrow = by_band(given, gain, doing, 8, 0.1)
    began = narrow.cost[50] - np.where(narrow.cost[50] > 100, given.strong_cost, given.small_cost) > 0
    assert 0 < began.mean() <= 0.2
    assert narrow.cost[0].tolist() == given.small_cost.tolist()
    assert narrow.cost[-1].tolist() == given.strong_cost.tolist()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights that knows the words of the tasks."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = sorted({word for task in tasks() for word in task.prompt.split()} | {"Answer", "briefly", "."})
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = "<s> {{ messages[0]['content'] }}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_answers_of_a_batch_are_those_of_each_alone(tiny: Path) -> None:
    writer = Writer(tiny, "chat", "cpu")
    batch = [Task(str(i), "g", prompt, "1", "number") for i, prompt in enumerate(["What is half", "What", "Which day"])]
    together = writer.answers(batch, 6)
    for task, answer in zip(batch, together, strict=True):
        alone = writer.answers([task], 6)[0]
        assert answer["text"] == alone["text"]
        assert np.allclose(answer["tokens"], alone["tokens"], atol=2e-3)
        for logprob, *top in answer["tokens"]:
            assert logprob == top[0] and top == sorted(top, reverse=True) and len(top) == 5
            assert sum(np.exp(top)) <= 1.01


def test_generating_goes_on_where_it_stopped(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cascade_generate, "tasks", lambda seed: tasks(seed)[:5])
    out = tmp_path / "out.jsonl"
    arguments = ["generate", "--model", str(tiny), "--name", "tiny", "--style", "chat", "--out", str(out)]
    assert main([*arguments, "--max-tokens", "3"]) == 0
    whole = out.read_text()
    lines = whole.splitlines()
    out.write_text("\n".join(lines[:2]) + "\n")
    assert main([*arguments, "--max-tokens", "3"]) == 0
    assert out.read_text() == whole and len(lines) == 5
    assert "3 of 3" in capsys.readouterr().out


def test_it_says_on_its_last_line_what_the_tokens_are_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, rows = np.random.default_rng(0), []
    for i, task in enumerate(tasks()[::3]):
        right = int(rng.random() < 0.5)
        logprobs = -np.abs(rng.normal(0.1 if right else 1.0, 0.3, 20)).round(3)
        tokens = [[float(one), float(one), float(one) - 1] for one in logprobs]
        rows.append(
            {"id": str(i), "group": task.group, "prompt": task.prompt, "model": "m", "correct": right, "tokens": tokens}
        )
    path = tmp_path / "small.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert main(["evaluate", "--small", str(path), "--resamples", "40", "--ratio", "100"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["pair"] == ["m", "always right"] and found["rows"] == len(rows)
    for split in ("seen", "unseen"):
        ways = found["splits"][split]["ways"]["100"]
        assert ways["cascade 8"]["verdict"] == "better"  # prompts say nothing here, tokens nearly everything
        head = next(s for s in found["splits"][split]["auroc"] if (s["read"], s["signal"]) == ("8", "head"))
        assert head["auroc"] > 0.9


def graded(path: Path, count: int = 40, **changes: object) -> Path:
    rows = [
        {
            "id": str(i),
            "group": task.group,
            "prompt": task.prompt,
            "model": "m",
            "correct": i % 2,
            "tokens": [[-0.5 * i]],
        }
        for i, task in enumerate(tasks()[:count])
    ]
    path.write_text("".join(json.dumps(row | changes) + "\n" for row in rows), encoding="utf-8")
    return path


def test_odd_answers_are_measured_or_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--resamples", "8", "--ratio", "20"]
    one_group = graded(tmp_path / "group.jsonl", group="one")
    assert main(["evaluate", "--small", str(one_group), *few]) == 0
    captured = capsys.readouterr()
    assert set(json.loads(captured.out.splitlines()[-1])["splits"]) == {"seen"} and "left out" in captured.err
    (tmp_path / "strong.jsonl").write_text("".join(json.dumps({"id": str(i)}) + "\n" for i in range(40)))
    refused = {
        "nothing to tell apart": ["--small", str(graded(tmp_path / "right.jsonl", correct=1))],
        "all answers are to one prompt": ["--small", str(graded(tmp_path / "prompt.jsonl", prompt="the same"))],
        "not every answer has its 'correct'": ["--small", str(one_group), "--strong", str(tmp_path / "strong.jsonl")],
    }
    for message, given in refused.items():
        assert main(["evaluate", *given, *few]) == 2
        assert message in capsys.readouterr().err

"""The cascade's tasks as a workload of the cost benchmark, with the answers of a model that is always right.

`benchmarks.cost.replay` can then stand in for a frontier behind a small model that really runs. Its answers are one
short sentence; its token counts are a quarter of the characters, which is what English comes to.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any, Final

from benchmarks.cascade_generate import BRIEFLY, MAX_TOKENS
from benchmarks.cascade_tasks import Task, tasks
from benchmarks.cost.workload import Answer, Request, Workload, write
from benchmarks.load import positive

RIGHT: Final = "always-right"
CHARACTERS_A_TOKEN: Final = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="requests.jsonl and answers.jsonl")
    parser.add_argument("--count", type=positive, default=40, help="tasks, drawn by the seed (default: 40)")
    parser.add_argument("--rps", type=float, default=0.5, help="arrivals a second (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    drawn = random.Random(f"cascade/{arguments.seed}").sample(tasks(), min(arguments.count, len(tasks())))
    requests = [_request(task, at / arguments.rps) for at, task in enumerate(drawn)]
    write(Workload("cascade", requests, [_answer(task) for task in drawn]), arguments.out)
    print(f"{len(requests)} tasks in {arguments.out}; a model that answers them: {RIGHT}")
    return 0


def _request(task: Task, arrival_s: float) -> Request:
    """Asked as the answers with probabilities were made that a cascade is trained on."""
    asked = [{"role": "user", "content": f"{task.prompt} {BRIEFLY}"}]
    graded: dict[str, Any] = {"reference": task.reference, "checker": task.checker, "group": task.group}
    return Request(task.id, round(arrival_s, 3), asked, task.id, max_tokens=MAX_TOKENS, **graded)


def _answer(task: Task) -> Answer:
    said = f"The answer is {task.reference}."
    asked = f"{task.prompt} {BRIEFLY}"
    return Answer(task.id, RIGHT, said, len(asked) // CHARACTERS_A_TOKEN, len(said) // CHARACTERS_A_TOKEN)

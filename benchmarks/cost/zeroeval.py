"""Real questions with the recorded answers of several models: the rows of an outcome file with texts, as questions.

The file's rows are `id, task, question, prompt, reference, prompt_tokens, models: {name: {correct, text,
completion_tokens}}` (docs/learned-routing.md); `build_zeroeval` makes one from the source. What each model was sent
was the question inside a template: here the template goes into the system message and the question stands alone in
the user's, so that what is compared by meaning is the question. Tokens are those of the prompt as it was sent, which
holds the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.child import BenchmarkError
from benchmarks.cost.workload import Answer, Message, objects

CHECKERS: Final[Mapping[str, str]] = {"gsm": "json_number", "crux": "json_string"}
MARK: Final = "{question}"


@dataclass(frozen=True, slots=True)
class Question:
    """`correct` is by model, as the file has it; `template` holds `MARK` where the question stood."""

    id: str
    task: str
    text: str
    template: str
    reference: str
    checker: str
    answers: Mapping[str, Answer]
    correct: Mapping[str, float]
    row: Mapping[str, Any]

    def messages(self, wording: str) -> list[Message]:
        """The template as the system's, `wording` (the question, or a paraphrase that holds it) as the user's."""
        system = self.template.replace(MARK, "(the user's message)").strip()
        return [{"role": "system", "content": system}, {"role": "user", "content": wording}]


def read(path: Path, models: Sequence[str], tasks: Sequence[str] = tuple(CHECKERS)) -> list[Question]:
    """Questions of these tasks that all of these models have answered. Raises BenchmarkError."""
    found = [q for where, row in objects(path) if (q := _question(row, models, tasks, where)) is not None]
    if not found:
        raise BenchmarkError(f"{path} has no question of {', '.join(tasks)} with answers of {', '.join(models)}")
    return found


def others(questions: Sequence[Question], but: Sequence[str]) -> NDArray[np.float64]:
    """(questions, models): right or not, of each further model with verdicts on all; no columns without one."""
    names = [name for name in questions[0].row["models"] if name not in but]
    asked = [
        name for name in names if all((q.row["models"].get(name) or {}).get("correct") is not None for q in questions)
    ]
    found = [[float(q.row["models"][name]["correct"]) for name in asked] for q in questions]
    return np.array(found, float).reshape(len(questions), len(asked))


def _question(row: Mapping[str, Any], models: Sequence[str], tasks: Sequence[str], where: str) -> Question | None:
    try:
        task, text, prompt = row["task"], row["question"], row["prompt"]
        if task not in tasks or not text or any(row["models"].get(model) is None for model in models):
            return None
        if text not in prompt:
            raise BenchmarkError(f"{where}: the prompt does not hold the question")
        said = {model: row["models"][model] for model in models}
        answers = {
            m: Answer(row["id"], m, a["text"], int(row["prompt_tokens"]), int(a["completion_tokens"]))
            for m, a in said.items()
        }
        correct = {m: float(a["correct"]) for m, a in said.items()}
        template = prompt.replace(text, MARK, 1)
        return Question(row["id"], task, text, template, row["reference"], CHECKERS[task], answers, correct, row)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BenchmarkError(f"{where}: no outcome row with texts ({exc!r})") from exc

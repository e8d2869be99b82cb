"""Recorded questions for the tests: sums, which a small model gets wrong when they are long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODELS = {"small": "little", "cheap": "gpt-4o-mini-2024-07-18", "frontier": "gpt-4o-2024-08-06"}
TEMPLATE = "\n## Question: \n\n{question}\n\n\n## Instruction \n\nAnswer with JSON.\n"


def said(value: object) -> str:
    return json.dumps({"reasoning": "added up", "answer": str(value)})


def row(number: int, task: str = "gsm") -> dict[str, Any]:
    """The small model is right for even numbers, the cheap one but for each fifth, the frontier always."""
    question = f"What are {number} apples and {number + 1} apples" + " and none" * (number % 7) + "?"
    right = 2 * number + 1
    correct = {"little": number % 2 == 0, MODELS["cheap"]: number % 5 != 0, MODELS["frontier"]: True}
    models = {
        name: {"correct": int(good), "text": said(right if good else f"{right}9"), "completion_tokens": 20 + number % 9}
        for name, good in correct.items()
    }
    prompt = TEMPLATE.format(question=question)
    row = {"id": f"test/{task}/{number}", "task": task, "question": question, "prompt": prompt, "prompt_tokens": 40}
    return row | {"reference": str(right), "models": models}


def write(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(count)), encoding="utf-8")
    return path

"""Recorded answers from their source: ZeroEval's result files at a pinned commit, as the rows `zeroeval` reads.

    python -m benchmarks.cost --build-zeroeval DIR

Source: https://github.com/WildEval/ZeroEval (Apache-2.0), result_dirs/<task>/<model>.json: for each question what the
model was sent (`model_input`), what it said (`output`) and the right answer (`answer`). Downloaded once, over HTTPS,
and used only if the SHA-256 of what is read from it is the one below; right and wrong are graded anew
(router/grading.py), tokens are counted with gpt-4o's tokenizer. Never run against the real source so far; the tests
serve files of the same shape.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.child import BenchmarkError, say
from benchmarks.cost.zeroeval import CHECKERS
from router.grading import grade

COMMIT: Final = "8c1485edf12c6efb5f69135a562927c5ad484059"
BASE_URL: Final = f"https://raw.githubusercontent.com/WildEval/ZeroEval/{COMMIT}/result_dirs"
TIMEOUT_S: Final = 120.0
BEFORE, AFTER = "## Question: \n\n", "\n\n\n## Instruction"
FILE_NAMES: Final = {"Llama-3.1-8B-Instruct": "Meta-Llama-3.1-8B-Instruct"}  # where the source calls it otherwise

DIGESTS: Final[Mapping[tuple[str, str], str]] = {
    ("crux", "Llama-3.1-8B-Instruct"): "dd19151556194cdeb0ef2cd1dbbc22ac5126ba5e109e5d01a75752ae8b40ef0d",
    ("crux", "claude-3-5-sonnet-20241022"): "b8637eb2c05a24e0e8a3b93d52ff048e33e27ed765c715d7ea3b674a287af15f",
    ("crux", "gemma-2-9b-it"): "b8e46fe6f7d0f4eb8d62531ad64c3857ecea67c50f5562343f76e0959528d34c",
    ("crux", "gpt-4o-2024-08-06"): "501f695cf07b6c098b59e1d0f11fc5a8bec91d5285a9a8b760640badfb7b5d84",
    ("crux", "gpt-4o-mini-2024-07-18"): "d4515d37d05cf42d1c708175eb33153020150dbc244afe58998f8359b7852a6f",
    ("crux", "o1-mini-2024-09-12"): "91b8dacb1275d200ae6c654af5aa8485d2b905c9a7081fbd30d75286525363f7",
    ("gsm", "Llama-3.1-8B-Instruct"): "de619453ce1ea996fe95745522b36e86aabb3f817431a609b6f4d87ae28ecfe5",
    ("gsm", "claude-3-5-sonnet-20241022"): "58cd40956a094b3f08f86e083d3a3d37e6d11fdba18097b66fd8ffb74f96ffc9",
    ("gsm", "gemma-2-9b-it"): "6fa0b69d23981c621e99112ad152765dabf99e8cf4909fca9291db7c34c8b36e",
    ("gsm", "gpt-4o-2024-08-06"): "24e4a871ef5f24984d3f2b0f005314a7da331189775f8a2a202dec437496ceca",
    ("gsm", "gpt-4o-mini-2024-07-18"): "f4f1bee17d87fd701e805bdda930afc3f503f5a87058d77899fe5bc3ee15c2c2",
    ("gsm", "o1-mini-2024-09-12"): "ec7c8b394999a0cd4585d7c2bc1061afd3c3dd52cc35132e9fdd184670604910",
}
"""By task and model, of what `digest` is given; of its content, not of the file, whose layout does not matter."""


@dataclass(frozen=True, slots=True)
class Said:
    """One question as a result file has it."""

    prompt: str
    reference: str
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where from and what is expected. `count`: tokens of a text."""

    base_url: str = BASE_URL
    digests: Mapping[tuple[str, str], str] = field(default_factory=lambda: DIGESTS)
    count: Callable[[str], int] | None = None


def build(folder: Path, source: Source = Source()) -> Path:
    """The outcome file, made once. Raises BenchmarkError where the source is not reached or is not what it was."""
    path = folder / "zeroeval.jsonl"
    if path.is_file():
        return path
    count = source.count or _o200k()
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for task in sorted({task for task, _ in source.digests}):
        models = [model for of, model in source.digests if of == task]
        said = {model: fetch(task, model, source) for model in models}
        lines += [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(task, said, count)]
    part = path.with_suffix(".part")
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(path)
    say(f"{len(lines):,} questions in {path.name}")
    return path


def fetch(task: str, model: str, source: Source) -> list[Said]:
    """One result file, checked. Raises BenchmarkError."""
    url = f"{source.base_url}/{task}/{FILE_NAMES.get(model, model)}.json"
    say(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data = json.load(answer)
        found = [_said(row) for row in data]
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError, IndexError) as exc:
        raise BenchmarkError(f"{url} cannot be used: {exc!r}; give a file of your own with --zeroeval FILE") from exc
    if (got := digest(found)) != source.digests[task, model]:
        raise BenchmarkError(f"{url} is not what it was: SHA-256 {got}, not {source.digests[task, model]}")
    return found


def _said(row: Mapping[str, Any]) -> Said:
    prompt = row["model_input"]
    reference = str(row["answer"]).strip().removeprefix("#").strip()
    output = row["output"]
    return Said(prompt, reference, output[0] if isinstance(output, list) else output)


def digest(said: Sequence[Said]) -> str:
    """SHA-256 of prompts (hashed), references and answers, whatever their order."""
    lines = [json.dumps([sha256(s.prompt), s.reference, s.text], ensure_ascii=False) for s in said]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rows(task: str, said: Mapping[str, Sequence[Said]], count: Callable[[str], int]) -> list[dict[str, Any]]:
    """Outcome rows of the questions that every model was asked, in the first one's order."""
    checker = CHECKERS[task]
    by_prompt = {model: {s.prompt: s for s in answers} for model, answers in said.items()}
    found = []
    for number, first in enumerate(next(iter(said.values()))):
        asked = {model: answers.get(first.prompt) for model, answers in by_prompt.items()}
        models = {
            model: {
                "correct": int(grade(s.text, s.reference, checker)),
                "text": s.text,
                "completion_tokens": count(s.text),
            }
            for model, s in asked.items()
            if s is not None
        }
        row: dict[str, Any] = {"id": f"zeroeval/{task}/{number}", "task": task, "question": question(first.prompt)}
        row |= {"prompt": first.prompt, "prompt_sha256": sha256(first.prompt), "prompt_chars": len(first.prompt)}
        found.append(row | {"prompt_tokens": count(first.prompt), "reference": first.reference, "models": models})
    return found


def question(prompt: str) -> str:
    """Raises BenchmarkError for a prompt of another template."""
    _, before, rest = prompt.partition(BEFORE)
    text, after, _ = rest.partition(AFTER)
    if not (before and after and text):
        raise BenchmarkError("a prompt of the source has another template than expected")
    return text


def _o200k() -> Callable[[str], int]:
    """gpt-4o's tokenizer; tiktoken fetches its table once and checks it. Raises BenchmarkError."""
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("o200k_base")
    except (ImportError, OSError, ValueError) as exc:
        raise BenchmarkError(f"gpt-4o's tokenizer is not to be had ({exc!r}): tiktoken fetches it once") from exc
    return lambda text: len(encoding.encode(text, disallowed_special=()))

"""What a benchmark asks and when: requests as JSON lines, and what each model once answered to them.

A workload is a folder of two files (docs/cost-benchmark.md has every field):

    requests.jsonl   one `Request` a line, in the order of arrival
    answers.jsonl    one `Answer` a line: what a model once said to a question, for servers that replay it

Either may stand alone: requests without answers need real backends. Knows no service and draws no numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from benchmarks.child import BenchmarkError
from models.errors import ConfigError
from router import outcomes
from router.grading import CHECKERS

Kind = Literal["new", "repeat", "paraphrase"]
Message = Mapping[str, Any]
REQUESTS: Final = "requests.jsonl"
ANSWERS: Final = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `question` is equal for all that one answer serves: a repeat's and a paraphrase's is the original's.

    `arrival_s` counts from the start of the workload. `reference` and `checker` (router/grading.py) are both given or
    both None. `deferrable`: may be answered hours later. `group` is the kind of question, `phase` a part of the run:
    all of one are asked, and answered, before the next begins.
    """

    id: str
    arrival_s: float
    messages: Sequence[Message]
    question: str
    kind: Kind = "new"
    tenant: str = "benchmark"
    reference: str | None = None
    checker: str | None = None
    max_tokens: int | None = None
    deferrable: bool = False
    group: str = ""
    phase: int = 0

    @property
    def text(self) -> str:
        """The last user message: what is compared by meaning."""
        return last_user_text(self.messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """What `model` once said. Tokens are the provider's own counts where the source has them."""

    question: str
    model: str
    text: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """`facts` says how it came about: sources, rates, seed, and what is not real about it."""

    name: str
    requests: Sequence[Request]
    answers: Sequence[Answer] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        return self.requests[-1].arrival_s if self.requests else 0.0

    def recorded(self) -> dict[str, dict[str, Answer]]:
        """model -> question -> its answer."""
        found: dict[str, dict[str, Answer]] = {}
        for answer in self.answers:
            found.setdefault(answer.model, {})[answer.question] = answer
        return found


def last_user_text(messages: Sequence[Message]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    return ""


def write(workload: Workload, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in ((REQUESTS, workload.requests), (ANSWERS, workload.answers)):
        lines = (json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text("".join(lines), encoding="utf-8")


def read_requests(path: Path) -> list[Request]:
    """Raises BenchmarkError with file and line for what cannot be used."""
    found = [_request(data, where) for where, data in objects(path)]
    if not found:
        raise BenchmarkError(f"{path} has no requests: one JSON object a line is expected")
    ids: set[str] = set()
    for request in found:
        if request.id in ids:
            raise BenchmarkError(f"{path}: the id '{request.id}' occurs twice")
        ids.add(request.id)
    return sorted(found, key=lambda request: request.arrival_s)


def read_answers(path: Path) -> list[Answer]:
    """Raises BenchmarkError as `read_requests`."""
    return [_made(Answer, data, where) for where, data in objects(path)]


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line` and the object of each line, plain or gzip. Raises BenchmarkError."""
    try:
        yield from ((f"{path}:{number}", data) for number, data in outcomes.objects(path))
    except ConfigError as exc:
        raise BenchmarkError(exc.message) from exc


Made = TypeVar("Made", Request, Answer)


def _made(kind: type[Made], data: Mapping[str, Any], where: str) -> Made:
    names = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - names):
        raise BenchmarkError(f"{where}: unknown field '{unknown[0]}'; the fields are {', '.join(sorted(names))}")
    try:
        return kind(**data)
    except TypeError as exc:
        raise BenchmarkError(f"{where}: {str(exc).partition('()')[2].strip() or exc}") from exc


_TEXTS: Final = ("id", "question", "reference")  # which may be written as numbers
_KINDS: Final[Mapping[str, tuple[Any, str]]] = {
    **dict.fromkeys(("id", "question", "tenant", "group"), (str, "a text")),
    "reference": (str | None, "a text or a number"),
    "deferrable": (bool, "true or false"),
    "max_tokens": (int | None, "a number"),
    "phase": (int, "a number"),
}


def _request(data: dict[str, Any], where: str) -> Request:
    """Whatever would show only when its answer is there, paid for, is refused here."""
    texts = {name: str(data[name]) for name in _TEXTS if isinstance(data.get(name), int | float)}
    request = _made(Request, {"question": texts.get("id", data.get("id")), **data, **texts}, where)
    for name, (kind, told) in _KINDS.items():
        if not isinstance(getattr(request, name), kind):
            raise BenchmarkError(f"{where}: {name} is {told}, not {getattr(request, name)!r}")
    if not isinstance(request.arrival_s, int | float) or not 0 <= request.arrival_s < math.inf:
        raise BenchmarkError(f"{where}: arrival_s is a number of seconds from the start, not {request.arrival_s!r}")
    if not _are_messages(request.messages):
        raise BenchmarkError(f"{where}: messages is a list of objects with a role, one of them the user's")
    if (request.reference is None) != (request.checker is None):
        raise BenchmarkError(f"{where}: reference and checker go together")
    if request.checker not in (None, *CHECKERS):
        raise BenchmarkError(f"{where}: checker is one of {', '.join(CHECKERS)}, not {request.checker!r}")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise BenchmarkError(f"{where}: max_tokens is at least 1, not {request.max_tokens}")
    if request.kind not in get_args(Kind):
        raise BenchmarkError(f"{where}: kind is one of {', '.join(get_args(Kind))}, not {request.kind!r}")
    return request


def _are_messages(messages: Any) -> bool:
    if not isinstance(messages, list) or not all(isinstance(m, dict) and m.get("role") for m in messages):
        return False
    return any(m["role"] == "user" for m in messages)


def conversation(messages: Sequence[Message]) -> str:
    """A name of these messages, and of no others."""
    return hashlib.sha256(json.dumps(list(messages), sort_keys=True).encode()).hexdigest()


def by_conversation(requests: Iterable[Request]) -> dict[str, str]:
    """Conversation -> question. Two questions may not share one: a replayed answer would be a guess."""
    found: dict[str, str] = {}
    for request in requests:
        asked = conversation(request.messages)
        if found.setdefault(asked, request.question) != request.question:
            raise BenchmarkError(f"questions '{found[asked]}' and '{request.question}' have the same words")
    return found

"""What is to be labelled: read from a file of prompts or of exported requests, and a seeded sample of it.

Knows no model and no gateway. A line that makes no sense is an error with file and line; a line that is in order but
cannot be labelled (no text kept, tools, pictures) is passed over and counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from models.errors import ConfigError
from models.types import Json
from router.grading import CHECKERS
from router.outcomes import objects
from serving.ledger.export import last_user_text

PYTHON: Final = "python"  # the checker that runs what a model wrote
OURS: Final = frozenset({"label", "judge"})  # tags of requests that this project itself sent


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt. `key` is a hash of its messages: the same prompt is asked once, whatever rows it stands in.

    reference: the right answer, or for the checker `python` the tests; None where a judge has to say.
    """

    id: str
    key: str
    task: str
    group: str
    messages: list[Json]
    reference: str | None
    checker: str

    @property
    def question(self) -> str:
        """What the router sees of a request."""
        return last_user_text(self.messages) or ""

    @property
    def prompt(self) -> str:
        return "\n\n".join(str(message["content"]) for message in self.messages)

    @property
    def dialogue(self) -> str:
        """What a judge sees of it: who said what, where more than one did."""
        if len(self.messages) == 1:
            return self.prompt
        return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in self.messages)


@dataclass(frozen=True, slots=True)
class Found:
    items: list[Item]
    passed_over: Mapping[str, int]


def read(path: Path, checker: str | None = None) -> Found:
    """Raises ConfigError. checker: of rows that have a reference and name none."""
    passed_over: Counter[str] = Counter()
    items: dict[str, Item] = {}
    for number, row in objects(path):
        where = f"{path}:{number}"
        why_not = _why_not(row)
        if why_not:
            passed_over[why_not] += 1
            continue
        item = _item(row, checker, where)
        if item.key in items:
            passed_over["asked before word for word"] += 1
        items.setdefault(item.key, item)
    if not items:
        told = "; ".join(f"{count} {why}" for why, count in passed_over.items()) or "it is empty"
        raise ConfigError(f"{path} holds nothing that can be labelled: {told}")
    if len({item.id for item in items.values()}) != len(items):
        raise ConfigError(f"{path}: two different prompts have the same id")
    return Found(list(items.values()), passed_over)


def sample(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """So many of them, each group by its share but for one; a larger sample holds the smaller ones. In random order, so
    that a run that is stopped has a sample, too. By hash: the same of a file that has grown, as far as that can be."""
    drawn = sorted(items, key=lambda item: _draw(seed, item.key))
    sizes, seen = Counter(item.group for item in drawn), Counter[str]()
    places: dict[str, float] = {}
    for item in drawn:
        places[item.key] = (seen[item.group] + _draw(seed, item.group)) / sizes[item.group]
        seen[item.group] += 1
    chosen = {item.key for item in sorted(drawn, key=lambda item: places[item.key])[:count]}
    return [item for item in drawn if item.key in chosen]


def _draw(seed: int, text: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{text}".encode()).digest()[:8]) / 2**64


def _why_not(row: Mapping[str, Any]) -> str:
    """Of a row in order: why it cannot be labelled, or nothing."""
    if row.get("messages") is None and not _plain_prompt(row) and ("request_id" in row or "prompt" in row):
        return "without a kept text"
    if any(tag in OURS for tag in _list(row.get("tags")) if isinstance(tag, str)):
        return "sent by a label run or a judge"
    messages = _list(row.get("messages"))
    if row.get("tools") or any(
        isinstance(m, dict) and (m.get("tool_calls") or m.get("role") == "tool") for m in messages
    ):
        return "with tools"
    if any(
        isinstance(m, dict) and isinstance(m.get("content"), list) and not _texts_alone(m["content"]) for m in messages
    ):
        return "with pictures or sound"
    return ""


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _texts_alone(parts: Sequence[Any]) -> bool:
    return all(isinstance(part, dict) and part.get("type") == "text" for part in parts)


def _plain_prompt(row: Mapping[str, Any]) -> Any:
    return row.get("prompt") or row.get("question") or row.get("text")


def _item(row: Mapping[str, Any], checker: str | None, where: str) -> Item:
    name = row["request_id"] if row.get("id") is None and "request_id" in row else row.get("id")
    if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
        raise ConfigError(f"{where}: the row has no 'id', which is a text or a number")
    messages = _messages(row, where)
    task = str(row.get("task") or "traffic")
    reference = row.get("reference") if row.get("tests") is None else row["tests"]
    if reference is not None and not isinstance(reference, str | int | float):
        raise ConfigError(f"{where}: 'reference' is a text or a number")
    named = row.get("checker") or (PYTHON if row.get("tests") is not None else checker) or ""
    if reference is not None and named not in (*CHECKERS, PYTHON):
        known = ", ".join([*CHECKERS, PYTHON])
        raise ConfigError(
            f"{where}: there is no checker '{named}'; the checkers are {known}"
            if named
            else f"{where}: a reference needs a checker, in the row or with --checker; the checkers are {known}"
        )
    item = Item(
        id=str(name),
        key=hashlib.sha256(_written(messages, where)).hexdigest()[:32],
        task=task,
        group=str(row.get("group") or row.get("prompt_name") or task),
        messages=messages,
        reference=None if reference is None else str(reference),
        checker=named if reference is not None else "",
    )
    _written([item.id, item.task, item.group, item.reference], where)
    return item


def _written(value: Any, where: str) -> bytes:
    """As JSON: what cannot be written cannot be sent, nor stand in an outcome row that was paid for."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as exc:
        raise ConfigError(f"{where}: the row holds what is no text: {exc}") from exc


def _messages(row: Mapping[str, Any], where: str) -> list[Json]:
    given = row.get("messages")
    if given is None:
        prompt = _plain_prompt(row)
        if not isinstance(prompt, str) or not prompt:
            raise ConfigError(f"{where}: the row has neither 'messages' nor a 'prompt'")
        return [{"role": "user", "content": prompt}]
    if not isinstance(given, list) or not given or not all(_is_message(message) for message in given):
        raise ConfigError(f"{where}: 'messages' is a list of objects with 'role' and 'content'")
    return [{"role": message["role"], "content": _content(message)} for message in given]


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content", 0), str | list | None)
    )


def _content(message: Json) -> str:
    content = message["content"] or ""
    return content if isinstance(content, str) else "\n".join(str(part.get("text") or "") for part in content)

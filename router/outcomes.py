"""Outcome rows: which of two models got a prompt right. Reads files, gives arrays; knows no embedding and no router.

Two shapes, one JSON object a line, gzip or plain (the data page of docs/learned-routing.md has every field):
`weak_correct`/`strong_correct` for one pair, or `models: {name: {correct, ...}}`, of which `--pair WEAK,STRONG` picks
two. A score between 0 and 1 is as good as a verdict.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError

Floats = NDArray[np.float64]
CHARS_PER_TOKEN = 4  # where a file states no count; the gateway estimates alike


@dataclass(frozen=True, slots=True)
class Pair:
    """Names of the two models. Empty ones mean: as the rows name them."""

    weak: str = ""
    strong: str = ""

    @classmethod
    def parse(cls, text: str) -> Pair:
        weak, comma, strong = (part.strip() for part in text.partition(","))
        if not (weak and comma and strong):
            raise ConfigError(f"--pair is WEAK,STRONG, two model names; got '{text}'")
        return cls(weak, strong)


MIXED = Pair("small", "frontier")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Parallel columns of n rows. `weak` and `strong` are correctness in 0..1, token counts are NaN where unknown.

    `groups` is the unit of splitting (a subject, a customer, a workflow), `prompts` numbers equal texts alike. `chars`
    is the length of what the model was sent, even where its text is withheld (`texts` is empty there). `others`:
    (n, models), correctness of further models, NaN where one was not asked; None where the files name no others.
    """

    ids: list[str]
    tasks: NDArray[np.str_]
    groups: NDArray[np.str_]
    texts: list[str]
    prompts: NDArray[np.int64]
    chars: Floats
    weak: Floats
    strong: Floats
    prompt_tokens: Floats
    weak_tokens: Floats
    strong_tokens: Floats
    pair: Pair
    others: Floats | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def gain(self) -> Floats:
        return self.strong - self.weak

    @property
    def has_text(self) -> NDArray[np.bool_]:
        return np.array([bool(text) for text in self.texts], bool)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Outcomes:
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Outcomes(
            ids=[self.ids[i] for i in index],
            texts=[self.texts[i] for i in index],
            pair=self.pair,
            others=None if self.others is None else self.others[index],
            **{name: getattr(self, name)[index] for name in _COLUMNS},
        )

    def without_groups(self, names: Sequence[str]) -> Outcomes:
        return self.take(~np.isin(self.groups, list(names)))


_COLUMNS = ("tasks", "groups", "prompts", "chars", "weak", "strong", "prompt_tokens", "weak_tokens", "strong_tokens")


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    task: str
    group: str
    text: str
    chars: int
    weak: float
    strong: float
    tokens: tuple[float, float, float]  # of the prompt, the weak and the strong answer; NaN: not known
    names: tuple[str, str]
    others: Mapping[str, float]


def read(paths: Sequence[Path], pair: Pair | None = None, *, mixed: bool = False) -> Outcomes:
    """All rows of all files. Raises ConfigError with file and line for what cannot be read.

    pair: which two models of multi-model rows; rows that lack one are left out, a file with none left is an error.
    mixed: rows of several pairs stand side by side, as "a small model" and "a frontier model" (what a prior learns
    from); without it that is an error.
    """
    rows = [row for path in paths for row in _rows_of(path, pair, mixed)]
    if not rows:
        raise ConfigError("no outcome rows: give at least one file with --outcomes")
    found = {row.names for row in rows}
    if len(found) > 1 and not mixed:
        listed = "; ".join(f"{weak},{strong}" for weak, strong in sorted(found))
        raise ConfigError(f"these files compare different pairs ({listed}): train and measure one pair at a time")
    if (twice := Counter(row.id for row in rows).most_common(1)[0])[1] > 1:
        raise ConfigError(f"some ids occur twice, such as '{twice[0]}': is the same file given twice?")
    numbers: dict[str, int] = {}
    prompts = [numbers.setdefault(row.text or row.id, len(numbers)) for row in rows]
    columns = {name: np.array([row.tokens[i] for row in rows]) for i, name in enumerate(_TOKENS)}
    return Outcomes(
        ids=[row.id for row in rows],
        tasks=np.array([row.task for row in rows]),
        groups=np.array([row.group for row in rows]),
        texts=[row.text for row in rows],
        prompts=np.array(prompts, np.int64),
        chars=np.array([row.chars for row in rows], float),
        weak=np.array([row.weak for row in rows], float),
        strong=np.array([row.strong for row in rows], float),
        pair=Pair(*rows[0].names) if len(found) == 1 else MIXED,
        others=_others(rows),
        **columns,
    )


def pairs_in(path: Path, wanted: Pair | None) -> list[Pair]:
    """Which pairs `read` finds in a file: the wanted one where it holds it, else all that its pair rows compare."""
    held = dict.fromkeys(Pair(*row.names) for row in _rows_of(path, wanted, mixed=True))
    return [wanted] if wanted in held else [*held]


def _others(rows: Sequence[_Row]) -> Floats | None:
    names = sorted({name for row in rows for name in row.others})
    return np.array([[row.others.get(name, np.nan) for name in names] for row in rows]) if names else None


_UTF_8 = "utf-8-sig"
_TOKENS = ("prompt_tokens", "weak_tokens", "strong_tokens")


def data_sha256(paths: Sequence[Path]) -> str:
    """Of the files' bytes, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _rows_of(path: Path, pair: Pair | None, mixed: bool) -> list[_Row]:
    found = [_row(data, pair, mixed, f"{path}:{number}") for number, data in objects(path)]
    rows = [row for row in found if row is not None]
    if not found:
        raise ConfigError(f"{path} holds no rows")
    if not rows:
        held = _held(next(objects(path))[1])
        raise ConfigError(f"{path} has no row with both models of --pair WEAK,STRONG; its first row has {held}")
    return rows


def _held(data: dict[str, Any]) -> str:
    names = [str(data["weak_model"]), str(data["strong_model"])] if data.get("models") is None else [*_models(data)]
    return ",".join(names)


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """With the numbers of their lines; a byte order mark, as some editors write it, is skipped. Raises ConfigError."""
    try:
        with gzip.open(path, "rt", encoding=_UTF_8) if path.suffix == ".gz" else path.open(encoding=_UTF_8) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: an object is expected, one a line")
    return data


def _row(data: dict[str, Any], pair: Pair | None, mixed: bool, where: str) -> _Row | None:
    try:
        found = _of_models(data, pair) if data.get("models") is not None else _of_pair(data, None if mixed else pair)
        if found is None:
            return None
        names, weak, strong, tokens = found
        others = _further(data, names)
        text = _text(data, "question") or _text(data, "prompt")
        chars = _count(data.get("prompt_chars"), "prompt_chars") if data.get("prompt_chars") else len(_sent(data))
        group = data["task"] if data.get("group") in (None, "") else data["group"]
        named = (_name(data["id"], "id"), _name(data["task"], "task"), _name(group, "group"))
        row = _Row(*named, text, int(chars), weak, strong, tokens, names, others)
    except KeyError as error:
        raise ConfigError(f"{where}: the row has no {error}; docs/learned-routing.md lists the fields") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return row


_Found = tuple[tuple[str, str], float, float, tuple[float, float, float]]


def _of_pair(data: dict[str, Any], pair: Pair | None) -> _Found | None:
    names = (_name(data["weak_model"], "weak_model"), _name(data["strong_model"], "strong_model"))
    if pair is not None and names != (pair.weak, pair.strong):
        return None
    weak, strong = (_score(data[name], name) for name in ("weak_correct", "strong_correct"))
    weak_tokens, strong_tokens = (_count(data.get(name), name) for name in _TOKENS[1:])
    return names, weak, strong, (_prompt_tokens(data), weak_tokens, strong_tokens)


def _of_models(data: dict[str, Any], pair: Pair | None) -> _Found | None:
    models = _models(data)
    if pair is None:
        raise ValueError(f"several models; say which two: --pair WEAK,STRONG, of {', '.join(models)}")
    names = (pair.weak, pair.strong)
    if any(models.get(name) is None for name in names):
        return None
    weak, strong = (_score(models[name]["correct"], f"'correct' of {name}") for name in names)
    weak_tokens, strong_tokens = (_count(models[name].get("completion_tokens"), "completion_tokens") for name in names)
    return names, weak, strong, (_prompt_tokens(data), weak_tokens, strong_tokens)


def _models(data: dict[str, Any]) -> dict[str, Any]:
    models = data.get("models") or {}
    if not isinstance(models, dict) or not all(made is None or isinstance(made, dict) for made in models.values()):
        raise ValueError("'models' is an object of model names, each with an object: {name: {correct: 0 or 1}}")
    return models


def _further(data: dict[str, Any], pair: tuple[str, str]) -> dict[str, float]:
    """Verdicts on the models of the row that are not of the pair; one that is null is none."""
    asked = {name: (made or {}).get("correct") for name, made in _models(data).items() if name not in pair}
    return {name: _score(verdict, f"'correct' of {name}") for name, verdict in asked.items() if verdict is not None}


def _prompt_tokens(data: dict[str, Any]) -> float:
    if (stated := data.get("prompt_tokens")) is not None:
        return _count(stated, "prompt_tokens")
    return len(_sent(data)) / CHARS_PER_TOKEN


def _sent(data: dict[str, Any]) -> str:
    return _text(data, "prompt") or _text(data, "question")


def _text(data: dict[str, Any], name: str) -> str:
    text = data.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"'{name}' is a text, or null")
    return text or ""


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str | int):
        raise ValueError(f"'{what}' is a text or a number")
    str(value).encode()  # half a surrogate pair is legal JSON and no name: it can be neither hashed nor printed
    return str(value)


def _score(value: Any, what: str) -> float:
    if value is None:
        raise ValueError(f"{what} is null: leave out what has no verdict")
    if not 0.0 <= (score := float(value)) <= 1.0:
        raise ValueError(f"{what} is {value}: correctness is between 0 and 1")
    return score


def _count(value: Any, what: str) -> float:
    """NaN where it is not known."""
    if value is None:
        return float("nan")
    if not 0.0 <= (count := float(value)) < float("inf"):
        raise ValueError(f"{what} is {value}: a number from 0 up is expected")
    return count

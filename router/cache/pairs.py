"""Labelled pairs from files: two questions and whether one answer serves both. Owns the format and its errors."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Pair:
    """`group`: the test type, by which figures are broken down and folds are made. `heldout`: measured, never fitted
    on."""

    a: str
    b: str
    same: bool
    group: str = ""
    heldout: bool = False


def load(paths: Sequence[Path]) -> list[Pair]:
    """Rows of `.jsonl` or `.jsonl.gz` files: `a`, `b`, `same` (0 or 1); optional `type` or `test`, and `split`.

    Raises ConfigError naming file and line.
    """
    pairs = [pair for path in paths for pair in _rows(path)]
    if not pairs:
        raise ConfigError(f"no pairs in {', '.join(map(str, paths))}")
    return pairs


def _rows(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                yield _pair(json.loads(line))
            except ValueError as exc:
                raise ConfigError(f"{path}:{number}: {exc}") from exc


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8").splitlines()
    except (OSError, EOFError, ValueError) as exc:
        raise ConfigError(f"{path}: not a readable file of JSON lines ({exc})") from exc


def _pair(row: Any) -> Pair:
    if not isinstance(row, dict):
        raise ValueError("a row must be an object with a, b and same")
    a, b, same = (row.get(name) for name in ("a", "b", "same"))
    if not (isinstance(a, str) and isinstance(b, str) and a.strip() and b.strip()):
        raise ValueError("a and b must be texts")
    if same not in (0, 1):
        raise ValueError(f"same must be 0 or 1, not {same!r}")
    return Pair(a, b, bool(same), str(row.get("type") or row.get("test") or ""), row.get("split") == "heldout")


def digest(pairs: Sequence[Pair]) -> str:
    """SHA-256 over texts and labels, in order."""
    text = json.dumps([(pair.a, pair.b, pair.same) for pair in pairs], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

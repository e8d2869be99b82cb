"""Runs of the cost benchmark as files and as one line of JSON. Knows the shape of a run and nothing of what it means.

A run is the dataclasses of `benchmarks.cost.results`, field by field. Sequences come back as lists. A field that this
version does not know is left out, and a missing one without a default is an error: what is added gets a default,
everything else a new schema number.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from benchmarks.child import BenchmarkError
from benchmarks.cost.results import SCHEMA, Run

_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY


def one_line(run: Run) -> str:
    """The run as JSON without a line break. Raises BenchmarkError where a figure is no finite number.

    What JSON has no word for in the free parts (a date, a path, a decimal) becomes its text.
    """
    return _encoded(run, 0).decode()


def dump(run: Run, path: Path) -> None:
    """Write the file whole or not at all: a reader never sees half of it, and a failure leaves what was there."""
    data = _encoded(run, orjson.OPT_INDENT_2)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp's 0600 is for secrets; this is a result to hand round
        os.replace(name, path)  # noqa: PTH105 - the name is a string from mkstemp
    except BaseException:
        os.unlink(name)  # noqa: PTH108
        raise


def load(path: Path) -> Run:
    """Raises BenchmarkError: unreadable, no JSON, no cost run, another schema, or the first field that is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"cannot read {path}: {error.strerror}") from error
    return parse(data, str(path))


def parse(data: bytes | str, where: str) -> Run:
    """As `load`, from the JSON itself; `where` is for the error."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BenchmarkError(f"{where} is no JSON: {error}") from error
    if not isinstance(raw, dict) or "schema" not in raw or "figures" not in raw:
        raise BenchmarkError(f"{where} is no run of the cost benchmark: it has no `schema` and `figures`")
    if raw["schema"] != SCHEMA:
        raise BenchmarkError(f"{where} has schema {raw['schema']!r}; this version reads {SCHEMA}")
    try:
        return TypeAdapter(Run).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BenchmarkError(f"{where}: {field}: {first['msg']}") from error


def _encoded(run: Run, option: int) -> bytes:
    fields = asdict(run)
    if bad := next(_not_finite(fields, ""), None):
        raise BenchmarkError(f"the run has a figure that is no number: {bad}")
    return orjson.dumps(fields, default=str, option=_OPTIONS | option)


def _not_finite(value: Any, at: str) -> Iterator[str]:
    """Where NaN or infinity lies: JSON would turn it into null, and the file into one that cannot be read."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{at} is {value}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{at}.{key}".lstrip("."))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{at}.{index}")

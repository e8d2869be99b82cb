"""Rows as JSON lines, for whoever trains, audits or bills: `python -m serving export`.

Streams, so that the size of the ledger does not matter; a file appears under its name when it is whole.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import orjson
from sqlalchemy import select

from models.types import Json
from serving.ledger.costs import parse_since
from serving.ledger.schema import requests, texts
from serving.ledger.store import Store, epoch_ms

_BATCH_ROWS = 1_000
_NAMES = [str(column.name) for column in requests.columns]
_TEXTS = {"messages": texts.c.messages, "answer_text": texts.c.answer, "tools": texts.c.tools}


def lines(store: Store, since_ms: int = 0, tenant: str | None = None, *, with_texts: bool = False) -> Iterator[bytes]:
    """Requests in the order they came, each the JSON object of a `Row`; with what was kept of its texts, or nulls.

    `text` is the last user message, which the router's commands read as the prompt.
    """
    query = select(requests, *_TEXTS.values()) if with_texts else select(requests)
    if with_texts:
        query = query.outerjoin(texts, texts.c.request_id == requests.c.request_id)
    query = query.where(requests.c.at_ms >= since_ms).order_by(requests.c.at_ms, requests.c.request_id)
    if tenant is not None:
        query = query.where(requests.c.tenant == tenant)
    names = [*_NAMES, *_TEXTS] if with_texts else _NAMES
    with store.read() as connection:
        for row in connection.execution_options(yield_per=_BATCH_ROWS).execute(query):
            told = dict(zip(names, row, strict=True))
            if with_texts:
                told["text"] = last_user_text(told["messages"] or ())
            yield orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def last_user_text(messages: Sequence[Json]) -> str | None:
    """As the gateway reads a request's `text`: of the last user message, parts that are text one below the other."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return None


def to_file(rows: Iterable[bytes], path: Path) -> int:
    """Write all rows or leave what was there. Returns how many."""
    fd, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            count = _copy(rows, file)
            file.flush()
            os.fsync(fd)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return count


def _copy(rows: Iterable[bytes], file: BinaryIO) -> int:
    count = 0
    for row in rows:
        file.write(row)
        count += 1
    return count


def _to_stdout(rows: Iterable[bytes]) -> int:
    try:
        _copy(rows, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has seen enough; the interpreter's own flush at exit must not fail on it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", default="1970-01-01", metavar="WHEN", help="1h, 7d, 2026-11-01 (default: everything)"
    )
    parser.add_argument("--tenant", help="only this tenant's requests")
    parser.add_argument("--texts", action="store_true", help="with what was kept of prompts and answers")
    parser.add_argument("--format", choices=["jsonl"], default="jsonl")
    parser.add_argument("--output", "-o", type=Path, help="a file, written whole or not at all (default: stdout)")


def run(args: argparse.Namespace, store: Store) -> int:
    rows = lines(store, parse_since(args.since, epoch_ms()), args.tenant, with_texts=args.texts)
    if args.output is None:
        return _to_stdout(rows)
    try:
        count = to_file(rows, args.output)
    except OSError as exc:
        sys.stderr.write(f"cannot write {args.output}: {exc.strerror}\n")
        return 2
    sys.stderr.write(f"{count:,} requests written to {args.output}\n")
    return 0

"""The arguments of `python -m serving label`, apart from its work: every other command imports them, too."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

KEY_VARIABLE: Final = "FARTHING_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", type=Path, metavar="FILE", help="JSONL: an export with --texts, or id and prompt")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="outcome rows; beside it FILE.work")
    parser.add_argument("--url", help="of the running gateway (default: where the configuration says it listens)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=f"an API key (default: {KEY_VARIABLE}, if set)")
    parser.add_argument("--small", default="small", metavar="TIER")
    parser.add_argument("--strong", default="frontier", metavar="TIER")
    parser.add_argument("--judge", metavar="TIER", help="who compares answers to prompts without a reference")
    parser.add_argument("--checker", metavar="NAME", help="for rows with a reference that name none")
    parser.add_argument("--run-code", action="store_true", help="let the checker 'python' run what the models wrote")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="so many prompts, each group by its share (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max-usd", type=float, required=True, metavar="USD", help="for all of it, earlier runs included"
    )
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="prompts at a time (default 4)")
    parser.add_argument(
        "--fields", type=_fields, default={}, metavar="JSON",
        help="over the body's {\"max_tokens\": 1024, \"temperature\": 0}; null leaves one out",
    )  # fmt: skip


def _fields(text: str) -> Mapping[str, Any]:
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise argparse.ArgumentTypeError(f"not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError('an object is expected, such as {"max_tokens": 2000}')
    return fields

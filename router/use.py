"""`python -m router use`: which artifact is current, and the instant way to another one, earlier ones included."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from router import tables
from router.artifacts import current_version, point_to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR", help="where the artifacts live")
    parser.add_argument("version", nargs="?", help="make this one current; without it, list them")


def run(arguments: argparse.Namespace) -> int:
    if arguments.version is not None:
        point_to(arguments.artifact, arguments.version)
    print(tables.text_table(listing(arguments.artifact)))
    return 0


def listing(root: Path) -> list[list[str]]:
    """Version, creation, threshold and how it was chosen; the current one marked."""
    current = current_version(root)
    rows = [["version", "created", "threshold", "by", ""]]
    for path in sorted(root.glob("*/policy.json"), key=lambda path: path.stat().st_mtime):
        if path.parent.is_symlink():
            continue
        policy = json.loads(path.read_text(encoding="utf-8"))
        created = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))["created"]
        chosen = policy["chosen"]
        by = " ".join([chosen["by"], *(f"{k}={v}" for k, v in chosen.get("target", {}).items())])
        mark = "◄ current" if path.parent.name == current else ""
        rows.append([path.parent.name, created, f"{policy['threshold']:+.4f}", by, mark])
    return rows

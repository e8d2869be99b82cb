"""Small rooms, checked: file and function length, parameters, `global`, broad excepts, and paths of one machine.

python tools/caps.py        prints what is over, one line each; exit code 1 if anything is
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 6
WORKPLACES = "|".join(["work", "farm", "opt/wheels", "opt/pypi"])  # below the root of machines this is written on
MACHINE_PATHS = re.compile(rf"(?<![\w.])/({WORKPLACES})/|/tmp/bash" + "_jobs")
TEXT_ENDINGS = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".in", ".sh", ".jinja", ".json", ""}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tracked() -> list[Path]:
    """What git has or would take, so that a file not yet added is checked too."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    return [path for name in listed.stdout.splitlines() if (path := Path(name)).is_file()]


def complaints(path: Path, text: str) -> Iterator[str]:
    if path.suffix in TEXT_ENDINGS:
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line):
                yield f"{path}:{number}: a path of one machine"
    if path.suffix != ".py":
        return
    lines = text.splitlines()
    if len(lines) > MAX_FILE_LINES:
        yield f"{path}:1: {len(lines)} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            yield from function_complaints(path, node, lines)
        elif isinstance(node, ast.Global):
            yield f"{path}:{node.lineno}: global"
        elif isinstance(node, ast.ExceptHandler) and is_broad(node) and not is_edge(node, lines):
            yield f"{path}:{node.lineno}: a broad except that neither raises nor says why it stands at an edge"


def function_complaints(path: Path, node: Function, lines: list[str]) -> Iterator[str]:
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > MAX_FUNCTION_LINES:
        yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
    arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    count = len([a for a in arguments if a not in ("self", "cls")])
    excused = "PLR0913" in lines[node.lineno - 1] or "tests/" in str(path)
    if count > MAX_PARAMETERS and not excused:
        yield f"{path}:{node.lineno}: {node.name} has {count} parameters, at most {MAX_PARAMETERS}"


def is_broad(node: ast.ExceptHandler) -> bool:
    return node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))


def is_edge(node: ast.ExceptHandler, lines: list[str]) -> bool:
    """It raises again, or a comment on its line says why it may not."""
    raises = any(isinstance(inner, ast.Raise) for statement in node.body for inner in ast.walk(statement))
    return raises or "#" in lines[node.lineno - 1]


def main() -> int:
    found = [
        complaint
        for path in tracked()
        if path.suffix in TEXT_ENDINGS
        for complaint in complaints(path, path.read_text(encoding="utf-8"))
    ]
    print("\n".join(found) if found else "caps: all within bounds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""The caps that `make check` holds: each complains about what it forbids, and about nothing else."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
spec = importlib.util.spec_from_file_location("caps", TOOLS / "caps.py")
assert spec is not None and spec.loader is not None
caps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(caps)

LONG = "def f():\n" + "    x = 1\n" * 50
HANDLER = "try:\n    pass\nexcept {kind}:{comment}\n    {body}\n"


def found(text: str, path: str = "models/x.py") -> list[str]:
    return list(caps.complaints(Path(path), textwrap.dedent(text)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n" * 401, "401 lines"),
        (LONG, "51 lines"),
        ("async " + LONG, "51 lines"),
        ("def f(a, b, c, d, e, f, g): ...\n", "7 parameters"),
        ("def f(a, b, c, *, d, e, f, g): ...\n", "7 parameters"),
        ("def f():\n    global x\n    x = 1\n", "global"),
        (HANDLER.format(kind="Exception", comment="", body="pass"), "broad except"),
        (HANDLER.format(kind="BaseException", comment="", body="pass"), "broad except"),
        ("try:\n    pass\nexcept:\n    pass\n", "broad except"),
        ("# see " + "/wo" + "rk/main\n", "a path of one machine"),
    ],
)
def test_what_is_over_is_told_with_its_place(text: str, says: str) -> None:
    (complaint,) = found(text)
    assert says in complaint and complaint.startswith("models/x.py:")


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * 400,
        "def f():\n" + "    x = 1\n" * 49,
        "def f(self, a, b, c, d, e, f): ...\n",
        "def f(a, b, c, d, e, f, g): ...  # noqa: PLR0913 - facts\n",
        HANDLER.format(kind="Exception", comment="  # the edge", body="pass"),
        HANDLER.format(kind="Exception", comment="", body="raise"),
        HANDLER.format(kind="ValueError", comment="", body="pass"),
        "x = 'https://example.com" + "/wo" + "rk/x'\n",
    ],
)
def test_what_is_within_bounds_is_not(text: str) -> None:
    assert found(text) == []


def test_documents_are_looked_at_for_paths_only() -> None:
    assert found("long line\n" * 500, "docs/x.md") == []
    assert found("/wo" + "rk/x\n", "docs/x.md")
    assert found("/wo" + "rk/x\n", "x.png") == []

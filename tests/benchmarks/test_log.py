"""Nothing that was measured and kept is without its entry, and no entry speaks of a file that is not there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_every_kept_result_has_an_entry_and_every_entry_its_file() -> None:
    linked = set(re.findall(r"\]\(([^)/]+\.json)\)", (RESULTS / "LOG.md").read_text()))
    assert linked == {path.name for path in RESULTS.glob("*.json")}


def test_the_example_of_break_even_gives_the_table_beside_it() -> None:
    text = (ROOT / "docs" / "cost-report.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    found = [line.split() for line in printed.getvalue().splitlines()]
    stated = {"cheapest": "than gpt-4o-mini", "frontier": "than gpt-4o "}
    for against, name in stated.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
        cells = [[float(value) for value in cell.split("/")] for cell in row.strip("| ").split("|")[1:]]
        for scale, cell in zip(("0.5", "1.0", "2.0"), cells, strict=True):
            at = [float(line[3]) for line in found if (line[0], line[2]) == (against, scale)]
            assert [round(value, 3 if value < 0.2 else 2) for value in at] == cell

"""A run as one HTML file that fetches nothing: its pictures are inside it, its tables are tables.

The pictures lie beside it as PNG files too. Light or dark as the reader's system is; the pictures stay light.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson

from benchmarks.cost import figures, results_io, tables
from benchmarks.cost.results import Run

PAGE: Final = "index.html"
DATA: Final = "run.json"
ALT: Final = {
    "cost-by-part": "stacked bars: USD for 1,000 requests by architecture, parted into hosted tiers, GPU busy and idle",
    "quality-cost": "share of right answers against USD for 1,000 requests, with intervals, baselines and oracle",
    "cost-by-load": "USD for 1,000 requests against the offered load, break-even loads marked",
    "route-shares": "which tier answered over the time of the run",
}
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #222; --page: #fff; --faint: #666; --line: #888; --stripe: #f4f4f4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --page: #161616; --faint: #aaa; --line: #777; --stripe: #222 }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--page) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap } th { border-bottom: 2px solid var(--line) }
tr:nth-child(even) td { background: var(--stripe) } .words { text-align: left; white-space: normal }
dt { font-weight: 600; float: left; width: 7rem } dd { margin-left: 7.5rem; overflow-wrap: anywhere }
.note { color: var(--faint); margin: .3rem 0 } .missed { color: #d55e00; font-weight: 600 }
img { max-width: 100%; background: #fff; padding: .5rem; box-sizing: border-box; border-radius: 6px }
pre { overflow-x: auto; font-size: 13px }
"""


def write(run: Run, folder: Path) -> list[Path]:
    """The page, its data and its pictures; gives their paths, the page first. Raises ConfigError without matplotlib."""
    pictures = figures.draw(run, folder)
    page, data = folder / PAGE, folder / DATA
    results_io.dump(run, data)
    page.write_text(render(run, pictures), encoding="utf-8")
    return [page, data, *pictures]


def render(run: Run, pictures: Iterable[Path]) -> str:
    """The page with these PNG files inside it."""
    title = f"What 1,000 requests cost: {run.workload}, {run.at[:10]}"
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>\n" for name, value in tables.header(run))
    images = "\n".join(_image(path) for path in pictures)
    assumed = "".join(f"<li>{_text(text)}</li>" for text in run.assumptions or ["none stated"])
    config = orjson.dumps(run.config, default=str, option=orjson.OPT_INDENT_2).decode()
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title><style>{_STYLE}</style>\n"
        f"<h1>{_text(title)}</h1>\n<dl>{facts}</dl>\n{images}\n"
        + "\n".join(_table(table) for table in tables.tables(run))
        + f"\n<h2>Assumptions</h2>\n<ul>{assumed}</ul>\n"
        f"<details><summary>Configuration</summary><pre>{_text(config)}</pre></details></html>\n"
    )


def _table(table: tables.Table) -> str:
    words = [index == 0 or name in tables.WORDS for index, name in enumerate(table.head)]
    head = "".join(_cell("th", name, left) for name, left in zip(table.head, words, strict=True))
    rows = "\n".join(
        "<tr>" + "".join(_cell("td", cell, left) for cell, left in zip(row, words, strict=True)) + "</tr>"
        for row in table.rows
    )
    notes = "\n".join(f"<p class=note>{_text(note)}</p>" for note in table.notes)
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
    return f"<h2>{_text(table.title)}</h2>\n<div class=wide><table>{body}</table></div>\n{notes}"


def _cell(tag: str, text: str, left: bool) -> str:
    classes = [name for name, on in (("words", left), ("missed", text == tables.MISSED)) if on]
    marked = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{marked}>{_text(text)}</{tag}>"


def _image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    alt = html.escape(ALT.get(path.stem, path.stem), quote=True)
    return f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>'


def _text(text: str) -> str:
    return html.escape(text)

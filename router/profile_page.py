"""The profile as one HTML file: its plots are inside it, and it fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from router import plots

if TYPE_CHECKING:
    from router.profile import Topic, Traffic

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } th, td { padding: .3rem .6rem; text-align: right }
th { border-bottom: 2px solid #888 } tr:nth-child(even) td { background: #f5f5f5 }
th:first-child, td:first-child { text-align: left } .example { color: #666; font-size: 13px }
.routine { color: #137333; font-weight: 600 } img { max-width: 100% }
"""


def render(summary: str, topics: Sequence[Topic], traffic: Traffic) -> str:
    rows = "\n".join(_row(topic) for topic in topics)
    head = "".join(
        f"<th>{name}</th>"
        for name in ("topic", "share", "requests", "tokens in", "out", "USD", "repeats", "small tier", "gain", "")
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Traffic profile</title><style>{_STYLE}</style>\n'
        f"<h1>Traffic profile</h1><p>{html.escape(summary)}</p>\n"
        f'<img alt="share and cost by topic, requests by hour" src="{_picture(topics, traffic)}">\n'
        f"<table><tr>{head}</tr>\n{rows}\n</table>\n"
        "<p><b>gain</b>: how much likelier the frontier is to be right, as the router estimates it. <b>routine</b>: "
        "half of the prompts came before, or the gain is far below the threshold: a cache or the small model will "
        "do.</p></html>\n"
    )


def _row(topic: Topic) -> str:
    gain = "–" if np.isnan(topic.gain) else f"{topic.gain:+.2f}"
    cells = [f"{topic.share:.1%}", f"{topic.requests:,}", f"{topic.input_tokens:.0f}", f"{topic.output_tokens:.0f}"]
    cells += [f"{topic.cost_usd:.4f}", f"{topic.repeats:.0%}", f"{topic.first_tier:.0%}", gain]
    name = f"{html.escape(topic.name)}<br><span class=example>{html.escape(topic.example)}</span>"
    mark = "<span class=routine>routine</span>" if topic.routine else ""
    return f"<tr><td>{name}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}<td>{mark}</td></tr>"


def _picture(topics: Sequence[Topic], traffic: Traffic) -> str:
    drawn, (shares, costs, hours) = plots.figure(3, width=5.0, height=max(3.5, 0.28 * len(topics)))
    names = [topic.name for topic in topics][::-1]
    colours = ["#137333" if topic.routine else "#1f6feb" for topic in topics][::-1]
    shares.barh(names, [topic.share for topic in topics][::-1], color=colours)
    shares.set(title="share of requests (green: routine)")
    costs.barh(names, [topic.cost_usd for topic in topics][::-1], color=colours)
    costs.set(title="USD")
    costs.set_yticklabels([])
    counts = np.bincount(traffic.hours)
    hours.plot(np.arange(len(counts)), counts, drawstyle="steps-mid")
    hours.set(title="requests by hour", xlabel="hours since the first")
    return plots.as_data_url(drawn)

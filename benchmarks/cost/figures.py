"""A run as pictures for a slide: light background, colours that a colour-blind reader tells apart (Okabe and Ito).

Each function gives a matplotlib figure or None when the run has nothing for it; `draw` saves those there are. Knows the
run's data and no HTML.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.cost.results import BreakEven, Figures, LoadPoint, Run
from benchmarks.cost.tables import AGAINST, TIERS, labels
from router import plots

INK: Final = "#222222"
BLUE, ORANGE, GREEN, SKY, RED, PINK, YELLOW, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#F0E442", "#999999"),
)  # fmt: skip
CYCLE: Final = (BLUE, RED, GREEN, ORANGE, PINK, SKY, INK, GREY)
MARKERS: Final = "osD^vPX"  # seven beside eight colours: 56 architectures look different
DASHES: Final = (":", "--", "-.", "-", (0, (5, 1, 1, 1, 1, 1)))
PARTS: Final = (
    ("frontier_usd", "frontier", BLUE, ""),
    ("cheap_usd", "cheapest hosted", SKY, ""),
    ("gpu_busy_usd", "GPU busy", GREEN, ""),
    ("gpu_idle_usd", "GPU idle", "#DDDDDD", "////"),
    ("wasted_usd", "wasted", RED, "xxxx"),
)
ROUTE_COLOURS: Final = {"cache": YELLOW, "small": GREEN, "cheap": SKY, "frontier": BLUE}
SAME_PRICE: Final = 0.03  # of an hour, between the load lines and the break-even table


def draw(run: Run, folder: Path) -> list[Path]:
    """Save the pictures the run has data for; gives their paths. Raises ConfigError without matplotlib."""
    saved = []
    for name, make in PICTURES.items():
        if (made := make(run)) is not None:
            path = folder / f"{name}.png"
            plots.save_png(made, path)
            saved.append(path)
    return saved


def bars(run: Run) -> Any:
    """$/1k requests by architecture, stacked by part; the total and its 95 % at the end of each bar."""
    made, axes = _figure(10.0, 1.9 + 0.52 * len(run.figures))
    names = [_label(one) for one in run.figures]
    left = [0.0] * len(names)
    for field, label, colour, hatch in PARTS:
        widths = [max(0.0, getattr(one.parts, field)) for one in run.figures]
        if any(widths):
            axes.barh(names, widths, left=left, color=colour, hatch=hatch, edgecolor="white", height=0.62, label=label)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    widest = max([*left, *(one.total.high for one in run.figures)])
    for row, one in enumerate(run.figures):
        low, high = max(0.0, one.total.value - one.total.low), max(0.0, one.total.high - one.total.value)
        axes.errorbar(one.total.value, row, xerr=[[low], [high]], color=INK, capsize=3, linewidth=1.2)
        axes.text(max(left[row], one.total.high) + 0.015 * widest, row, f"${one.total.value:,.3f}", va="center")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.14 * widest), xlabel="USD for 1,000 requests (bar: parts; line: 95 % of the total)")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(PARTS), frameon=False)
    return _titled(made, "What 1,000 requests cost", run)


def frontier(run: Run) -> Any:
    """Quality against cost: architectures with both intervals, curves of routers and baselines, the oracle."""
    graded = [one for one in run.figures if one.quality is not None]
    if not graded:
        return None
    made, axes = _figure(10.0, 6.0)
    names = list(dict.fromkeys(point.curve for point in run.curves))
    handles = []
    for index, name in enumerate(names):
        line = sorted((p.usd_per_1k, p.quality) for p in run.curves if p.curve == name)
        handles += axes.plot(*zip(*line, strict=True), color=INK, linestyle=DASHES[index % len(DASHES)], label=name)
    for index, one in enumerate(graded):
        assert one.quality is not None
        q, usd = one.quality, one.total
        drawn = axes.errorbar(
            usd.value,
            q.value,
            xerr=[[max(0.0, usd.value - usd.low)], [max(0.0, usd.high - usd.value)]],
            yerr=[[max(0.0, q.value - q.low)], [max(0.0, q.high - q.value)]],
            fmt=MARKERS[index % len(MARKERS)],
            color=CYCLE[index % len(CYCLE)],
            markerfacecolor="white" if one.computed else None,
            markersize=8,
            capsize=3,
        )
        drawn.lines[0].set_label(_label(one))
        handles.append(drawn.lines[0])  # the marker alone: error bars in a legend hide it
    axes.set(xlabel="USD for 1,000 requests", ylabel="share of right answers", xlim=(0, None))
    axes.yaxis.set_major_formatter(_percent)
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _titled(made, "Quality against cost (open: computed, not driven; bars: 95 %)", run)


def load(run: Run) -> Any:
    """$/1k against offered load, a star where an architecture's line meets an alternative's."""
    if not run.loads:
        return None
    made, axes = _figure(11.5, 6.0)
    named, beaten = labels(run), _crossings(run)
    for index, name in enumerate(dict.fromkeys(point.name for point in run.loads)):
        points = sorted((p for p in run.loads if p.name == name), key=lambda p: p.offered_rps)
        met = beaten.get(name, [])
        lines = textwrap.wrap(named.get(name, name), 30)
        lines += [f"  beats {AGAINST[one.against]} from {one.rps:.2g}/s" for one in met]
        _load_line(axes, points, "\n".join(lines), CYCLE[index % len(CYCLE)])
        _stars(axes, points, [one.rps or 0.0 for one in met], CYCLE[index % len(CYCLE)])
    axes.set(xscale="log", yscale="log", xlabel="offered load, requests a second")
    axes.set_ylabel("USD for 1,000 requests")
    axes.xaxis.set_major_formatter(_plain)
    axes.yaxis.set_major_formatter(_plain)
    axes.grid(which="minor", alpha=0.15)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelspacing=0.9)
    hours = sorted({f"${one.gpu_usd_per_hour:.2f}/h" for met in beaten.values() for one in met})
    axes.set_title("; ".join(_legend(run.loads, hours)), fontsize=11, color="#444444")
    return _titled(made, "Cost against load", run)


def shares(run: Run) -> Any:
    """Who answered over the time of the run, one panel an architecture with more than one route."""
    shown = [one for one in run.figures if len({r for b in one.timeline for r, n in b.routes.items() if n}) > 1]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    made, _ = plots.figure(1, width=max(6.0, 4.0 * columns), height=1.3 + 2.7 * rows)
    made.clear()
    grid = made.subplots(rows, columns, squeeze=False, sharey=True)
    routes = _present(shown)
    for axes, one in zip(grid.flat, shown, strict=False):
        times = [bucket.at_s for bucket in one.timeline]
        totals = [max(1, sum(bucket.routes.values())) for bucket in one.timeline]
        stacks = [[b.routes.get(r, 0) / n for b, n in zip(one.timeline, totals, strict=True)] for r in routes]
        axes.stackplot(times, stacks, labels=routes, colors=[ROUTE_COLOURS.get(r, GREY) for r in routes], linewidth=0)
        axes.set(title=_label(one), ylim=(0, 1), xlim=(times[0], times[-1]))
        axes.yaxis.set_major_formatter(_percent)
        axes.grid(alpha=0.25)
    for axes in grid.flat[len(shown) :]:
        axes.remove()
    for axes in grid[-1]:
        axes.set_xlabel("seconds since the start")
    handles, names = grid[0][0].get_legend_handles_labels()
    made.legend(handles[::-1], names[::-1], loc="outside right center", frameon=False)
    return _titled(made, "Who answered", run)


PICTURES: Final[dict[str, Callable[[Run], Any]]] = {
    "cost-by-part": bars,
    "quality-cost": frontier,
    "cost-by-load": load,
    "route-shares": shares,
}


def _legend(points: Sequence[LoadPoint], hours: Sequence[str]) -> Iterator[str]:
    """What the marks mean, for those that are drawn."""
    yield "lines: simulated, dashed without a GPU"
    if any(not point.simulated for point in points):
        yield "dots: driven"
    if hours:
        yield f"stars: break-even at {', '.join(hours)}"


def _load_line(axes: Any, points: Sequence[LoadPoint], label: str, colour: str) -> None:
    style = "-" if any(p.gpus for p in points) else "--"
    axes.plot([p.offered_rps for p in points], [p.parts.total_usd for p in points], style, color=colour, label=label)
    driven = [p for p in points if not p.simulated]
    axes.plot([p.offered_rps for p in driven], [p.parts.total_usd for p in driven], "o", color=colour, markersize=9)


def _stars(axes: Any, points: Sequence[LoadPoint], loads_rps: Sequence[float], colour: str) -> None:
    """On the line: straight between its points, both scales being logarithmic. None beyond its ends."""
    inside = [rps for rps in loads_rps if points[0].offered_rps <= rps <= points[-1].offered_rps]
    known = np.log([[p.offered_rps, max(p.parts.total_usd, 1e-9)] for p in points])
    heights = np.exp(np.interp(np.log(inside), known[:, 0], known[:, 1])) if inside else []
    axes.plot(inside, heights, "*", color=colour, markersize=17, markeredgecolor="white", zorder=5)


def _crossings(run: Run) -> dict[str, list[BreakEven]]:
    """By architecture, at the GPU price its line is drawn with: any other would lie where no lines cross."""
    hourly = _hourly_usd(run.loads)
    found: dict[str, list[BreakEven]] = {}
    for one in run.break_even:
        same = one.name in hourly and math.isclose(one.gpu_usd_per_hour, hourly[one.name], rel_tol=SAME_PRICE)
        if one.rps is not None and one.tokens_scale == 1.0 and same:
            found.setdefault(one.name, []).append(one)
    return found


def _hourly_usd(points: Sequence[LoadPoint]) -> dict[str, float]:
    """What a GPU hour costs, by architecture, from the bill at its lowest load, where the clock matters least."""
    found: dict[str, float] = {}
    for point in sorted(points, key=lambda p: -p.offered_rps):
        if point.gpus:
            parts = point.parts
            paid = parts.gpu_busy_usd + parts.gpu_idle_usd + parts.wasted_usd
            found[point.name] = paid / 1000 * point.offered_rps * 3600 / point.gpus
    return found


def _figure(width: float, height: float) -> tuple[Any, Any]:
    made, (axes,) = plots.figure(1, width=width, height=height)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return made, axes


def _titled(made: Any, title: str, run: Run) -> Any:
    made.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # inches: labels must not touch the edge of a slide
    made.suptitle(title, fontsize=14, fontweight="bold", color=INK)
    parts = list(dict.fromkeys(part for one in run.figures for part in one.replayed))
    replayed = f"; replayed: {', '.join(parts)}" if parts else ""
    made.supxlabel(
        f"workload {run.workload}, {run.at[:10]}, commit {run.commit}{replayed}", fontsize=9, color="#666666"
    )
    return made


def _label(one: Figures) -> str:
    return "\n".join(textwrap.wrap(one.label + (" (computed)" if one.computed else ""), 28))


def _present(figures: Sequence[Figures]) -> list[str]:
    present = {route for one in figures for bucket in one.timeline for route in bucket.routes}
    return [*(route for route in TIERS if route in present), *sorted(present - set(TIERS))]


def _percent(value: float, _: int | None = None) -> str:
    return f"{value:.0%}"


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:g}"

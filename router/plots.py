"""Drawings, for people. matplotlib is an extra of the offline commands, so it is imported when one draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from models.errors import ConfigError
from router.curves import Curve

EMPHASISED: Final = {"router": ("#b3261e", 2.2), "oracle": ("#777777", 1.0), "length": ("#1f6feb", 1.2)}


def figure(columns: int, width: float = 6.0, height: float = 4.4) -> tuple[Any, Sequence[Any]]:
    """A figure and its axes. Raises ConfigError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("drawing needs matplotlib: .venv/bin/pip install matplotlib") from error
    made = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(1, columns, squeeze=False)[0]


def draw_curves(axes: Any, curves: Mapping[str, Curve], title: str) -> None:
    """Quality against the share of strong calls, the random mix dotted."""
    for name, curve in curves.items():
        colour, width = EMPHASISED.get(name, (None, 1.0))
        axes.plot(curve.share, curve.quality, label=name, color=colour, linewidth=width)
    any_curve = next(iter(curves.values()))
    axes.plot([0, 1], [any_curve.weak, any_curve.strong], ":", color="black", linewidth=1, label="random mix")
    axes.set(xlabel="share of strong calls", ylabel="quality", title=title, xlim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def save_png(drawn: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=120)


def as_data_url(drawn: Any) -> str:
    """For an HTML page that carries its own pictures."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

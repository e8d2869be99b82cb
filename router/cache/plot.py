"""The trade-off as a picture: wrong answers per hit, with their 95 % bound, over the share of requests served."""

from __future__ import annotations

from pathlib import Path

from router.cache.tune import Point, Tuning


def draw(tuning: Tuning, path: Path) -> None:
    """A PNG. Raises ImportError without matplotlib, which nothing else needs."""
    # Heavy, and only for this picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for points, name, colour in (
        (tuning.cosine, "cosine alone", "tab:red"),
        (tuning.curve, "gates and P(right)", "tab:blue"),
    ):
        shown = [point for point in points if point.tally.hits]
        rates = [_hit_rate(point) for point in shown]
        wrong = [point.tally.wrong / point.tally.hits for point in shown]
        axes.plot(rates, wrong, "o-", color=colour, label=name)
        axes.fill_between(rates, wrong, [p.tally.wrong_hit_bound for p in shown], color=colour, alpha=0.15, linewidth=0)
        for at in sorted(
            {0, len(shown) // 2, len(shown) - 1} if shown else set()
        ):  # all of them would cover each other
            text = f"{shown[at].threshold:.4g}"
            axes.annotate(text, (rates[at], wrong[at]), textcoords="offset points", xytext=(4, 6), fontsize=8)
    axes.axhline(tuning.rules.max_wrong_hit_rate, color="black", linestyle="--", linewidth=1, label="target")
    axes.set(
        xlabel="share of pairs served", ylabel="wrong answers per hit (shaded: up to the 95 % bound)", ylim=(0, None)
    )
    axes.set_title("Semantic cache: what serving more costs")
    axes.legend()
    figure.savefig(path, dpi=120)


def _hit_rate(point: Point) -> float:
    return point.tally.hits / (point.tally.positives + point.tally.negatives)

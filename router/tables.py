"""Figures as lines of text for a terminal: what every command that compares rankings prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.curves import Curve
from router.evaluation import Figures, difference


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, the first to the left, the rest to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def setting_line(name: str, found: Mapping[str, Any]) -> str:
    pair = found["pair"]
    text = (
        f"{name}: {found['rows']:,} rows, {found['groups']} groups; {pair['weak']} {found['always_weak']:.1%}, "
        f"{pair['strong']} {found['always_strong']:.1%}; oracle {found['oracle_quality']:.1%} at "
        f"{found['oracle_share']:.1%} strong calls"
    )
    return text + ("  (gap under 5 points: APGR means little)" if found["gap_is_small"] else "")


def rankings_table(figures: Mapping[str, Figures], of: str = "router") -> str:
    """One line a ranking; the last columns say how `of` differs from it, paired."""
    head = ["ranking", "APGR", "95 %", "CPT50", "CPT80", "AUROC", "AIQ", f"{of} − it", "95 %", ""]
    rows = [head]
    for name, one in figures.items():
        cells = [name, f"{one.apgr:.3f}", str(one.interval), _share(one.cpt50), _share(one.cpt80), f"{one.auroc:.3f}"]
        cells.append(f"{one.aiq:.4f}")
        if name in (of, "oracle") or of not in figures:
            rows.append([*cells, "", "", ""])
        else:
            found = difference(figures[of], one)
            rows.append([*cells, f"{found.value:+.3f}", str(found.interval), found.verdict])
    return text_table(rows)


def curve_table(curves: Mapping[str, Curve], shares: Sequence[float]) -> str:
    """Quality of each ranking at these strong shares."""
    rows = [["strong share", *(f"{share:.0%}" for share in shares)]]
    rows += [[name, *(f"{curve.at(share):.3f}" for share in shares)] for name, curve in curves.items()]
    return text_table(rows)


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"

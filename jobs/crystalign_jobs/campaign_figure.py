"""The figure of a campaign, after Fig. 2 of MultiMat: the error of each task by initialisation, with error bars.

Where there are several numbers of labels, a second row of panels has the learning curves.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from crystalign_jobs.campaign_report import CampaignReport, Row

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000", "#bb5566", "#004488", "#997700")
"""Distinct for readers with any colour vision (Tol's bright scheme first)."""
GREY = "#bbbbbb"


class Drawn(NamedTuple):
    """The same figure twice."""

    png: bytes
    """At 160 dots per inch."""
    svg: str
    """To stand inside a page."""


def draw(report: CampaignReport) -> Drawn:
    """The figure."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        if row.error is not None:
            panels.setdefault((row.cell.task, row.target), []).append(row)
    curves = len({row.cell.n_labels for row in report.rows}) > 1
    columns = max(len(panels), 1)
    height = 3.4 * (2 if curves else 1)
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "crystalign"}):
        figure = Figure(figsize=(max(3.6 * columns, 4.0), height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2 if curves else 1, columns, squeeze=False)
        colours = _colours(report)
        for place, ((task, target), rows) in enumerate(panels.items()):
            most = max(row.cell.size for row in rows)
            full = [row for row in rows if row.cell.size == most]
            _bars(axes[0, place], full, colours)
            axes[0, place].set_title(task)
            axes[0, place].set_ylabel(_axis(report, target, rows[0]))
            if curves:
                _curves(axes[1, place], [row for row in rows if not row.config.constant], colours)
                if place == 0:
                    axes[1, place].legend(frameon=False, fontsize=7)
                axes[1, place].set_ylabel(_axis(report, target, rows[0]))
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    text = svg.getvalue().decode()
    return Drawn(png.getvalue(), text[text.index("<svg") :])


def way(row: Row) -> str:
    """What a row is called in the figure: its initialisation, and what it reads where that is not the crystal alone."""
    parts = [row.cell.initialisation]
    if row.cell.modalities not in {"", "crystal"} and row.cell.modalities != row.cell.initialisation:
        parts.append(row.cell.modalities)
    return ", ".join([*parts, *([row.cell.fusion] if row.cell.fusion else [])])


def _colours(report: CampaignReport) -> dict[str, str]:
    ways = dict.fromkeys(way(row) for row in report.rows if not row.config.constant)
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(ways)}


def _axis(report: CampaignReport, target: str, row: Row) -> str:
    if row.kind == "classification":
        return "log loss"
    spec = report.specs.get(target)
    return "MAE" if spec is None or not spec.quantity.unit else f"MAE ({spec.quantity.unit})"


def _bars(axes: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """Bars of what learns; lines of what does not."""
    learnt = [row for row in rows if not row.config.constant and row.error is not None]
    for place, row in enumerate(learnt):
        error = row.error
        assert error is not None
        axes.bar(
            place,
            error.mean,
            yerr=error.std if error.n > 1 else None,
            color=colours[way(row)],
            capsize=3,
            width=0.7,
        )
    for row, style in zip([row for row in rows if row.config.constant], ("--", ":", "-."), strict=False):
        assert row.error is not None
        axes.axhline(row.error.mean, color="#555555", linestyle=style, linewidth=1)
        axes.annotate(
            row.cell.initialisation, (0.99, row.error.mean), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    axes.set_xticks(range(len(learnt)), [way(row) for row in learnt], rotation=35, ha="right")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)


def _curves(axes: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """Error over training labels; all labels stand at how many these are."""
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for row in rows:
        error = row.error
        if error is None:
            continue
        size = next(iter(row.results.values())).sizes["train"]
        name = way(row)
        lines.setdefault(name, []).append((size, error.mean, error.std if error.n > 1 else 0.0))
    for name, points in lines.items():
        x, y, bars = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, yerr=bars, label=name, color=colours.get(name, GREY), marker="o", markersize=3, capsize=2)
    axes.set_xscale("log")
    sizes = sorted({size for points in lines.values() for size, _, _ in points})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training labels")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)

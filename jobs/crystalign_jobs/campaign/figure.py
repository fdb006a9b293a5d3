"""The figure of a campaign, after Fig. 2 of MultiMat: the error of each task by initialisation, with error bars.

With several numbers of labels, a second row of panels shows the learning curves.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from crystalign_jobs.campaign.results import CampaignReport, Row

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000", "#bb5566", "#004488", "#997700")
"""Colours that colour-blind readers can tell apart (Tol's bright scheme first)."""
GREY = "#bbbbbb"


class Drawn(NamedTuple):
    """The figure in two formats."""

    png: bytes
    """At 160 dots per inch."""
    svg: str
    """For embedding in an HTML page."""


def draw(report: CampaignReport) -> Drawn:
    """Draw the figure of a campaign."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        if row.error is not None:
            panels.setdefault((row.cell.task, row.target), []).append(row)
    curves = len({row.cell.n_labels for row in report.rows}) > 1
    colours = _colours(report)
    columns = max(len(panels), 1)
    heights = [1.0 + 0.22 * max(len(colours), 4), *([3.0] if curves else [])]
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "crystalign"}):
        legend = 0.2 * -(-len(colours) // columns) if curves else 0.0
        figure = Figure(figsize=(2.6 * columns + 2.4, sum(heights) + legend), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        previous_names: list[str] = []
        for column, ((task, target), rows) in enumerate(panels.items()):
            most = max(row.cell.size for row in rows)
            full = [row for row in rows if row.cell.size == most]
            axis = _axis(report, target, rows[0])
            names = _bars(axes[0, column], full, axis, colours, report.campaign.baseline)
            axes[0, column].set_title(task)
            if names == previous_names:
                axes[0, column].set_yticklabels([])
            previous_names = names
            if curves:
                _curves(axes[1, column], [row for row in rows if not row.config.constant], colours)
                axes[1, column].set_ylabel(axis)
        if curves:
            legends = [panel.get_legend_handles_labels() for panel in axes[1]]
            handle_of = {
                name: handle for handles, names in legends for handle, name in zip(handles, names, strict=True)
            }
            figure.legend(handle_of.values(), handle_of, loc="outside lower center", ncols=columns, frameon=False)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    text = svg.getvalue().decode()
    return Drawn(png.getvalue(), text[text.index("<svg") :])


def way(row: Row) -> str:
    """The label of a row in the figure: initialisation, modalities unless they are the crystal alone, and fusion."""
    parts = [row.cell.initialisation]
    if row.cell.modalities not in {"", "crystal"} and row.cell.modalities != row.cell.initialisation:
        parts.append(row.cell.modalities)
    return ", ".join([*parts, *([row.cell.fusion] if row.cell.fusion else [])])


def _colours(report: CampaignReport) -> dict[str, str]:
    labels = dict.fromkeys(way(row) for row in report.rows if not row.config.constant)
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(labels)}


def _axis(report: CampaignReport, target: str, row: Row) -> str:
    if row.kind == "classification":
        return "log loss"
    spec = report.specs.get(target)
    return "MAE" if spec is None or not spec.quantity.unit else f"MAE ({spec.quantity.unit})"


def _bars(axes: Any, rows: Sequence[Row], axis: str, colours: dict[str, str], baseline: str) -> list[str]:
    """Draw a bar per trained row, a dotted line at the baseline, dashed lines at the constants; return bar labels."""
    trained = [(way(row), row.error, row.cell.initialisation == baseline) for row in rows if not row.config.constant]
    constants = [(row.cell.initialisation, row.error.mean) for row in rows if row.config.constant and row.error]
    ends = [error.mean + (error.std if error.n > 1 else 0.0) for _, error, _ in trained if error]
    limit = 1.5 * max(ends, default=max((error for _, error in constants), default=1.0))
    for position, (name, error, is_baseline) in enumerate(trained):
        assert error is not None
        bar = error.std if error.n > 1 else None
        axes.barh(position, error.mean, xerr=bar, color=colours[name], capsize=2, height=0.7)
        axes.annotate(
            f"{error.mean:.3g}", (ends[position], position), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
        if is_baseline:
            axes.axvline(error.mean, color=colours[name], linestyle=":", linewidth=1, zorder=0)
    for (_, value), style in zip(constants, ("--", "-.", ":"), strict=False):
        if value < limit:  # a larger error would squeeze the bars
            axes.axvline(value, color="#555555", linestyle=style, linewidth=1)
    constants_text = ", ".join(f"{name} {value:.3g}" for name, value in constants)
    axes.set_xlabel(f"{axis}\n{constants_text}".rstrip())
    names = [name for name, _, _ in trained]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(colours) - 0.4, -0.6)  # bars have the same thickness in all panels
    axes.set_xlim(0, max([1.2 * max(ends, default=0.0), *(1.05 * error for _, error in constants if error < limit)]))
    axes.spines[["top", "right"]].set_visible(False)
    return names


def _curves(axes: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    """Draw error over training labels; `all` is drawn at the actual number of labels."""
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
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)

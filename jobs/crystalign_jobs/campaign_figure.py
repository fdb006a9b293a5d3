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
    colours = _colours(report)
    columns = max(len(panels), 1)
    heights = [1.0 + 0.22 * max(len(colours), 4), *([3.0] if curves else [])]
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "crystalign"}):
        legend = 0.2 * -(-len(colours) // columns) if curves else 0.0
        figure = Figure(figsize=(2.6 * columns + 2.4, sum(heights) + legend), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        before: list[str] = []
        for place, ((task, target), rows) in enumerate(panels.items()):
            most = max(row.cell.size for row in rows)
            full = [row for row in rows if row.cell.size == most]
            axis = _axis(report, target, rows[0])
            names = _bars(axes[0, place], full, axis, colours, report.campaign.baseline)
            axes[0, place].set_title(task)
            if names == before:
                axes[0, place].set_yticklabels([])
            before = names
            if curves:
                _curves(axes[1, place], [row for row in rows if not row.config.constant], colours)
                axes[1, place].set_ylabel(axis)
        if curves:
            found = [panel.get_legend_handles_labels() for panel in axes[1]]
            named = {name: handle for handles, names in found for handle, name in zip(handles, names, strict=True)}
            figure.legend(named.values(), named, loc="outside lower center", ncols=columns, frameon=False)
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


def _bars(axes: Any, rows: Sequence[Row], axis: str, colours: dict[str, str], baseline: str) -> list[str]:
    """Bars of what learns, with dotted lines where the baseline ends, dashed ones of what does not; the bars' names."""
    learnt = [(way(row), row.error, row.cell.initialisation == baseline) for row in rows if not row.config.constant]
    constants = [(row.cell.initialisation, row.error.mean) for row in rows if row.config.constant and row.error]
    ends = [error.mean + (error.std if error.n > 1 else 0.0) for _, error, _ in learnt if error]
    reach = 1.5 * max(ends, default=max((error for _, error in constants), default=1.0))
    for place, (name, error, is_baseline) in enumerate(learnt):
        assert error is not None
        bar = error.std if error.n > 1 else None
        axes.barh(place, error.mean, xerr=bar, color=colours[name], capsize=2, height=0.7)
        axes.annotate(
            f"{error.mean:.3g}", (ends[place], place), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
        if is_baseline:
            axes.axvline(error.mean, color=colours[name], linestyle=":", linewidth=1, zorder=0)
    for (_, error), style in zip(constants, ("--", "-.", ":"), strict=False):
        if error < reach:  # one farther away would leave the bars no room
            axes.axvline(error, color="#555555", linestyle=style, linewidth=1)
    said = ", ".join(f"{name} {error:.3g}" for name, error in constants)
    axes.set_xlabel(f"{axis}\n{said}".rstrip())
    names = [name for name, _, _ in learnt]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(colours) - 0.4, -0.6)  # bars of all panels are as thick
    axes.set_xlim(0, max([1.2 * max(ends, default=0.0), *(1.05 * error for _, error in constants if error < reach)]))
    axes.spines[["top", "right"]].set_visible(False)
    return names


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
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)

"""The tables of a campaign as Markdown, HTML, and for the terminal."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from crystalign.finetuning.results.comparison import PairedDifference, Spread
from crystalign_jobs.campaign.grid import absent
from crystalign_jobs.campaign.results import CampaignReport, Row


class Table(NamedTuple):
    """The table of one task and target."""

    heading: str
    """Task, property and unit."""
    columns: list[str]
    """Names of the columns."""
    cells: list[list[str]]
    """Text of the cells, row by row."""


def tables(report: CampaignReport) -> Iterator[Table]:
    """One table for each task and target."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        groups.setdefault((row.cell.task, row.target), []).append(row)
    for (task, target), rows in groups.items():
        spec = report.specs.get(target)
        label = target if spec is None else spec.label
        trained_as = ", fitted as log₁₀" if rows[0].config.task.transform == "log10" else ""
        yield _table(f"{task}: {label}{trained_as} (`{target}`)", rows, "" if spec is None else spec.quantity.unit)


def _table(heading: str, rows: Sequence[Row], unit: str) -> Table:
    has_fusion = len({row.cell.fusion for row in rows if row.cell.fusion}) > 0
    has_label_counts = len({row.cell.n_labels for row in rows}) > 1
    log10 = any(row.over_seeds("mae_log10") is not None for row in rows)
    columns = [
        "initialisation",
        "reads",
        *(["fusion"] if has_fusion else []),
        *(["labels"] if has_label_counts else []),
    ]
    columns += ["lr", "seeds"]
    if rows[0].kind == "regression":
        columns += [f"MAE{f', {unit}' if unit else ''}", *(["MAE log₁₀"] if log10 else []), "RMSE"]
        columns += ["MAE / MAE of the mean baseline", "MAE / MAE of the median baseline", "in 90 %"]
    else:
        columns += ["log loss", "ROC AUC", "balanced accuracy", "log loss of the base rate"]
    has_gains = any(row.gain is not None for row in rows)
    columns += ["gain, % [95 % over seeds]", "p (seeds)", "p (formulas)"] if has_gains else []
    cells = []
    for row in rows:
        line = [row.cell.initialisation, row.cell.modalities or "–"]
        line += [row.cell.fusion or "–"] if has_fusion else []
        line += ["all" if row.cell.n_labels is None else str(row.cell.n_labels)] if has_label_counts else []
        line += ["–" if row.config.constant else f"{row.config.lr:g}"]
        line += [str(len(row.results)) + ("" if len(row.results) >= row.seeds else f" of {row.seeds}")]
        cells.append(line + _numbers(row, log10=log10) + (_gain(row) if has_gains else []))
    return Table(heading, columns, cells)


def _numbers(row: Row, *, log10: bool) -> list[str]:
    if row.kind == "classification":
        names = ["log_loss", "roc_auc", "balanced_accuracy", "log_loss_of_rate"]
        return [_plain(row.over_seeds(name)) for name in names]
    names = ["mae", *(["mae_log10"] if log10 else []), "rmse", "scaled_mae", "scaled_by_median"]
    covered = row.coverage
    return [_plain(row.over_seeds(name)) for name in names] + ["–" if covered is None else f"{100 * covered:.0f} %"]


def _gain(row: Row) -> list[str]:
    gain, other = row.gain, row.gain_formulas
    return ["–" if gain is None else percent(gain), _p(gain), _p(other)]


def percent(gain: PairedDifference) -> str:
    """Reduction of the error relative to the baseline in %, with its 95 % interval."""
    base = gain.mean / gain.relative if gain.relative else math.nan
    text = f"{-100 * gain.relative:.1f}"
    if not all(map(math.isfinite, (gain.low, gain.high, base))):
        return text
    return f"{text} [{-100 * gain.high / base:.0f}, {-100 * gain.low / base:.0f}]"


def _plain(value: Spread | None) -> str:
    return "–" if value is None else str(value)


def _p(gain: PairedDifference | None) -> str:
    if gain is None or not math.isfinite(gain.p):
        return "–"
    return "< 0.001" if gain.p < 0.001 else f"{gain.p:.3f}"


_ERRORS = """\
{trials} trials on `{data}`. The setting of each row is the one whose mean over seeds is best on the validation part; \
the numbers are means ± standard deviations over seeds on the test part, which each trial used only once. \
`MAE / MAE of the mean baseline` compares with predicting the mean of the training labels: above 1 is worse than that. \
`in 90 %` is the share of test labels within their 90 % intervals."""
_GAINS = """\
Gains are relative to `{baseline}` with the same labels. `p (seeds)` is a paired t-test over seeds, `p (formulas)` a \
Wilcoxon signed-rank test over the formulas of the test part. Both are two-sided, uncorrected for multiple tests."""


def notes(report: CampaignReport) -> list[str]:
    """The notes below the tables: how to read them, and what was left out."""
    campaign = report.campaign
    lines = [_ERRORS.format(trials=report.trials, data=campaign.data)]
    if campaign.baseline in campaign.initialisations:
        lines.append(_GAINS.format(baseline=campaign.baseline))
    shared = [row.shared for row in report.rows if row.shared is not None]
    if shared:
        lines.append(
            f"The gains of {len(shared)} rows are computed on the materials that row and baseline both tested, at "
            f"least {min(shared):,}. To test all rows on the same materials, set `require` to the modalities that "
            "every material must have."
        )
    if report.stopped:
        lines.append(f"{report.stopped} trials ended early because another learning rate did better.")
    if campaign.shuffle_labels:
        lines.append("Labels were shuffled: a ratio below 1 indicates a leak.")
    lines += [f"Skipped: {task} ({why})." for task, why in absent(campaign).items()]
    lines += [campaign.note] if campaign.note else []
    for why, count in _left_out(report).items():
        lines.append(f"Left out of the labels: {why} ({count:,}).")
    return lines


def _left_out(report: CampaignReport) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in report.rows:
        for why, count in next(iter(row.results.values())).left_out.items():
            counts[f"{row.cell.task}, {why}"] = max(count, counts.get(f"{row.cell.task}, {why}", 0))
    return counts


def markdown(report: CampaignReport) -> str:
    """The content of `results.md`."""
    lines = [f"# {report.campaign.name}", ""]
    for table in tables(report):
        lines += [f"## {table.heading}", "", f"| {' | '.join(table.columns)} |", f"|{'---|' * len(table.columns)}"]
        lines += [f"| {' | '.join(cells)} |" for cells in table.cells] + [""]
    lines += [line for note in notes(report) for line in (note, "")]
    lines += _failures(report)
    if report.best:
        lines += ["## Best models", "", "```sh"]
        lines += [f"crystalign predict --model {uri} FILE.cif   # {task}" for task, uri in report.best.items()]
        lines += ["```", ""]
    return "\n".join(lines)


def _failures(report: CampaignReport) -> list[str]:
    if not report.failures:
        return []
    lines = ["## Trials that failed", "", "| trial | id | reason |", "|---|---|---|"]
    for entry, failure in report.failures:
        reason = failure.replace("|", "\\|")
        lines.append(f"| {entry.title} | {entry.config.id} | {reason} |")
    return [*lines, ""]


STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #1b1f24 }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #d8dee4; padding: .3rem .7rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
svg { max-width: 100%; height: auto }
code { background: #f4f6f8; padding: .1rem .3rem }
"""


def html_page(report: CampaignReport, svg: str) -> str:
    """The content of `results.html`, which loads nothing from other sites."""
    name = html.escape(report.campaign.name)
    parts = [f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title><style>{STYLE}</style>"]
    parts += [f"<h1>{name}</h1>", svg]
    for table in tables(report):
        parts.append(f"<h2>{html.escape(table.heading)}</h2>")
        parts.append(_html_table(table.columns, table.cells))
    parts += [f"<p>{html.escape(note)}</p>" for note in notes(report)]
    if report.failures:
        rows = [[entry.title, entry.config.id, reason] for entry, reason in report.failures]
        parts += ["<h2>Trials that failed</h2>", _html_table(["trial", "id", "reason"], rows)]
    for task, uri in report.best.items():
        command = html.escape(f"crystalign predict --model {uri} FILE.cif")
        parts.append(f"<p>Best model of {html.escape(task)}: <code>{command}</code></p>")
    return "\n".join(parts) + "\n</html>\n"


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def terminal_tables(report: CampaignReport) -> Iterator[Any]:
    """The tables for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    for table in tables(report):
        rich_table = RichTable(title=table.heading, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
        for column, name in enumerate(table.columns):
            # break long names, because the numbers below are short
            header = name.replace(" of the ", "\nof the ").replace(" baseline", "\nbaseline")
            rich_table.add_column(header, justify="left" if column < 2 else "right", no_wrap=True)
        for cells in table.cells:
            rich_table.add_row(*cells)
        yield rich_table

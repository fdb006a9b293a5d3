"""What a campaign writes at its end: tables, figure and the best models."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.finetuning.trials.config import TrialResult
from crystalign.shards.dataset import Dataset
from crystalign_jobs.campaign.best_models import best_of, write_best
from crystalign_jobs.campaign.config import Campaign
from crystalign_jobs.campaign.criterion import criterion
from crystalign_jobs.campaign.figure import draw
from crystalign_jobs.campaign.grid import Entry
from crystalign_jobs.campaign.results import CampaignReport, choose, compared
from crystalign_jobs.campaign.tables import html_page, markdown, terminal_tables


def show(report: CampaignReport) -> None:
    """Print the tables."""
    from rich.console import Console

    console = Console(width=max(Console().width, 190))
    for table in terminal_tables(report):
        console.print(table)
    if report.failures:
        console.print(f"{len(report.failures)} trials failed; see results.md for the reasons", markup=False)


def report(
    campaign: Campaign,
    run: str,
    entries: Sequence[Entry],
    results: Mapping[str, TrialResult],
    failures: Mapping[str, str],
) -> CampaignReport:
    """Select the best settings, compare the rows, and write all files.

    Args:
        campaign: its settings.
        run: URI of its folder.
        entries: all trials.
        results: id → result of each finished trial.
        failures: id → why a trial has no result.
    """
    chosen = choose(entries, results, len(campaign.seeds))
    best = best_of(campaign, run, chosen)
    rows = compared(campaign, run, chosen)
    specs = {spec.column: spec for spec in Dataset.open(campaign.data).manifest.properties}
    summary = CampaignReport(
        campaign=campaign,
        specs=specs,
        rows=rows,
        failures=[(entry, failures[entry.config.id]) for entry in entries if entry.config.id in failures],
        trials=len(results),
        stopped=sum(result.ended == "stopped" for result in results.values()),
        best={task: uri for task, (uri, _) in best.items()},
    )
    storage.write_bytes(storage.join(run, "results.parquet"), parquet(entries, results))
    storage.write_bytes(storage.join(run, "results.md"), markdown(summary).encode())
    figure = draw(summary)
    storage.write_bytes(storage.join(run, "figure.png"), figure.png)
    storage.write_bytes(storage.join(run, "results.html"), html_page(summary, figure.svg).encode())
    for uri, trials in best.values():
        write_best(campaign, run, uri, trials)
    return summary


def parquet(entries: Sequence[Entry], results: Mapping[str, TrialResult]) -> bytes:
    """One row per finished trial: its cell, settings, sizes, and errors on the validation and test parts."""
    rows = []
    for cell, config in entries:
        result = results.get(config.id)
        if result is None:
            continue
        extra = {
            f"validation/{target}/{name}": value
            for target, metrics in result.validation.items()
            for name, value in metrics.items()
        }
        extra |= {name: getattr(result, name) for name in ("epochs", "kept_epoch", "ended", "seconds", "parameters")}
        rows.append(
            cell._asdict()
            | {"lr": config.lr, "seed": config.seed, "criterion": criterion(result)}
            | result.content
            | extra
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def _column(values: list[Any]) -> pa.Array:
    """A column of one type: bool, int, float, or else JSON text; a setting may differ in type between trials."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, bool) for value in present):
        return pa.array(values, pa.bool_())
    if present and all(isinstance(value, int) and not isinstance(value, bool) for value in present):
        return pa.array(values, pa.int64())
    if present and all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())

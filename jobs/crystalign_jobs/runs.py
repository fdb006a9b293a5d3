"""`crystalign runs`: list the pre-training runs and campaigns under a URI, their state, and how to resume them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import yaml
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.storage import Uri
from crystalign_jobs.campaign.status import CampaignSummary, summarise_campaign
from crystalign_jobs.campaign.store import is_campaign
from crystalign_jobs.pretraining.status import CONFIG, RunSummary, summarise


class Runs(Config):
    """List the runs and campaigns under a URI: their progress, when they last wrote, and how to resume them.

    The state is read from the stored files; no cluster is contacted.

    Example: crystalign runs s3://bucket/runs
    """

    under: Positional[Uri]
    """The `--out` of the runs or campaigns, or the folder of one of them."""
    json_lines: bool = False
    """One JSON object per line instead of a table."""


def main(config: Runs) -> None:
    """Print the table.

    Raises:
        ConfigError: there is no run or campaign.
    """
    all_summaries = summaries(config.under)
    if config.json_lines:
        for run in all_summaries:
            print(json.dumps(run.model_dump(mode="json") | {"resume": run.resume_command}))
        return
    runs = [run for run in all_summaries if isinstance(run, RunSummary)]
    if runs:
        show(runs)
    campaigns = [run for run in all_summaries if isinstance(run, CampaignSummary)]
    if campaigns:
        show_campaigns(campaigns)
    for run in all_summaries:
        if run.resume_command:
            print(f"next: {run.resume_command}")


def summaries(under: str) -> list[RunSummary | CampaignSummary]:
    """All runs and campaigns in a folder, or the one that the folder itself holds; the latest first.

    Raises:
        ConfigError: there is no run or campaign.
    """
    folders = [under, *storage.list_folders(under)]
    run_folders = [folder for folder in folders if storage.exists(storage.join(folder, CONFIG))]
    if not run_folders:
        raise ConfigError(
            f"there is no run under {under}; give the --out of `crystalign pretrain` or `crystalign tune`"
        )
    results: list[RunSummary | CampaignSummary] = []
    for run_folder in run_folders:
        settings = _settings(run_folder)
        results.append(summarise_campaign(run_folder, settings) if is_campaign(settings) else summarise(run_folder))
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(results, key=lambda run: run.written or oldest, reverse=True)


def _settings(run: str) -> Any:
    """Content of the settings file of a run; None if it is not YAML."""
    try:
        return yaml.safe_load(storage.read_bytes(storage.join(run, CONFIG)))
    except yaml.YAMLError:
        return None


def show(runs: list[RunSummary]) -> None:
    """Print a table with a row per run, and the messages of failed runs below."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in ("run", "state", "step", "loss", "R@1", "checkpoint", "last written"):
        table.add_column(column, justify="left" if column in {"run", "state"} else "right", no_wrap=True)
    for run in runs:
        step = "–" if run.step is None else f"{run.step:,}" + (f"/{run.total:,}" if run.total else "")
        loss = "–" if run.loss is None else f"{run.loss:.3f}"
        retrieval = "–" if run.retrieval is None else f"{100 * run.retrieval:.1f} %"
        checkpoint = "–" if run.checkpoint is None else f"step {run.checkpoint:,}"
        name = run.uri.rpartition("/")[2]
        table.add_row(name, run.state, step, loss, retrieval, checkpoint, age(run.written))
    _table(table)
    for run in runs:
        if run.message:
            print(f"{run.uri.rpartition('/')[2]}: {run.message}")


def show_campaigns(campaigns: list[CampaignSummary]) -> None:
    """Print a table with a row per campaign."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in ("campaign", "state", "trials", "failed", "last written"):
        table.add_column(column, justify="left" if column in {"campaign", "state"} else "right", no_wrap=True)
    for run in campaigns:
        state = "running" if run.running else "finished" if run.resume_command is None else "stopped"
        trials = f"{run.finished:,}" + (f"/{run.known:,}" if run.known is not None else "")
        table.add_row(run.uri.rstrip("/").rpartition("/")[2], state, trials, f"{run.failed:,}", age(run.written))
    _table(table)


def _table(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 140).print(table)


def age(when: datetime | None) -> str:
    """The time since `when`, in the largest unit that fits."""
    if when is None:
        return "–"
    seconds = max(0.0, (datetime.now(UTC) - when).total_seconds())
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"

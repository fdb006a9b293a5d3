"""What a campaign found: the table, its files, and the best model of each task.

The learning rate of a row is the one whose mean over seeds is best on the *validation* part; the numbers are those of
the *test* part. Two tests stand beside a gain: over seeds (would the same data, split alike, say so again?), and over
the formulas of the test part (would other materials?).
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.finetuning.comparison import PairedDifference, Spread, paired_difference, spread
from crystalign.finetuning.metrics import log_losses
from crystalign.finetuning.trial_config import TrialConfig, TrialResult
from crystalign_jobs.campaign import Campaign
from crystalign_jobs.campaign_run import trial_uri
from crystalign_jobs.campaign_trials import Cell, Entry
from crystalign_jobs.campaign_worker import criterion

if TYPE_CHECKING:
    from crystalign.properties import PropertySpec

Array = NDArray[np.float64]
MAIN = {"regression": "mae", "classification": "log_loss"}
"""Kind of task → the error that rows are compared by; smaller is better."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a cell at its best setting, for one target."""

    cell: Cell
    """Which."""
    target: str
    """Property column."""
    kind: str
    """Of the task."""
    config: TrialConfig
    """The chosen setting, with any of the seeds."""
    results: Mapping[int, TrialResult]
    """Seed → trial of the chosen setting; of a constant its one."""
    seeds: int
    """How many there should be."""
    gain: PairedDifference | None = None
    """Error − that of the baseline, by seed; None without a baseline."""
    gain_formulas: PairedDifference | None = None
    """The same by formula of the test part, each the mean over its materials and the seeds."""
    shared: int | None = None
    """Test materials that the gain is of, where the baseline tested others; None where both tested the same."""

    def over_seeds(self, metric: str) -> Spread | None:
        """Mean and standard deviation of a metric of the test part; None where it is not defined."""
        values = [result.metrics.get(self.target, {}).get(metric) for result in self.results.values()]
        known = [value for value in values if value is not None]
        return spread(known) if known else None

    @property
    def error(self) -> Spread | None:
        """Of the test part, what rows are compared by."""
        return self.over_seeds(MAIN[self.kind])

    @property
    def coverage(self) -> float | None:
        """Share of the test labels within the 90 % intervals, the mean over seeds."""
        found = [r.coverage.get(self.target, {}).get("0.9") for r in self.results.values()]
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class CampaignReport:
    """Everything that was found."""

    campaign: Campaign
    """What was asked."""
    specs: Mapping[str, PropertySpec]
    """Property column → what it is."""
    rows: Sequence[Row]
    """In the order of the campaign."""
    failures: Sequence[tuple[Entry, str]]
    """Trials without a result, and why."""
    trials: int
    """How many have one."""
    stopped: int
    """Of them ended early because another learning rate did better."""
    best: Mapping[str, str]
    """Task → URI of its best model."""

    def show(self) -> None:
        """Print the tables."""
        from rich.console import Console

        from crystalign_jobs.campaign_tables import terminal_tables

        console = Console(width=max(Console().width, 190))
        for table in terminal_tables(self):
            console.print(table)
        if self.failures:
            console.print(f"{len(self.failures)} trials failed; results.md says why", markup=False)


def report(
    campaign: Campaign,
    run: str,
    entries: Sequence[Entry],
    results: Mapping[str, TrialResult],
    failures: Mapping[str, str],
) -> CampaignReport:
    """Compare, choose, and write every file.

    Args:
        campaign: what was asked.
        run: URI of its folder.
        entries: all trials.
        results: of those that finished, by id.
        failures: of the others, why, by id.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.campaign_best import best_of, write_best
    from crystalign_jobs.campaign_figure import draw
    from crystalign_jobs.campaign_tables import html_page, markdown

    chosen = choose(entries, results, len(campaign.seeds))
    best = best_of(campaign, run, chosen)
    rows = _compared(campaign, run, chosen)
    specs = {spec.column: spec for spec in Dataset.open(campaign.data).manifest.properties}
    found = CampaignReport(
        campaign=campaign,
        specs=specs,
        rows=rows,
        failures=[(entry, failures[entry.config.id]) for entry in entries if entry.config.id in failures],
        trials=len(results),
        stopped=sum(result.ended == "stopped" for result in results.values()),
        best={task: place for task, (place, _) in best.items()},
    )
    storage.write_bytes(storage.join(run, "results.parquet"), parquet(entries, results))
    storage.write_bytes(storage.join(run, "results.md"), markdown(found).encode())
    drawn = draw(found)
    storage.write_bytes(storage.join(run, "figure.png"), drawn.png)
    storage.write_bytes(storage.join(run, "results.html"), html_page(found, drawn.svg).encode())
    for place, trials in best.values():
        write_best(campaign, run, place, trials)
    return found


# --- choosing ---------------------------------------------------------------------------------------------------------

Chosen = dict[Cell, dict[int, TrialResult]]


def choose(entries: Sequence[Entry], results: Mapping[str, TrialResult], seeds: int) -> Chosen:
    """Of each cell the setting that the validation part prefers, in the order of the entries.

    A setting of which seeds failed is taken only where no other has more of them.

    Args:
        entries: all trials.
        results: by id, of those that finished.
        seeds: how many each setting should have.
    """
    settings: dict[Cell, dict[str, dict[int, TrialResult]]] = defaultdict(lambda: defaultdict(dict))
    for cell, config in entries:
        if config.id in results:
            settings[cell][config.model_copy(update={"seed": 0}).id][config.seed] = results[config.id]
    found: Chosen = {}
    for cell in dict.fromkeys(entry.cell for entry in entries):
        ways = settings.get(cell)
        if ways:
            found[cell] = min(
                ways.values(),
                key=lambda trials: (-min(len(trials), seeds), np.mean([criterion(r) for r in trials.values()])),
            )
    return found


def _compared(campaign: Campaign, run: str, chosen: Chosen) -> list[Row]:
    rows: list[Row] = []
    known: dict[tuple[str, str], Tested] = {}

    def errors(result: TrialResult, target: str) -> Tested:
        if (result.id, target) not in known:
            known[result.id, target] = tested_by(run, result, target)
        return known[result.id, target]

    for cell, trials in chosen.items():
        first = next(iter(trials.values()))
        expected = 1 if first.config.constant else len(campaign.seeds)
        kind = first.config.task.kind
        baseline = _baseline(campaign, cell, chosen)
        pairs = [] if baseline is None else _pairs(trials, baseline)
        for target in first.metrics:
            told = [(errors(ours, target), errors(theirs, target)) for ours, theirs in pairs]
            rows.append(Row(cell, target, kind, first.config, trials, expected, *_gains(told)))
    order = {name: place for place, name in enumerate(campaign.tasks)}
    names = {name: place for place, name in enumerate(campaign.initialisations)}
    return sorted(
        rows,
        key=lambda row: (
            order.get(row.cell.task, 0),
            row.target,
            row.cell.size,
            names.get(row.cell.initialisation, 0),
        ),
    )


def _baseline(campaign: Campaign, cell: Cell, chosen: Chosen) -> dict[int, TrialResult] | None:
    """The trials to compare with: the baseline that reads the same in the same way, or else the only one."""
    if cell.initialisation == campaign.baseline:
        return None
    same = [
        other
        for other in chosen
        if (other.task, other.initialisation, other.n_labels) == (cell.task, campaign.baseline, cell.n_labels)
    ]
    exact = [other for other in same if (other.modalities, other.fusion) == (cell.modalities, cell.fusion)]
    if exact or len(same) == 1:
        return chosen[(exact or same)[0]]
    return None


def _pairs(trials: dict[int, TrialResult], baseline: dict[int, TrialResult]) -> list[tuple[TrialResult, TrialResult]]:
    """Trials of the same seed; a constant stands beside each seed of the other."""
    if len({result.config.constant for result in (*trials.values(), *baseline.values())}) > 1:
        if next(iter(trials.values())).config.constant:
            trials = dict.fromkeys(baseline, next(iter(trials.values())))
        else:
            baseline = dict.fromkeys(trials, next(iter(baseline.values())))
    return [(trials[seed], baseline[seed]) for seed in sorted(set(trials) & set(baseline))]


class Tested(NamedTuple):
    """Of one trial on the n test materials that have the label."""

    ids: NDArray[np.str_]
    """(n,) sorted."""
    formulas: NDArray[np.str_]
    """(n,)."""
    errors: NDArray[np.float64]
    """(n,) absolute errors, of a classification log losses."""


def tested_by(run: str, result: TrialResult, target: str) -> Tested:
    """What a trial wrote of its test part."""
    place = storage.join(trial_uri(run, result.config), "predictions.parquet")
    with storage.open_input(place) as source:
        table = pq.read_table(source, filters=[("part", "=", "test")]).sort_by("id")
    values = np.asarray(table.column(target).to_numpy(), float)
    predicted = np.asarray(table.column(f"{target}_predicted").to_numpy(), float)
    classification = result.config.task.kind == "classification"
    error = log_losses(values > 0.5, predicted) if classification else np.abs(values - predicted)
    known = np.isfinite(values)
    ids, formulas = (np.array(table.column(name).to_pylist(), np.str_)[known] for name in ("id", "formula"))
    return Tested(ids, formulas, error[known])


def _gains(
    told: Sequence[tuple[Tested, Tested]],
) -> tuple[PairedDifference | None, PairedDifference | None, int | None]:
    """Ours − theirs over the materials that both tested: over seeds, over formulas, and how many if not all."""
    ours, theirs, formulas, all_tested = list[Array](), list[Array](), list[NDArray[np.str_]](), True
    for mine, other in told:
        _, a, b = np.intersect1d(mine.ids, other.ids, assume_unique=True, return_indices=True)
        ours.append(mine.errors[a])
        theirs.append(other.errors[b])
        formulas.append(mine.formulas[a])
        all_tested = all_tested and len(a) == len(mine.ids) == len(other.ids)
    if not ours or not len(ours[0]):
        return None, None, None
    seeds = paired_difference([e.mean() for e in ours], [e.mean() for e in theirs], test="t")
    _, place, counts = np.unique(np.concatenate(formulas), return_inverse=True, return_counts=True)
    means = [np.bincount(place, weights=np.concatenate(errors)) / counts for errors in (ours, theirs)]
    return seeds, paired_difference(*means), None if all_tested else len(ours[0])


# --- files ------------------------------------------------------------------------------------------------------------


def parquet(entries: Sequence[Entry], results: Mapping[str, TrialResult]) -> bytes:
    """One row per finished trial: its place in the table, settings, sizes, and errors on both parts."""
    rows = []
    for cell, config in entries:
        result = results.get(config.id)
        if result is None:
            continue
        more = {f"validation/{target}/{n}": v for target, found in result.validation.items() for n, v in found.items()}
        more |= {name: getattr(result, name) for name in ("epochs", "kept_epoch", "ended", "seconds", "parameters")}
        rows.append(
            cell._asdict()
            | {"lr": config.lr, "seed": config.seed, "criterion": criterion(result)}
            | result.content
            | more
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def _column(values: list[Any]) -> pa.Array:
    """Numbers as numbers, truth as truth, and all else as text: settings of different trials may differ in type."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_())
    if known and all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.int64())
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())

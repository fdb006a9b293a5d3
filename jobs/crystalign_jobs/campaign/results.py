"""The results of a campaign: the best setting of each cell, and its comparison with the baseline.

The learning rate of a row is the one whose mean over seeds is best on the *validation* part; the numbers are those of
the *test* part. Each gain has two significance tests: over seeds (does it reproduce with another seed?), and over the
formulas of the test part (does it hold for other materials?).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.finetuning.results.comparison import PairedDifference, Spread, paired_difference, spread
from crystalign.finetuning.results.metrics import log_losses
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign.properties import PropertySpec
from crystalign_jobs.campaign.config import Campaign
from crystalign_jobs.campaign.criterion import criterion
from crystalign_jobs.campaign.grid import Cell, Entry
from crystalign_jobs.campaign.store import trial_uri

Array = NDArray[np.float64]
MAIN = {"regression": "mae", "classification": "log_loss"}
"""Kind of task → the error that rows are compared by; smaller is better."""


@dataclass(frozen=True)
class Row:
    """A row of the table: a cell at its best setting, for one target."""

    cell: Cell
    """Its cell."""
    target: str
    """Property column."""
    kind: str
    """Kind of the task: `regression` or `classification`."""
    config: TrialConfig
    """The selected setting, with any of the seeds."""
    results: Mapping[int, TrialResult]
    """Seed → trial of the selected setting; a constant has one trial."""
    seeds: int
    """How many seeds the campaign asks for."""
    gain: PairedDifference | None = None
    """Error minus the error of the baseline, paired by seed; None without a baseline."""
    gain_formulas: PairedDifference | None = None
    """The same, paired by formula of the test part; the error of a formula is the mean over its materials and seeds."""
    shared: int | None = None
    """How many test materials the gain is computed on, if row and baseline were tested on different ones; else None."""

    def over_seeds(self, metric: str) -> Spread | None:
        """Mean and standard deviation over seeds of a metric on the test part; None if it is not defined."""
        values = [result.metrics.get(self.target, {}).get(metric) for result in self.results.values()]
        defined = [value for value in values if value is not None]
        return spread(defined) if defined else None

    @property
    def error(self) -> Spread | None:
        """The test error by which rows are compared."""
        return self.over_seeds(MAIN[self.kind])

    @property
    def coverage(self) -> float | None:
        """Fraction of the test labels within the 90 % intervals, averaged over seeds."""
        shares = [r.coverage.get(self.target, {}).get("0.9") for r in self.results.values()]
        defined = [value for value in shares if value is not None]
        return float(np.mean(defined)) if defined else None


@dataclass(frozen=True)
class CampaignReport:
    """Everything that the tables, the figure and the page are made from."""

    campaign: Campaign
    """Its settings."""
    specs: Mapping[str, PropertySpec]
    """Property column → what it is."""
    rows: Sequence[Row]
    """In the order of the campaign."""
    failures: Sequence[tuple[Entry, str]]
    """Trials without a result, and why."""
    trials: int
    """How many trials have a result."""
    stopped: int
    """How many of these ended early because another learning rate did better."""
    best: Mapping[str, str]
    """Task → URI of its best model."""


# --- choosing ---------------------------------------------------------------------------------------------------------

Chosen = dict[Cell, dict[int, TrialResult]]


def choose(entries: Sequence[Entry], results: Mapping[str, TrialResult], seeds: int) -> Chosen:
    """For each cell, the setting with the lowest validation error, in the order of the entries.

    A setting with failed seeds is selected only if no other setting has more finished seeds.

    Args:
        entries: all trials.
        results: id → result of each finished trial.
        seeds: how many each setting should have.
    """
    settings: dict[Cell, dict[str, dict[int, TrialResult]]] = defaultdict(lambda: defaultdict(dict))
    for cell, config in entries:
        if config.id in results:
            settings[cell][config.model_copy(update={"seed": 0}).id][config.seed] = results[config.id]
    chosen: Chosen = {}
    for cell in dict.fromkeys(entry.cell for entry in entries):
        candidates = settings.get(cell)
        if candidates:
            chosen[cell] = min(
                candidates.values(),
                key=lambda trials: (-min(len(trials), seeds), np.mean([criterion(r) for r in trials.values()])),
            )
    return chosen


def compared(campaign: Campaign, run: str, chosen: Chosen) -> list[Row]:
    """The rows of the table, each compared with the baseline of its cell."""
    rows: list[Row] = []
    tested: dict[tuple[str, str], Tested] = {}

    def errors(result: TrialResult, target: str) -> Tested:
        if (result.id, target) not in tested:
            tested[result.id, target] = tested_by(run, result, target)
        return tested[result.id, target]

    for cell, trials in chosen.items():
        first = next(iter(trials.values()))
        expected = 1 if first.config.constant else len(campaign.seeds)
        kind = first.config.task.kind
        baseline = _baseline(campaign, cell, chosen)
        pairs = [] if baseline is None else _pairs(trials, baseline)
        for target in first.metrics:
            pairs_of_errors = [(errors(own, target), errors(reference, target)) for own, reference in pairs]
            rows.append(Row(cell, target, kind, first.config, trials, expected, *_gains(pairs_of_errors)))
    task_order = {name: position for position, name in enumerate(campaign.tasks)}
    initialisation_order = {name: position for position, name in enumerate(campaign.initialisations)}
    return sorted(
        rows,
        key=lambda row: (
            task_order.get(row.cell.task, 0),
            row.target,
            row.cell.size,
            initialisation_order.get(row.cell.initialisation, 0),
        ),
    )


def _baseline(campaign: Campaign, cell: Cell, chosen: Chosen) -> dict[int, TrialResult] | None:
    """The trials to compare with: the baseline with the same modalities and fusion, or else the only baseline."""
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
    """Pairs of trials with the same seed; a constant is paired with each seed of the other."""
    if len({result.config.constant for result in (*trials.values(), *baseline.values())}) > 1:
        if next(iter(trials.values())).config.constant:
            trials = dict.fromkeys(baseline, next(iter(trials.values())))
        else:
            baseline = dict.fromkeys(trials, next(iter(baseline.values())))
    return [(trials[seed], baseline[seed]) for seed in sorted(set(trials) & set(baseline))]


class Tested(NamedTuple):
    """Errors of one trial on the n test materials that have the label."""

    ids: NDArray[np.str_]
    """(n,) ids of the materials, sorted."""
    formulas: NDArray[np.str_]
    """(n,) their formulas."""
    errors: NDArray[np.float64]
    """(n,) absolute errors, or log losses for a classification."""


def tested_by(run: str, result: TrialResult, target: str) -> Tested:
    """Errors of a trial on the test part, from its stored predictions."""
    uri = storage.join(trial_uri(run, result.config), "predictions.parquet")
    with storage.open_input(uri) as source:
        table = pq.read_table(source, filters=[("part", "=", "test")]).sort_by("id")
    values = np.asarray(table.column(target).to_numpy(), float)
    predicted = np.asarray(table.column(f"{target}_predicted").to_numpy(), float)
    classification = result.config.task.kind == "classification"
    error = log_losses(values > 0.5, predicted) if classification else np.abs(values - predicted)
    labelled = np.isfinite(values)
    ids, formulas = (np.array(table.column(name).to_pylist(), np.str_)[labelled] for name in ("id", "formula"))
    return Tested(ids, formulas, error[labelled])


def _gains(
    pairs: Sequence[tuple[Tested, Tested]],
) -> tuple[PairedDifference | None, PairedDifference | None, int | None]:
    """Row minus baseline on the materials that both tested: over seeds, over formulas, and how many if not all."""
    own_errors, reference_errors, formulas, all_tested = list[Array](), list[Array](), list[NDArray[np.str_]](), True
    for own, reference in pairs:
        _, a, b = np.intersect1d(own.ids, reference.ids, assume_unique=True, return_indices=True)
        own_errors.append(own.errors[a])
        reference_errors.append(reference.errors[b])
        formulas.append(own.formulas[a])
        all_tested = all_tested and len(a) == len(own.ids) == len(reference.ids)
    if not own_errors or not len(own_errors[0]):
        return None, None, None
    seeds = paired_difference([e.mean() for e in own_errors], [e.mean() for e in reference_errors], test="t")
    _, group, counts = np.unique(np.concatenate(formulas), return_inverse=True, return_counts=True)
    means = [np.bincount(group, weights=np.concatenate(errors)) / counts for errors in (own_errors, reference_errors)]
    return seeds, paired_difference(*means), None if all_tested else len(own_errors[0])

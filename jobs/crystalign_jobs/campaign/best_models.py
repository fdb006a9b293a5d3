"""The best model of each task of a campaign, as a directory that `crystalign predict` and the service load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crystalign import storage
from crystalign.finetuning.trials.config import TrialResult
from crystalign_jobs.campaign.criterion import criterion
from crystalign_jobs.campaign.grid import Cell, safe_name
from crystalign_jobs.campaign.store import trial_uri

if TYPE_CHECKING:
    from crystalign.finetuning.trials.ensemble import Ensemble
    from crystalign_jobs.campaign.config import Campaign

Array = NDArray[np.float64]


def best_of(
    campaign: Campaign, run: str, chosen: Mapping[Cell, Mapping[int, TrialResult]]
) -> dict[str, tuple[str, Mapping[int, TrialResult]]]:
    """For each task, the row with the lowest validation error among those with the most labels.

    Args:
        campaign: its settings.
        run: URI of its folder.
        chosen: row of the table → seed → trial of the row's best setting.

    Returns:
        Task → URI of its model directory, and the trials of the row by seed.
    """
    best = {}
    for task in campaign.tasks:
        trained = [
            (cell, trials)
            for cell, trials in chosen.items()
            if cell.task == task and not next(iter(trials.values())).config.constant
        ]
        if not trained:
            continue
        most = max(cell.size for cell, _ in trained)
        _, trials = min(
            (pair for pair in trained if pair[0].size == most),
            key=lambda pair: float(np.mean([criterion(result) for result in pair[1].values()])),
        )
        best[task] = (storage.join(run, "best", safe_name(task)), trials)
    return best


def write_best(campaign: Campaign, run: str, target: str, trials: Mapping[int, TrialResult]) -> None:
    """Write an ensemble of all seeds of a setting, or the seed with the lowest validation error."""
    if campaign.ensemble and len(trials) > 1:
        _write_ensemble(run, trials, target)
    else:
        best = min(trials.values(), key=criterion)
        _copy_model(storage.join(trial_uri(run, best.config), "model"), target, best)


def _copy_model(source: str, target: str, result: TrialResult) -> None:
    """Copy the files one by one, `config.json` last: a directory without it cannot be loaded."""
    names = [entry.path.removeprefix("model/") for entry in result.files if entry.path.startswith("model/")]
    storage.delete(target)
    for name in sorted(names, key=lambda name: name == "config.json"):
        parts = name.split("/")
        storage.write_bytes(storage.join(target, *parts), storage.read_bytes(storage.join(source, *parts)))


def _write_ensemble(run: str, trials: Mapping[int, TrialResult], target: str) -> None:
    """Write the ensemble of all seeds, with intervals calibrated on the predictions of the whole ensemble."""
    from crystalign.finetuning.trials.ensemble import Ensemble

    folders = [trial_uri(run, result.config) for result in trials.values()]
    ensemble = Ensemble.from_trials(folders)
    storage.delete(target)
    storage.write_bytes(
        storage.join(target, "README.md"), _card(ensemble, trials, *ensemble.member_predictions(folders, "test"))
    )
    ensemble.save_pretrained(target)


def _card(ensemble: Ensemble, trials: Mapping[int, TrialResult], scaled: Array, values: Array) -> bytes:
    """The README: the members, and the error and the coverage of the intervals on the test part."""
    from crystalign.finetuning.prediction.intervals import coverage, interval

    config = ensemble.members[0].config
    lines = [f"# {len(ensemble.members)} seeds of one network", ""]
    lines += [f"- **Predicts**: {', '.join(spec.label for spec in config.targets)}"]
    lines += [f"- **Members**: trials {', '.join(result.id for result in trials.values())}, each in a folder here"]
    if config.task.kind == "regression":
        mean, spread = np.mean(scaled, axis=0), np.std(scaled, axis=0, ddof=1)
        errors = np.nanmean(np.abs(config.scaler.restored(mean) - values), axis=0)
        bounds = [config.scaler.restored(bound) for bound in interval(ensemble.calibration, mean, spread)]
        coverages = coverage(bounds[0], bounds[1], values)
        for spec, error, covered in zip(config.targets, errors, coverages, strict=True):
            lines.append(
                f"- **{spec.label}**: mean absolute error {error:.4g}, {100 * covered:.0f} % within the 90 % intervals "
                "(test part)"
            )
    return "\n".join([*lines, ""]).encode()

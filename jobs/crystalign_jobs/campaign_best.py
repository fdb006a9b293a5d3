"""The best model of each task of a campaign, as a directory that `crystalign predict` and the service load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crystalign import storage
from crystalign.finetuning.trial_config import TrialResult
from crystalign_jobs.campaign_run import trial_uri
from crystalign_jobs.campaign_trials import Cell, safe_name
from crystalign_jobs.campaign_worker import criterion

if TYPE_CHECKING:
    from crystalign.finetuning.ensemble import Ensemble
    from crystalign_jobs.campaign import Campaign

Array = NDArray[np.float64]


def best_of(
    campaign: Campaign, run: str, chosen: Mapping[Cell, Mapping[int, TrialResult]]
) -> dict[str, tuple[str, Mapping[int, TrialResult]]]:
    """Of each task, with the most labels there are: the row that the validation part prefers.

    Args:
        campaign: what was asked.
        run: URI of its folder.
        chosen: row of the table → seed → trial of its best setting.

    Returns:
        Task → URI of the model's directory, and the trials.
    """
    found = {}
    for task in campaign.tasks:
        learnt = [
            (cell, trials)
            for cell, trials in chosen.items()
            if cell.task == task and not next(iter(trials.values())).config.constant
        ]
        if not learnt:
            continue
        most = max(cell.size for cell, _ in learnt)
        _, trials = min(
            (pair for pair in learnt if pair[0].size == most),
            key=lambda pair: float(np.mean([criterion(result) for result in pair[1].values()])),
        )
        found[task] = (storage.join(run, "best", safe_name(task)), trials)
    return found


def write_best(campaign: Campaign, run: str, place: str, trials: Mapping[int, TrialResult]) -> None:
    """All seeds of a setting, or the one that the validation part prefers."""
    if campaign.ensemble and len(trials) > 1:
        _write_ensemble(run, trials, place)
    else:
        best = min(trials.values(), key=criterion)
        _copy_model(storage.join(trial_uri(run, best.config), "model"), place, best)


def _copy_model(source: str, target: str, result: TrialResult) -> None:
    """File by file, `config.json` last: without it the rest is no model."""
    names = [entry.path.removeprefix("model/") for entry in result.files if entry.path.startswith("model/")]
    storage.delete(target)
    for name in sorted(names, key=lambda name: name == "config.json"):
        path = name.split("/")
        storage.write_bytes(storage.join(target, *path), storage.read_bytes(storage.join(source, *path)))


def _write_ensemble(run: str, trials: Mapping[int, TrialResult], target: str) -> None:
    """All seeds of a setting, with intervals from what they say together of the calibration part."""
    from crystalign.finetuning.ensemble import Ensemble

    folders = [trial_uri(run, result.config) for result in trials.values()]
    together = Ensemble.from_trials(folders)
    storage.delete(target)
    storage.write_bytes(storage.join(target, "README.md"), _card(together, trials, *together.told(folders, "test")))
    together.save_pretrained(target)


def _card(together: Ensemble, trials: Mapping[int, TrialResult], scaled: Array, values: Array) -> bytes:
    """For people: what it is, and its error and coverage on the test part."""
    from crystalign.finetuning.intervals import coverage, interval

    config = together.members[0].config
    lines = [f"# {len(together.members)} seeds of one network", ""]
    lines += [f"- **Predicts**: {', '.join(spec.label for spec in config.targets)}"]
    lines += [f"- **Members**: trials {', '.join(result.id for result in trials.values())}, each in a folder here"]
    if config.task.kind == "regression":
        mean, spread = np.mean(scaled, axis=0), np.std(scaled, axis=0, ddof=1)
        errors = np.nanmean(np.abs(config.scaler.restored(mean) - values), axis=0)
        ends = [config.scaler.restored(end) for end in interval(together.calibration, mean, spread)]
        shares = coverage(ends[0], ends[1], values)
        for spec, error, share in zip(config.targets, errors, shares, strict=True):
            lines.append(
                f"- **{spec.label}**: mean absolute error {error:.4g}, {100 * share:.0f} % within the 90 % intervals "
                "(test part)"
            )
    return "\n".join([*lines, ""]).encode()

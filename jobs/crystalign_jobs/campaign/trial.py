"""One trial in a Ray Tune process. A process runs many trials in turn and keeps the features between them."""

from __future__ import annotations

import time
from typing import Any

from crystalign import storage
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign_jobs.campaign.criterion import criterion
from crystalign_jobs.campaign.store import FAILURE, STOP, reason, write_failure
from crystalign_jobs.campaign.trial_workers import fitted_together
from crystalign_jobs.campaign.work import Work, feature_store

REPORT_SECONDS = 2.0
"""Seconds between two reports to Tune of a trial that is not stopped early."""


def run_one(config: dict[str, Any], work: Work) -> None:
    """Fit the trial in `config["trial"]`, a `TrialConfig` as JSON. An exception is stored as a failure, not raised.

    Ray restarts a process that dies, and the trial continues from its last state.
    """
    from ray import tune

    trial = TrialConfig.model_validate_json(config["trial"])
    folder = storage.join(work.trials, trial.id)
    try:
        alone = work.workers == 1 or trial.constant
        result = _fitted(trial, folder, work) if alone else fitted_together(trial, folder, work)
    except Exception as error:  # noqa: BLE001 (the report lists it, and the other trials continue)
        write_failure(folder, trial, error)
        tune.report({"failed": reason(error)})
        return
    storage.delete(storage.join(folder, FAILURE))
    tune.report({"value": criterion(result)})


def _fitted(trial: TrialConfig, folder: str, work: Work) -> TrialResult:
    import torch
    from ray import tune

    from crystalign.finetuning.trials.trial import run_trial

    torch.set_num_threads(work.cpus)
    stop, reported = storage.join(folder, STOP), time.monotonic()

    def on_epoch(metrics: dict[str, float]) -> bool:
        nonlocal reported
        if work.watch is not None:
            work.watch(trial, metrics)
        if not work.competing and time.monotonic() - reported < REPORT_SECONDS:
            return False
        reported = time.monotonic()
        tune.report({name: metrics[name] for name in ("epoch", "kept_score", "seconds")})
        return work.competing and storage.exists(stop)  # after `report` the scheduler has seen this epoch

    store = None if trial.constant else feature_store(trial.data, work.processes)
    return run_trial(trial, folder, on_epoch, store=store, device="cuda" if work.gpu else "cpu")

"""One trial inside a Ray Tune process, which runs many, one after the other, and keeps the features between them."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystalign import storage
from crystalign.finetuning import fit_state
from crystalign.finetuning.trial_config import TrialConfig, TrialResult

if TYPE_CHECKING:
    from crystalign.finetuning.features import FeatureStore

FAILURE, STOP = "failure.json", f"{fit_state.FOLDER}/{fit_state.STOP}"
"""In a trial's folder: why it failed; and, with the state of its fit, whose fate it shares, that another learning rate
does better, so that it ends after this epoch."""
REPORT_SECONDS = 2.0
"""Between two reports of a trial that no other competes with."""

Watch = Callable[[TrialConfig, dict[str, float]], None]
"""Called in the trial's process after each epoch."""


@dataclass(frozen=True)
class Work:
    """What all trials of a campaign share."""

    trials: str
    """URI of the folder of trials."""
    workers: int
    """Processes of each."""
    cpus: int
    """Threads of each process."""
    gpu: bool
    """Whether it computes on a GPU."""
    processes: int
    """Processes at the same time on one machine, among which its memory is divided."""
    competing: bool
    """Whether trials may be stopped early."""
    max_failures: int
    """How often processes that died are started again, of a trial that has several."""
    watch: Watch | None
    """Called after each epoch."""


def run_one(config: dict[str, Any], work: Work) -> None:
    """Fit the trial in `config["trial"]`, a `TrialConfig` as JSON; what it raises is written down, not raised.

    A process that dies is started again by Ray, and the trial goes on from its last state.
    """
    from ray import tune

    from crystalign_jobs.campaign_train import fitted_together

    trial = TrialConfig.model_validate_json(config["trial"])
    folder = storage.join(work.trials, trial.id)
    try:
        alone = work.workers == 1 or trial.constant
        result = _fitted(trial, folder, work) if alone else fitted_together(trial, folder, work)
    except Exception as error:  # noqa: BLE001 (it stands in the table, and the other trials go on)
        write_failure(folder, trial, error)
        tune.report({"failed": reason(error)})
        return
    storage.delete(storage.join(folder, FAILURE))
    tune.report({"value": criterion(result)})


def _fitted(trial: TrialConfig, folder: str, work: Work) -> TrialResult:
    import torch
    from ray import tune

    from crystalign.finetuning.trial import run_trial

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
        return work.competing and storage.exists(stop)  # the report returned: this epoch has been judged

    store = None if trial.constant else feature_store(trial.data, work.processes)
    return run_trial(trial, folder, on_epoch, store=store, device="cuda" if work.gpu else "cpu")


_stores: dict[str, FeatureStore] = {}


def feature_store(uri: str, processes: int) -> FeatureStore:
    """The features of a dataset, kept from trial to trial, in this process' share of half of the memory."""
    from crystalign.finetuning.features import LIMIT, FeatureStore
    from crystalign.shards.dataset import Dataset

    dataset = Dataset.open(uri)
    key = dataset.manifest.sha256
    if key not in _stores:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        _stores.clear()
        _stores[key] = FeatureStore(dataset, min(LIMIT, memory // (2 * processes)))
    return _stores[key]


def criterion(result: TrialResult) -> float:
    """What settings are chosen by: on the validation part, the mean over targets of the error in units of the mean
    predictor's, of a classification of the log loss.
    """
    name = "scaled_mae" if result.config.task.kind == "regression" else "log_loss"
    values = [found.get(name, found.get("mae", float("inf"))) for found in result.validation.values()]
    return sum(values) / len(values) if values else float("inf")


# --- what went wrong --------------------------------------------------------------------------------------------------


def reason(error: BaseException) -> str:
    """One line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def write_failure(folder: str, trial: TrialConfig, error: BaseException | str) -> None:
    """Why a trial failed; the next run of the campaign tries it again."""
    told = error if isinstance(error, str) else reason(error)
    trace = "" if isinstance(error, str) else "".join(traceback.format_exception(error))
    content = {"id": trial.id, "reason": told, "traceback": trace}
    storage.write_bytes(storage.join(folder, FAILURE), (json.dumps(content, indent=2) + "\n").encode())


def read_failure(folder: str) -> str | None:
    """Why a trial failed; None if it did not."""
    place = storage.join(folder, FAILURE)
    return str(json.loads(storage.read_bytes(place))["reason"]) if storage.exists(place) else None

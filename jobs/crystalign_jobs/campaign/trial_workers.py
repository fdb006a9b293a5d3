"""One trial on several processes: Ray Train inside a trial of Ray Tune. The process of Ray Tune only waits."""

from __future__ import annotations

import tempfile
from typing import Any

from crystalign import storage
from crystalign.errors import Error
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign_jobs.campaign.store import STOP
from crystalign_jobs.campaign.work import Work, feature_store
from crystalign_ray.errors import last_line, raised_by_a_worker

REPORT_EPOCHS = 10
"""Epochs between two reports of a trial that is not stopped early; each report is a barrier of all ranks."""
TIMEOUT_SECONDS = 900
"""How long ranks wait for each other."""
START_ATTEMPTS = 3
"""How often workers that fail to start are started again."""


def fitted_together(trial: TrialConfig, folder: str, work: Work) -> TrialResult:
    """Fit a trial on `work.workers` processes, and read its result.

    Raises:
        Error: a worker raised an error, or died too often.
    """
    from crystalign.finetuning.trials.trial import finished

    for attempt in range(work.max_failures + 1):
        try:
            _fit(trial, folder, work)
        except Exception as error:
            raised = raised_by_a_worker(error)
            if raised is not None:
                raise raised from error
            if attempt == work.max_failures:
                raise Error(last_line(error)) from error
        else:
            break
    result = finished(trial, folder)
    assert result is not None, f"the workers wrote no result to {folder}"
    return result


def _fit(trial: TrialConfig, folder: str, work: Work) -> None:
    """Start the workers, once, and wait for their end."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    with tempfile.TemporaryDirectory(prefix="crystalign-trial-") as records:  # Ray's own records, which are not used
        TorchTrainer(
            _fit_rank,
            train_loop_config={"trial": trial.model_dump_json(), "folder": folder, "work": work},
            torch_config=TorchConfig(backend="nccl" if work.gpu else "gloo", timeout_s=TIMEOUT_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=work.workers, use_gpu=work.gpu, resources_per_worker={"CPU": float(work.cpus)}
            ),
            run_config=RunConfig(
                name=trial.id,
                storage_path=records,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=START_ATTEMPTS),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()


def _fit_rank(job: dict[str, Any]) -> None:
    """One rank. All ranks call `ray.train.report` equally often, as Ray Train requires."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from crystalign.finetuning.trials.trial import run_trial

    trial, folder, work = TrialConfig.model_validate_json(job["trial"]), job["folder"], job["work"]
    torch.set_num_threads(work.cpus)
    first = ray.train.get_context().get_world_rank() == 0

    def on_epoch(metrics: dict[str, float]) -> bool:
        if work.watch is not None and first:
            work.watch(trial, metrics)
        if work.competing or int(metrics["epoch"]) % REPORT_EPOCHS == 0:
            ray.train.report({name: metrics[name] for name in ("epoch", "kept_score", "seconds")})
        return work.competing and first and storage.exists(storage.join(folder, STOP))

    run_trial(trial, folder, on_epoch, store=feature_store(trial.data, work.processes), device=get_device())

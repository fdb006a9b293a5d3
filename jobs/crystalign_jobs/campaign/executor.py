"""Run the trials of a campaign with Ray Tune, a few at a time.

A finished trial is a verified result in its own folder. Tune's own records go to a temporary folder and are deleted:
after a crash the campaign runs the missing trials.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from crystalign import storage
from crystalign.errors import ConfigError
from crystalign.finetuning.trials.config import TrialConfig
from crystalign_jobs.campaign.config import Tune
from crystalign_jobs.campaign.grid import Cell, Entry
from crystalign_jobs.campaign.search_space import Study
from crystalign_jobs.campaign.store import TRIALS, Interrupted, run_uri
from crystalign_jobs.campaign.trial import run_one
from crystalign_jobs.campaign.work import Watch, Work
from crystalign_jobs.runtime.background import asked_to_stop, run_in_background
from crystalign_ray.progress import Meter

WAITING_CPUS = 0.01
"""Logical CPUs of a trial process that only waits for its workers; Tune does not accept 0."""
_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # only the older output can be switched off
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own records are not used
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths stay relative to where the campaign was started
}
_CHATTER = ("ray.tune.tune", "ray.tune.execution.tune_controller", "ray.tune.analysis.experiment_analysis")
"""Loggers that report failed and interrupted trials; `TrialDisplay` reports them more briefly."""


def run_trials(
    campaign: Tune,
    entries: Sequence[Entry],
    *,
    studies: Sequence[tuple[Cell, Study]] = (),
    watch: Watch | None = None,
) -> list[Entry]:
    """Run trials to the end, a few at a time; a failed trial writes the reason into its folder.

    Args:
        campaign: its settings.
        entries: trials to run; none of them is finished.
        studies: cells that Optuna samples further, each with its study.
        watch: called in the trial's process after each epoch.

    Returns:
        The trials that ran: `entries`, and the samples.

    Raises:
        ConfigError: the cluster has no room for a single trial.
        Interrupted: Ctrl-C or SIGTERM arrived; finished trials are kept.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from crystalign_jobs.campaign.display import TrialDisplay
    from crystalign_jobs.campaign.ray_tune import Queue

    run, concurrent = run_uri(campaign), concurrent_trials(campaign)
    samples = campaign.search.samples if campaign.search is not None else 0
    queue = Queue([entry.config for entry in entries], [study for _, study in studies], samples)
    if not queue.total:
        return []
    by_id = {entry.config.id: entry for entry in entries}
    cell_of_basis = {study.search.basis(study.base): cell for cell, study in studies}

    def entry_of(config: TrialConfig) -> Entry:
        if config.id not in by_id:
            assert campaign.search is not None
            by_id[config.id] = Entry(cell_of_basis[campaign.search.basis(config)], config)
        return by_id[config.id]

    with Meter(f"tune {campaign.name}", total=queue.total, unit="trials") as meter, asked_to_stop() as signals:
        display = TrialDisplay(meter, storage.join(run, TRIALS), entry_of)
        raised = _run_tune(campaign, queue, display, signals, concurrent, watch)
    if signals:
        raise Interrupted(f"stopped; finished trials are kept. To continue: crystalign tune --resume {run}", signals[0])
    if raised is not None:
        raise raised
    return list(by_id.values())


def concurrent_trials(campaign: Tune) -> int:
    """How many trials run at the same time, given the cores and the GPUs that their processes need.

    Raises:
        ConfigError: not even one fits, or fewer than `concurrent`.
    """
    import ray

    from crystalign_ray.session import node_count

    available = ray.cluster_resources()
    one_node = node_count() == 1
    cores = min(available.get("CPU", 0.0), float(os.cpu_count() or 1)) if one_node else available.get("CPU", 0.0) - 1
    cpus_per_trial, gpus_per_trial = campaign.workers * campaign.cpus, campaign.workers * campaign.gpus
    waiting_cpus = WAITING_CPUS if campaign.workers > 1 else 0.0
    room = min(int(cores // cpus_per_trial), int(available.get("CPU", 0.0) // (cpus_per_trial + waiting_cpus)))
    if gpus_per_trial:
        room = min(room, int(available.get("GPU", 0.0) // gpus_per_trial + 1e-9))
    if room < (campaign.concurrent or 1):
        requested, gpus = campaign.concurrent or 1, available.get("GPU", 0.0)
        raise ConfigError(
            f"concurrent: {requested} trials × ({cpus_per_trial} CPUs, {gpus_per_trial:g} GPUs) do not fit into "
            f"{cores:g} cores and {gpus:g} GPUs, which have room for {room}; lower concurrent, workers, cpus or gpus, "
            "or use a larger cluster"
        )
    return campaign.concurrent or room


def _run_tune(
    campaign: Tune, queue: Any, display: Any, signals: list[int], concurrent: int, watch: Watch | None
) -> Exception | None:
    """Run Tune, and return the exception that it raised, if any."""
    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="crystalign-tune-") as folder:
            _tuner(campaign, queue, display, signals, concurrent, watch, folder).fit()

    def on_stop() -> None:
        print("stopping; press Ctrl-C again to stop at once", flush=True)

    return run_in_background(work, signals, name="tune", on_stop=on_stop)


def _tuner(
    campaign: Tune, queue: Any, display: Any, signals: list[int], concurrent: int, watch: Watch | None, folder: str
) -> Any:
    from ray import tune

    from crystalign_jobs.campaign.ray_tune import WhenAsked, per_group
    from crystalign_ray.session import node_count

    trials = storage.join(run_uri(campaign), TRIALS)
    work = Work(
        trials=trials,
        workers=campaign.workers,
        cpus=campaign.cpus,
        gpu=campaign.gpus > 0,
        processes=-(-concurrent * campaign.workers // node_count()),
        competing=campaign.stop_early is not None,
        max_failures=campaign.max_failures,
        watch=watch,
    )
    resources = {"cpu": float(campaign.cpus)} | ({"gpu": campaign.gpus} if campaign.gpus else {})
    if campaign.workers > 1:
        resources = {"cpu": WAITING_CPUS}
    stopping = campaign.stop_early
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_one, work=work), resources),
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=None if stopping is None else per_group(stopping, trials),
            num_samples=queue.total,
            max_concurrent_trials=concurrent,
            reuse_actors=True,  # features are computed once per process
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="campaign",
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=campaign.max_failures),
            callbacks=[display],
            stop=WhenAsked(signals),
            verbose=0,
        ),
    )


def _name(trial: Any) -> str:
    return str(trial.config["id"])

"""`crystalign pretrain`: train a model on a dataset, on any number of workers, and resumable.

A run resumes from the newest checkpoint in its own folder that verifies, not from checkpoints of Ray. Ray restarts
workers that die.
"""

from __future__ import annotations

from crystalign import storage
from crystalign_jobs.pretraining.config import Pretrain, run_uri, stored_settings
from crystalign_jobs.pretraining.job import Watch
from crystalign_jobs.pretraining.status import MODEL
from crystalign_ray.driver_lock import driving

__all__ = ["Pretrain", "main", "pretrain", "stored_settings"]


def main(config: Pretrain) -> None:
    """Train, and print where the model is."""
    from crystalign_jobs.pretraining.driver import Stopped

    run = run_uri(config)
    print(f"{'resuming' if config.resume else 'pre-training on'} {run if config.resume else config.data}")
    print(f"writing to {run}/\n├─ config.yaml       every setting\n├─ checkpoints/      step-…, each a model directory")
    print("├─ metrics.csv       and tensorboard/\n├─ status.json       state, for `crystalign runs`")
    print("└─ model/            the final model")
    try:
        model = pretrain(config)
    except Stopped as stop:
        print(stop)
        raise SystemExit(128 + stop.signum) from None
    print(f"trained {model}\nnext: crystalign evaluate {model} --data {config.data}")


def pretrain(config: Pretrain, *, watch: Watch | None = None) -> str:
    """Start or resume a pre-training run.

    Args:
        config: model, dataset, output folder and settings.
        watch: called on each rank before each step.

    Returns:
        URI of the final model directory.

    Raises:
        ConfigError: the run exists and is not resumed, another process is running it, it is resumed with settings that
            change the result, the model cannot be built, a logger is not installed, or the cluster is too small.
        DatasetError: there is no row to train on.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written first.
        StorageError: a checkpoint could not be stored.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign.training.metrics import check_loggers
    from crystalign_jobs.pretraining.driver import fit
    from crystalign_jobs.pretraining.prepare import check_run, prepare, select, with_language_model
    from crystalign_jobs.pretraining.worker_count import nodes_for
    from crystalign_ray.session import session

    run, config = run_uri(config), with_language_model(config)  # a resumed run stored it with the language model
    check_run(config, run)
    check_loggers(config)
    dataset = Dataset.open(config.data)
    selection = select(config, dataset)
    with driving(run), session(config.address), nodes_for(config):
        fit(config, prepare(config, dataset, selection, watch))
    return storage.join(run, MODEL)

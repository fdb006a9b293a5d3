"""The settings that all trials of a campaign share, and the features that a process keeps between trials."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from crystalign.finetuning.data.features import LIMIT, FeatureStore
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.shards.dataset import Dataset

Watch = Callable[[TrialConfig, dict[str, float]], None]
"""Called in the trial's process after each epoch."""


@dataclass(frozen=True)
class Work:
    """The settings that all trials of a campaign share."""

    trials: str
    """URI of the folder of trials."""
    workers: int
    """Processes of each trial."""
    cpus: int
    """Threads of each process."""
    gpu: bool
    """Whether each process computes on a GPU."""
    processes: int
    """Processes that share the memory of one machine."""
    competing: bool
    """Whether trials may be stopped early."""
    max_failures: int
    """How often the processes of a trial with several are restarted after one died."""
    watch: Watch | None
    """Called after each epoch."""


_stores: dict[str, FeatureStore] = {}


def feature_store(uri: str, processes: int) -> FeatureStore:
    """The features of a dataset, kept between trials. All processes together use at most half of the memory."""
    dataset = Dataset.open(uri)
    key = dataset.manifest.sha256
    if key not in _stores:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        _stores.clear()
        _stores[key] = FeatureStore(dataset, min(LIMIT, memory // (2 * processes)))
    return _stores[key]

"""The settings of a pre-training run on Ray, and its folder."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from crystalign import storage
from crystalign.training.config import PretrainConfig
from crystalign_jobs.pretraining.status import CONFIG
from crystalign_jobs.settings import stored


class Pretrain(PretrainConfig):
    """Train encoders that map the modalities of a dataset into one embedding space, contrastively.

    The first argument is a preset (`tiny`, `default`, `multimat-paper`, `matbind-paper`, `clasp-paper`) or a YAML file.

    For example:

      crystalign pretrain default --data s3://bucket/mp --out s3://bucket/runs --name first
      crystalign pretrain matbind-paper --set model.modalities.dos=null --data mp --out runs
      crystalign pretrain --resume s3://bucket/runs/first
    """

    resume: bool = False
    """Continue this run from its newest checkpoint, at the same step and in the same order of samples. `--resume RUN`
    needs nothing else: the settings are stored with the run."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""
    min_workers: int | None = Field(default=None, ge=1)
    """Fewest workers to continue with after nodes are lost; default: `num_workers`. A run with fewer than `num_workers`
    adds workers as soon as the cluster has room. The samples of each step do not depend on the number of workers."""
    wait_for_nodes: float = Field(default=0.0, ge=0)
    """Minutes to wait for nodes, which are requested from a cluster that starts nodes on demand. With 0, a cluster that
    is too small is an error at once."""
    max_failures: int = Field(default=2, ge=0)
    """How often workers that died are restarted before the run gives up. Preempted nodes do not count. Errors that
    would recur, such as invalid settings, end the run at once."""
    timeout_minutes: float = Field(default=15.0, gt=0)
    """How long workers wait for a worker that hangs; the error names the worker."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many of the best checkpoints are kept besides the newest: best by retrieval on `held_out` validation rows, or
    by the loss if there are no validation rows."""
    held_out: int = Field(default=512, ge=0)
    """Validation rows on which retrieval is measured: at the first checkpoint, at the end, and in between as long as it
    takes at most 2 % of the time."""

    @model_validator(mode="after")
    def _least(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must not exceed num_workers ({self.num_workers})")
        return self


def run_uri(config: PretrainConfig) -> str:
    """URI of the folder of a run."""
    return storage.join(config.out, config.name)


def stored_settings(run: str) -> dict[str, Any]:
    """The stored settings of a run, with `out` and `name` of its present location.

    Raises:
        ConfigError: there is no run.
    """
    out = run.rpartition("/")[0]
    missing = f"there is no run at {run} to resume; `crystalign runs {out}` lists the runs there"
    return stored(run, CONFIG, missing=missing)

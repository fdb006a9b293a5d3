"""`PretrainConfig`: everything that decides a pre-training run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crystalign.config import Config
from crystalign.model_config import ModelConfig
from crystalign.shards.splits import SplitRule
from crystalign.storage import Uri
from crystalign.training.presets import default_model

Logger = Literal["csv", "tensorboard", "mlflow", "wandb"]


class OptimiserConfig(Config):
    """AdamW, linear warm-up, and a cosine to zero or no decay."""

    lr: float = Field(default=1e-3, gt=0)
    """Learning rate at the top of the schedule."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled decay of matrices; norms, biases, embeddings of positions and temperatures have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the first and second moments."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the run in which the learning rate rises from zero."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up: half a cosine to zero, or nothing."""
    clip: float = Field(default=1.0, gt=0)
    """Largest global norm of the gradient."""


class PretrainConfig(Config):
    """One pre-training run: data, model, optimiser, and what it writes where."""

    data: Uri
    """URI of the dataset."""
    out: Uri
    """URI under which the run writes its checkpoints, metrics and final model."""
    name: str = "pretrain"
    """Name of the run, a folder under `out`."""
    model: ModelConfig = Field(default_factory=default_model)
    """Encoders, pairs and objective."""
    split: SplitRule = Field(default_factory=SplitRule)
    """Which rows are trained on; the model carries it."""
    batch_size: int = Field(default=256, ge=2)
    """Global batch B, whatever the number of workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows of one worker that pass the encoders together, where B needs more memory than there is; by default all.
    The gradient is the same (gradient caching), for one more forward pass."""
    epochs: int = Field(default=20, ge=1)
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many steps, which the schedule then spans, if the epochs have not ended before."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stop after this many minutes of training; the schedule then runs on time, so that it ends at zero."""
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    """Learning rate and its schedule."""
    seed: int = 0
    """Decides the weights, the order of samples, their augmentation and dropout."""
    augment: bool = True
    """Whether modalities draw augmented features."""
    num_workers: int = Field(default=2, ge=1)
    """Training processes W."""
    use_gpu: bool = False
    """One GPU per training process, bfloat16 where it has it."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast on a GPU that has it, float32 elsewhere."""
    checkpoint_every_steps: int = Field(default=500, ge=1)
    """Steps between checkpoints; there is always one at the end."""
    log_every_steps: int = Field(default=10, ge=1)
    """Steps between lines of metrics."""
    rows_per_window: int = Field(default=16384, ge=1)
    """Rows that are shuffled together."""
    loggers: tuple[Logger, ...] = ("csv", "tensorboard")
    """Where metrics go; `mlflow` and `wandb` need their extra installed."""

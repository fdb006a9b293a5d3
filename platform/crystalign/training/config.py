"""`PretrainConfig`: all settings of a pre-training run."""

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
    """AdamW with linear warm-up, then cosine decay to zero or a constant learning rate."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled weight decay of matrices; not applied to norms, biases, embeddings and temperatures."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the first and second moments."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of the run over which the learning rate rises from zero."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: half a cosine to zero, or constant."""
    clip: float = Field(default=1.0, gt=0)
    """Largest global norm of the gradient; larger gradients are scaled down."""


class PretrainConfig(Config):
    """Settings of a pre-training run: data, model, optimiser and output."""

    data: Uri
    """URI of the dataset."""
    out: Uri
    """URI below which the run writes its checkpoints, metrics and final model."""
    name: str = "pretrain"
    """Name of the run; its folder below `out`."""
    model: ModelConfig = Field(default_factory=default_model)
    """Encoders, pairs and objective."""
    split: SplitRule = Field(default_factory=SplitRule)
    """Split of the dataset; its training part is used, and the model stores the rule."""
    batch_size: int = Field(default=256, ge=2)
    """Global batch size B, summed over all workers."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows of one worker that pass the encoders together; by default all. Set it if a batch needs too much memory.
    The gradient is the same (gradient caching), at the cost of one more forward pass."""
    epochs: int = Field(default=20, ge=1)
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many steps, if the epochs have not ended before; the schedule then spans these steps."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stop after this many minutes of training; the schedule then follows the time, so that it ends at zero."""
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    """Optimiser, learning rate and schedule."""
    seed: int = 0
    """Random seed of the initial weights, the order of samples, augmentation and dropout."""
    augment: bool = True
    """Whether features are augmented."""
    num_workers: int = Field(default=2, ge=1)
    """Number of training processes W."""
    use_gpu: bool = False
    """Use one GPU per training process."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass; `auto` is bfloat16 on a GPU that supports it, float32 elsewhere."""
    checkpoint_every_steps: int = Field(default=500, ge=1)
    """Steps between checkpoints; the last step always has one."""
    log_every_steps: int = Field(default=10, ge=1)
    """Steps between logged metrics."""
    rows_per_window: int = Field(default=16384, ge=1)
    """Number of rows that are shuffled together."""
    loggers: tuple[Logger, ...] = ("csv", "tensorboard")
    """Where metrics are logged; `mlflow` and `wandb` need their package, e.g. `pip install 'crystalign[mlflow]'`."""

"""Settings of a fit. Importing this module does not import torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crystalign.config import Config


class Recipe(Config):
    """AdamW, linear warm-up and cosine, early stopping; defaults follow MultiMat where it states them."""

    train: Literal["all", "head"] = "all"
    """`head` freezes the encoders (probing; linear probing with a linear head): their vectors are computed once."""
    batch_size: int = Field(default=120, ge=1)
    """Batch size in materials."""
    min_steps: int = Field(default=8, ge=1)
    """Smallest number of steps per epoch; with few labels the batches become smaller to reach it."""
    max_epochs: int = Field(default=200, ge=1)
    """Number of epochs, which is the length of the schedule."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Stop after this CPU time of all threads, not counting features; the schedule then follows time, so that the
    learning rate still ends at zero."""
    warmup_epochs: float = Field(default=10.0, ge=0)
    """Epochs of linear warm-up."""
    keep: Literal["best", "last"] = "best"
    """Which weights are tested: those of the best epoch on the validation part, or the last ones. With few validation
    labels, the best epoch is largely chance."""
    patience: int = Field(default=50, ge=1)
    """With `keep: best`: stop after this many epochs without a better validation score, not counting the warm-up."""
    loss: Literal["l1", "huber", "mse"] = "l1"
    """Loss on the scaled labels of a regression; classification uses the cross entropy."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moments."""
    clip: float = Field(default=1.0, gt=0)
    """Largest global norm of the gradient."""
    encoder_lr: float = Field(default=1.0, gt=0)
    """Factor on the learning rate for the encoders, relative to fusion and heads."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate from each block of an encoder to the one before it: the first blocks, whose features
    are most general, change least (Howard & Ruder, ACL 2018)."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which is validated and kept; 0 for none."""
    save_seconds: float = Field(default=30.0, ge=0)
    """CPU seconds between checkpoints from which a killed fit resumes."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.max_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below max_epochs {self.max_epochs}")
        return self

    def batch(self, n: int) -> int:
        """Batch size for n training materials."""
        return max(1, min(self.batch_size, -(-n // self.min_steps)))

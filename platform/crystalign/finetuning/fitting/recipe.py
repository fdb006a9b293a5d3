"""How a network is fitted; importing this imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crystalign.config import Config


class Recipe(Config):
    """AdamW, linear warm-up and cosine, early stopping; the defaults are MultiMat's where it states any."""

    train: Literal["all", "head"] = "all"
    """`head` keeps the encoders as they are (a probe, linear with a linear head): their vectors are computed once."""
    batch_size: int = Field(default=120, ge=1)
    """Materials of a step."""
    min_steps: int = Field(default=8, ge=1)
    """Steps of an epoch at least: with few labels the batches are smaller, or 100 epochs would be 100 steps."""
    max_epochs: int = Field(default=200, ge=1)
    """Passes over the training part, which the schedule spans."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Stop after this much processor time of all threads, features not counted; the schedule then runs on time, so
    that it ends at zero."""
    warmup_epochs: float = Field(default=10.0, ge=0)
    """Epochs in which the learning rate rises from zero."""
    keep: Literal["best", "last"] = "best"
    """Which weights are tested: those of the epoch that the validation part prefers, or those at the end of the
    schedule. Where few labels validate, which epoch looks best is largely chance."""
    patience: int = Field(default=50, ge=1)
    """Of `keep: best`: epochs without a better validation part, those of the warm-up not counted, after which it
    ends."""
    loss: Literal["l1", "huber", "mse"] = "l1"
    """Of a regression's scaled labels; a classification's is the cross entropy."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments."""
    clip: float = Field(default=1.0, gt=0)
    """Largest global norm of the gradient."""
    encoder_lr: float = Field(default=1.0, gt=0)
    """Learning rate of the encoders in units of that of fusion and heads."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the learning rate from each block of an encoder to the one before it: the first blocks, which know
    what all crystals share, move least (Howard & Ruder, ACL 2018)."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an average of the weights, which is then what is validated and kept; 0 makes none."""
    save_seconds: float = Field(default=30.0, ge=0)
    """Processor time between states from which a killed fit goes on."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.max_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below max_epochs {self.max_epochs}")
        return self

    def batch(self, n: int) -> int:
        """Materials of a step where n train."""
        return max(1, min(self.batch_size, -(-n // self.min_steps)))

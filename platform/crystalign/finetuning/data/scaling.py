"""Scaling of targets, fitted to the training labels only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.finetuning.data.splits import TrainSet

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]


class TargetScaler(Config):
    """z = (f(y) − μ)/σ with f the identity or log₁₀, and μ, σ of the training labels; z = y for classification.

    It can only be fitted to a `TrainSet`, so a leak of test labels into the scale is a type error.
    """

    kind: Literal["regression", "classification"] = "regression"
    """A classification has logits z, and probabilities y = 1/(1 + e⁻ᶻ)."""
    transform: Literal["linear", "log10"] = "linear"
    """f."""
    mean: tuple[float, ...]
    """(T,) μ, in units of f."""
    std: tuple[float, ...]
    """(T,) σ, in units of f; 1 where all labels are equal."""

    @classmethod
    def fit(cls, train: TrainSet) -> Self:
        """Fit the scale to the training labels.

        Raises:
            TypeError: the argument is not a `TrainSet`.
            ConfigError: a target has no training label.
        """
        if not isinstance(train, TrainSet):
            raise TypeError(f"a scale is fitted to the training part alone, not to {type(train).__name__}")
        task, targets = train.labels.task, len(train.labels.specs)
        if task.kind == "classification":
            return cls(kind="classification", mean=(0.0,) * targets, std=(1.0,) * targets)
        for number, spec in enumerate(train.labels.specs):
            if not np.isfinite(train.values[:, number]).any():
                raise ConfigError(f"target: none of the {len(train)} training materials has a label of {spec.column}")
        values = np.log10(train.values) if task.transform == "log10" else train.values
        mean, std = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        std = np.where(std > 0, std, 1.0)
        return cls(transform=task.transform, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def scaled(self, values: Array) -> Array:
        """(n, T) values in the unit of the property → what a network learns; of a classification 0 and 1."""
        if self.kind == "classification":
            return values
        learnt = np.log10(values) if self.transform == "log10" else values
        return np.asarray((learnt - np.array(self.mean)) / np.array(self.std))

    def restored(self, scaled: Array) -> Array:
        """(n, T) what a network answers → values in the unit of the property, of a classification probabilities."""
        if self.kind == "classification":
            return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scaled, -500.0, 500.0))))
        learnt = np.asarray(scaled, np.float64) * np.array(self.std) + np.array(self.mean)
        if self.transform == "linear":
            return np.asarray(learnt)
        with np.errstate(over="ignore"):
            return np.asarray(10.0**learnt)

    def scaled_tensor(self, values: Tensor) -> Tensor:
        """`scaled`, through which gradients pass; (n, T) positive where the transform is log₁₀."""
        learnt = values.log10() if self.transform == "log10" else values
        scaled: Tensor = (learnt - values.new_tensor(self.mean)) / values.new_tensor(self.std)
        return scaled

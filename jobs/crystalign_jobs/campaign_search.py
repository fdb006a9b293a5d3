"""Settings that are drawn rather than listed: at random, or by Optuna, each cell of the table for itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.finetuning.recipe import Recipe
from crystalign.finetuning.trial_config import TrialConfig
from crystalign.modalities import stable_hash

CHOICES = ("encoder_lr", "layer_decay", "weight_decay", "batch_size")
"""Fields of a recipe that may be drawn."""


class Search(Config):
    """What is drawn in each cell of the table, and how often."""

    kind: Literal["random", "optuna"] = "random"
    """`optuna` lets each sample follow from the ones before (TPE; Bergstra et al., NeurIPS 2011); an extra."""
    samples: int = Field(default=12, ge=1)
    """In each cell, with the first seed."""
    learning_rates: tuple[float, float] = (1e-5, 3e-3)
    """Drawn between these, evenly in the logarithm."""
    encoder_lr: tuple[float, ...] = ()
    """Choices for the recipe's `encoder_lr`; none keeps it."""
    layer_decay: tuple[float, ...] = ()
    """Choices for the recipe's `layer_decay`."""
    weight_decay: tuple[float, ...] = ()
    """Choices for the recipe's `weight_decay`."""
    batch_size: tuple[int, ...] = ()
    """Choices for the recipe's `batch_size`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.learning_rates
        if not 0 < low < high:
            raise ValueError(f"search: learning_rates {low:g} and {high:g} are no range above 0")
        return self

    @property
    def choices(self) -> dict[str, tuple[float, ...]]:
        """Field of the recipe → what it may be."""
        return {name: getattr(self, name) for name in CHOICES if getattr(self, name)}

    def drawn(self, base: TrialConfig, point: dict[str, Any]) -> TrialConfig:
        """A trial with the values of a point."""
        values = base.recipe.model_dump() | {name: point[name] for name in self.choices}
        recipe = Recipe.from_mapping(values, origin="search")
        return base.model_copy(update={"lr": float(point["lr"]), "recipe": recipe})

    def point(self, config: TrialConfig) -> dict[str, Any]:
        """The values of a trial."""
        return {"lr": config.lr} | {name: getattr(config.recipe, name) for name in self.choices}

    def basis(self, config: TrialConfig) -> str:
        """What the trials of one cell and seed have in common, as an id."""
        plain = Recipe()
        recipe = config.recipe.model_copy(update={name: getattr(plain, name) for name in self.choices})
        return config.model_copy(update={"lr": 1.0, "recipe": recipe}).id


def sampled(search: Search, base: TrialConfig) -> Iterator[TrialConfig]:
    """The random samples of a cell: the k-th is a function of the cell and k, so that more samples keep the first."""
    low, high = (math.log10(value) for value in search.learning_rates)
    for number in range(search.samples):
        rng = np.random.default_rng(abs(stable_hash(f"{search.basis(base)}/{number}")))
        point: dict[str, Any] = {"lr": float(f"{10 ** rng.uniform(low, high):.3g}")}
        point |= {name: values[int(rng.integers(len(values)))] for name, values in search.choices.items()}
        yield search.drawn(base, point)


class Study:
    """Optuna's memory of one cell; only this imports it."""

    def __init__(self, search: Search, base: TrialConfig) -> None:
        """An empty one.

        Args:
            search: what may be drawn.
            base: the cell, with the seed of its samples.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.base = search, base
        self.asked = 0
        """Samples so far, those of earlier runs included."""
        self._study = optuna.create_study(direction="minimize")
        self._open: dict[str, Any] = {}
        self._seeded = False
        low, high = search.learning_rates
        self._space: dict[str, Any] = {"lr": optuna.distributions.FloatDistribution(low, high, log=True)}
        self._space |= {
            name: optuna.distributions.CategoricalDistribution(values) for name, values in search.choices.items()
        }

    def ask(self) -> TrialConfig:
        """The next sample."""
        if not self._seeded:  # who goes on must not draw again what was drawn before
            import optuna

            seed = abs(stable_hash(f"{self.search.basis(self.base)}/{self.asked}")) % 2**31
            self._study.sampler, self._seeded = optuna.samplers.TPESampler(seed=seed), True
        trial = self._study.ask(self._space)
        config = self.search.drawn(self.base, trial.params)
        self._open[config.id] = trial
        self.asked += 1
        return config

    def remember(self, config: TrialConfig, value: float | None) -> None:
        """A sample of an earlier run, with its score if it has one."""
        import optuna

        self.asked += 1
        state = optuna.trial.TrialState
        self._study.add_trial(
            optuna.trial.create_trial(
                params=self.search.point(config),
                distributions=self._space,
                value=value,
                state=state.FAIL if value is None else state.COMPLETE,
            )
        )

    def tell(self, config: TrialConfig, value: float | None) -> None:
        """What became of a sample of `ask`; None if it failed."""
        import optuna

        trial = self._open.pop(config.id, None)
        if trial is not None:
            failed = optuna.trial.TrialState.FAIL if value is None else None
            self._study.tell(trial, value, state=failed)

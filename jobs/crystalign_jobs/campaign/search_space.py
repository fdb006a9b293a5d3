"""Search spaces: settings sampled at random or by Optuna, separately for each cell of the table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.trials.config import TrialConfig
from crystalign.modalities import stable_hash

CHOICES = ("encoder_lr", "layer_decay", "weight_decay", "batch_size")
"""Fields of a recipe that can be sampled."""


class Search(Config):
    """The search space of each cell, and the number of samples."""

    kind: Literal["random", "optuna"] = "random"
    """`random`, or `optuna`: TPE, which chooses each sample from the earlier results (Bergstra et al., NeurIPS 2011);
    needs the extra `crystalign[optuna]`."""
    samples: int = Field(default=12, ge=1)
    """Samples in each cell, with the first seed."""
    learning_rates: tuple[float, float] = (1e-5, 3e-3)
    """Range of the learning rate, sampled log-uniformly."""
    encoder_lr: tuple[float, ...] = ()
    """Choices for the recipe's `encoder_lr`; empty: it is not sampled."""
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
            raise ValueError(f"search: learning_rates {low:g} and {high:g} are not a range of positive numbers")
        return self

    @property
    def choices(self) -> dict[str, tuple[float, ...]]:
        """Field of the recipe → its choices."""
        return {name: getattr(self, name) for name in CHOICES if getattr(self, name)}

    def drawn(self, base: TrialConfig, point: dict[str, Any]) -> TrialConfig:
        """The trial at a point of the search space."""
        values = base.recipe.model_dump() | {name: point[name] for name in self.choices}
        recipe = Recipe.from_mapping(values, origin="search")
        return base.model_copy(update={"lr": float(point["lr"]), "recipe": recipe})

    def point(self, config: TrialConfig) -> dict[str, Any]:
        """The point of the search space at which a trial is."""
        return {"lr": config.lr} | {name: getattr(config.recipe, name) for name in self.choices}

    def basis(self, config: TrialConfig) -> str:
        """An id that all samples of one cell and seed share."""
        plain = Recipe()
        recipe = config.recipe.model_copy(update={name: getattr(plain, name) for name in self.choices})
        return config.model_copy(update={"lr": 1.0, "recipe": recipe}).id


def sampled(search: Search, base: TrialConfig) -> Iterator[TrialConfig]:
    """The random samples of a cell. Sample k depends on the cell and k alone: more samples extend the earlier ones."""
    low, high = (math.log10(value) for value in search.learning_rates)
    for number in range(search.samples):
        rng = np.random.default_rng(abs(stable_hash(f"{search.basis(base)}/{number}")))
        point: dict[str, Any] = {"lr": float(f"{10 ** rng.uniform(low, high):.3g}")}
        point |= {name: values[int(rng.integers(len(values)))] for name, values in search.choices.items()}
        yield search.drawn(base, point)


class Study:
    """The Optuna study of one cell; the only class that imports optuna."""

    def __init__(self, search: Search, base: TrialConfig) -> None:
        """Create an empty study.

        Args:
            search: the search space.
            base: settings of the cell, with the seed of its samples.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.base = search, base
        self.asked = 0
        """Samples so far, including those of earlier runs."""
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
        if not self._seeded:  # a resumed study must not repeat its earlier samples
            import optuna

            seed = abs(stable_hash(f"{self.search.basis(self.base)}/{self.asked}")) % 2**31
            self._study.sampler, self._seeded = optuna.samplers.TPESampler(seed=seed), True
        trial = self._study.ask(self._space)
        config = self.search.drawn(self.base, trial.params)
        self._open[config.id] = trial
        self.asked += 1
        return config

    def remember(self, config: TrialConfig, value: float | None) -> None:
        """Add a sample of an earlier run, with its score, or None if it failed."""
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
        """Report the score of a sample from `ask`; None if it failed."""
        import optuna

        trial = self._open.pop(config.id, None)
        if trial is not None:
            failed = optuna.trial.TrialState.FAIL if value is None else None
            self._study.tell(trial, value, state=failed)

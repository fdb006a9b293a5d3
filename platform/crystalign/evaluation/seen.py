"""How many materials of an evaluation's pool the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crystalign.errors import ConfigError, DatasetError, StorageError
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import fraction

if TYPE_CHECKING:
    from crystalign.model_config import ModelCard
    from crystalign.shards.splits import SplitRule


def trained_on(formulas: Sequence[str], card: ModelCard, rule: SplitRule) -> int | None:
    """The number of materials whose formula occurs in the model's training data.

    The formulas of the training part are read from the dataset that the model card names. If that dataset is not
    available and the split is by formula, the split of each formula is computed from its hash.

    Args:
        formulas: one formula per material.
        card: the card of the model.
        rule: the split that the card names.

    Returns:
        The number of materials; None if it cannot be determined.
    """
    trained = _training_formulas(card, rule)
    if trained is not None:
        return sum(formula in trained for formula in formulas)
    if rule.by == "formula":
        return sum(rule.name_of(fraction(formula, rule.salt)) == "train" for formula in formulas)
    return None


def _training_formulas(card: ModelCard, rule: SplitRule) -> set[str] | None:
    """The formulas of the training part of the dataset that a card names; None if it cannot be read."""
    if not card.dataset_uri:
        return None
    try:
        light = Dataset.open(card.dataset_uri).table(["formula", *rule.columns])
        train = np.flatnonzero(rule.mask(light, "train"))
    except (ConfigError, DatasetError, StorageError):
        return None
    return set(light.column("formula").take(train).to_pylist())

"""How much of an evaluation's pool a model has trained on."""

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
    """Of some materials, how many have a formula that the model has trained on.

    The formulas of the training part are read from the dataset that the card names. Where that is gone, a
    split by formula still tells, by the hash of each formula; computed afresh, not read from a dataset.

    Args:
        formulas: of the materials, one each.
        card: of the model.
        rule: the split that the card names.

    Returns:
        The number of materials; None where neither the dataset nor the rule can tell.
    """
    trained = _training_formulas(card, rule)
    if trained is not None:
        return sum(formula in trained for formula in formulas)
    if rule.by == "formula":
        return sum(rule.name_of(fraction(formula, rule.salt)) == "train" for formula in formulas)
    return None


def _training_formulas(card: ModelCard, rule: SplitRule) -> set[str] | None:
    """The formulas of the training part of the dataset that a card names; None where it cannot be read."""
    if not card.dataset_uri:
        return None
    try:
        light = Dataset.open(card.dataset_uri).table(["formula", *rule.columns])
        train = np.flatnonzero(rule.mask(light, "train"))
    except (ConfigError, DatasetError, StorageError):
        return None
    return set(light.column("formula").take(train).to_pylist())

"""Which materials a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crystalign.errors import ConfigError, DatasetError, ModelError, StorageError
from crystalign.shards.dataset import Dataset
from crystalign.shards.splits import SplitRule, fraction

if TYPE_CHECKING:
    from crystalign.model_config import ModelCard


def split_of_card(card: ModelCard) -> SplitRule:
    """The split rule stored with a model.

    Raises:
        ModelError: there is none, so it is not known which materials are held out.
    """
    if not card.split:
        raise ModelError(
            "the model card has no split, so it is not known which materials are held out; train with `pretrain`"
        )
    return SplitRule.from_mapping(dict(card.split), origin="the split in the model's card")


def require_same_ids(rule: SplitRule, card: ModelCard, dataset: Dataset) -> None:
    """Refuse a dataset for which it is not known which materials the model was trained on.

    Raises:
        DatasetError: the model was split by material id, and this is another dataset, with other ids.
    """
    if rule.by == "material" and dataset.manifest.sha256 != card.dataset_sha256:
        raise DatasetError(
            f"the model was split by material id, which does not apply to {dataset.uri}: it may hold training crystals "
            "under other ids. Use the dataset of the model, or train with split.by=formula"
        )


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

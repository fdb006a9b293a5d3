"""Training, validation, calibration and test parts of labels, as separate types that cannot be confused.

A split maps keys (the formula, or another group that must not be divided) to parts. Every material has one key and
every key one part, so by construction no material and no group is in two parts. Functions that may only use training
labels take a `TrainSet`.

The validation part of a rule or a published list is divided in two: the validation set is used for early stopping and
model selection, which makes its errors optimistic; the calibration set is used only for the widths of intervals. For
classification, which has no intervals, it is not divided.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Tag

from crystalign.errors import ConfigError
from crystalign.finetuning.data.published import PublishedLists, PublishedSplit
from crystalign.finetuning.data.task import Labels
from crystalign.model_config import ModelCard
from crystalign.shards.splits import SplitName, SplitRule, fraction

Array = NDArray[np.float64]


def _kind(value: Any) -> str:
    listed = isinstance(value, PublishedSplit) or (isinstance(value, dict) and "lists" in value)
    return "published" if listed else "rule"


SplitConfig = Annotated[
    Annotated[SplitRule, Tag("rule")] | Annotated[PublishedSplit, Tag("published")], Discriminator(_kind)
]
"""Split of a task's labels: by the hash of a key or, with `lists`, a published split."""
PartName = SplitName | Literal["calibration"]
LEARNING_CURVE, SELECTION = "crystalign/learning-curve", "crystalign/selection"
"""Salts of the order in which labels are added, and of the validation ids of a published split."""
CALIBRATION = "crystalign/calibration"
"""Salt of the order in which validation keys are halved; the first half is for calibration."""
LEAST_HELD_OUT = 20
"""Smallest size of the validation and calibration parts in a learning curve; a 95 % interval needs 19."""


def sixty_twenty_twenty() -> SplitRule:
    """Split by formula: 60 % training, 20 % validation, 20 % test, as in MultiMat."""
    return SplitRule(train=0.6, validation=0.2)


class Part:
    """Subset of the rows of `Labels`, in their order; made by a `Split`."""

    name: ClassVar[PartName]

    def __init__(self, labels: Labels, rows: NDArray[np.int64]) -> None:
        self.labels = labels
        self.rows = rows

    def __len__(self) -> int:
        """The number of materials n."""
        return len(self.rows)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the n materials."""
        return tuple(self.labels.ids[row] for row in self.rows)

    @property
    def places(self) -> NDArray[np.int64]:
        """(n, 2) shard, and row within it."""
        return self.labels.places[self.rows]

    @property
    def values(self) -> Array:
        """Labels (n, T) in the unit of the property; NaN if unknown."""
        return self.labels.values[self.rows]

    def groups(self, by: str) -> tuple[str | None, ...]:
        """Group keys of the n materials: formulas, or other keys named by `by`."""
        return tuple(self.labels.groups[by][row] for row in self.rows)


class TrainSet(Part):
    """Training set: used for fitting; the only part that scalers and baselines accept."""

    name = "train"


class ValidationSet(Part):
    """Validation set: used for early stopping, the weights of late fusion and the choice of the learning rate."""

    name = "validation"


class CalibrationSet(Part):
    """Calibration set: used only for interval widths, neither for fitting nor for model selection."""

    name = "calibration"


class TestSet(Part):
    """Test set: evaluated once, after the fit."""

    name = "test"
    __test__ = False  # not a pytest class


class Split:
    """Four parts of the labels; rows whose key has no part are left out."""

    def __init__(
        self, labels: Labels, keys: Sequence[str], parts: Mapping[str, SplitName], *, by: str, sha256: str = ""
    ) -> None:
        """Assign every row by its key.

        Args:
            labels: N rows.
            keys: N keys; rows with equal keys stay together.
            parts: key → its part.
            by: what the keys are.
            sha256: of the file that lists the parts, if one does.

        Raises:
            ConfigError: a part is empty.
        """
        assigned: dict[str, PartName] = dict(parts)
        if labels.task.kind == "regression":
            held_out = sorted({key for key in keys if parts.get(key) == "validation"})
            held_out.sort(key=lambda key: fraction(key, CALIBRATION))
            assigned |= dict.fromkeys(held_out[: len(held_out) // 2], "calibration")
        names = np.array([assigned.get(key, "") for key in keys])
        self.labels, self.by, self.keys, self.sha256 = labels, by, tuple(keys), sha256
        self.train = TrainSet(labels, np.flatnonzero(names == "train"))
        self.validation = ValidationSet(labels, np.flatnonzero(names == "validation"))
        self.calibration = CalibrationSet(labels, np.flatnonzero(names == "calibration"))
        self.test = TestSet(labels, np.flatnonzero(names == "test"))
        empty = [part.name for part in self.parts if len(part) == 0]
        if empty:
            raise ConfigError(
                f"split: the {' and the '.join(empty)} part of {len(labels)} labels in {len(set(keys))} groups by {by} "
                f"is empty ({', '.join(f'{name} {n}' for name, n in self.sizes.items())}); choose other shares, or "
                "split by something finer"
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Training, validation, calibration (regression only) and test part."""
        calibration = (self.calibration,) if self.labels.task.kind == "regression" else ()
        return (self.train, self.validation, *calibration, self.test)

    @property
    def held_out(self) -> tuple[Part, ...]:
        """Validation and calibration (regression only) parts: drawn like the test part, but available before it."""
        return self.parts[1:-1]

    @property
    def sizes(self) -> dict[str, int]:
        """Part → its number of materials."""
        return {part.name: len(part) for part in self.parts}

    def limited(self, n_labels: int | None) -> Split:
        """Limit the split to `n_labels` training materials; the test part is unchanged.

        Training rows are added in the order of a hash of their keys, so smaller sets are subsets of larger ones on any
        machine. The validation and calibration parts shrink in proportion, to no fewer than 20 rows: with 100 training
        labels, 3,000 validation labels would be unrealistic.

        Raises:
            ConfigError: the training part has fewer materials.
        """
        if n_labels is None:
            return self
        if n_labels > len(self.train):
            raise ConfigError(f"n_labels is {n_labels}, and the training part has {len(self.train)}: lower it")
        share = n_labels / len(self.train)
        limited_split = copy.copy(self)
        limited_split.train = TrainSet(self.labels, self._first(self.train, n_labels))
        limited_split.validation = ValidationSet(self.labels, self._share(self.validation, share))
        limited_split.calibration = CalibrationSet(self.labels, self._share(self.calibration, share))
        return limited_split

    def _share(self, part: Part, share: float) -> NDArray[np.int64]:
        return self._first(part, max(round(share * len(part)), LEAST_HELD_OUT))

    def _first(self, part: Part, n: int) -> NDArray[np.int64]:
        order = sorted(
            part.rows.tolist(), key=lambda row: (fraction(self.keys[row], LEARNING_CURVE), self.labels.ids[row])
        )
        return np.sort(np.array(order[:n], np.int64))


def check_split(config: SplitConfig) -> None:
    """Refuse shares that leave a part empty, before any data is read.

    Raises:
        ConfigError: a share is zero, or nothing is left for the test.
    """
    if isinstance(config, PublishedSplit):
        return
    test = 1.0 - config.train - config.validation
    if min(config.train, config.validation, test) <= 1e-9:
        raise ConfigError(
            f"split: train {config.train:g}, validation {config.validation:g} and test {max(test, 0.0):g} must all "
            "be above 0; for instance train: 0.6, validation: 0.2"
        )


def make_split(labels: Labels, config: SplitConfig) -> Split:
    """Split the labels.

    Raises:
        ConfigError: a part is empty, a key is unknown, or a published list contradicts itself or the dataset.
    """
    check_split(config)
    if isinstance(config, PublishedSplit):
        return _published(labels, config.read(), config)
    keys = labels.groups[config.by]
    unknown = sum(key is None for key in keys)
    if unknown:
        raise ConfigError(f"split: {unknown} materials have no {config.by}; split by formula, or derive it first")
    group_keys = tuple(str(key) for key in keys)
    return Split(
        labels, group_keys, {key: config.name_of(fraction(key, config.salt)) for key in set(group_keys)}, by=config.by
    )


def _published(labels: Labels, lists: PublishedLists, config: PublishedSplit) -> Split:
    parts: dict[str, SplitName] = dict(lists.parts)
    if "validation" not in parts.values():
        chosen = [name for name, part in parts.items() if part == "train"]
        selecting = [name for name in chosen if fraction(name, SELECTION) < config.validation]
        parts |= dict.fromkeys(selecting, "validation")
    if not set(parts) & set(labels.ids):
        raise ConfigError(
            f"split: none of the {len(parts):,} ids of {config.lists} ({next(iter(parts))}, …) is one of the "
            f"{len(labels):,} labelled materials ({labels.ids[0]}, …): it is the split of another dataset"
        )
    return Split(labels, labels.ids, parts, by="material", sha256=lists.sha256)


def refuse_seen(split: Split, card: ModelCard, origin: str) -> dict[str, int]:
    """Refuse a split whose test materials, or others of the same formula, were used in pre-training.

    Pre-training used the keys whose hash lies in [0, a), so test keys must lie in [a, 1). With the same rule for both,
    the task's test part [b, 1) is unseen if b ≥ a.

    Args:
        split: of the task.
        card: of the pre-trained model, which carries its split.
        origin: location of the model, for the message.

    Returns:
        Part → number of its materials used in pre-training; 0 for the test part.

    Raises:
        ConfigError: test materials were used in pre-training, or the model does not record its split.
    """
    if not card.split:
        raise ConfigError(
            f"initialisation: the model {origin} does not record which split it was trained on, so nothing shows that "
            "it has not seen the test materials; pre-train with this version"
        )
    rule = SplitRule.from_mapping(card.split, origin=f"the split of {origin}")
    if rule.by == "material" and split.by != "material":
        raise ConfigError(
            f"initialisation: {origin} was pre-trained on a split by material, and so on polymorphs of test formulas; "
            "pre-train with a split by formula, or split the task by material, too"
        )
    seen: dict[str, int] = {part.name: _seen(part, rule) for part in split.parts}
    if seen["test"]:
        raise ConfigError(
            f"initialisation: pre-training of {origin} took [0, {rule.train:g}) of the split by {rule.by}, and with it "
            f"{seen['test']:,} of the {len(split.test):,} test materials; split the task by {rule.by} with the same "
            f"salt and train + validation ≥ {rule.train:g}, or pre-train again on fewer"
        )
    return seen


def _seen(part: Part, rule: SplitRule) -> int:
    """Count materials in the training range of another rule; those without its key count as seen."""
    counts = Counter(part.groups(rule.by))
    return sum(n for key, n in counts.items() if key is None or fraction(key, rule.salt) < rule.train)

"""Classify powder patterns by space group: a supervised task to pre-train an XRD encoder before alignment.

    encoder, result = pretrain_space_groups("matbind-xrd", labelled_patterns(dataset.materials(["xrd"])))
    crystalign.storage.write_bytes("file:///weights/spacegroup.safetensors", save_weights(encoder))

A model uses the weights with `xrd: {encoder: matbind-xrd, options: {pretrained: "file:///weights/…"}}` in its
configuration. Training runs in plain PyTorch in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from crystalign.config import Config
from crystalign.encoders import encoder_entry, make_encoder
from crystalign.encoders.encoder import Encoder
from crystalign.errors import ConfigError, DatasetError
from crystalign.material import Material
from crystalign.modalities import Inputs, Modality, make_modality
from crystalign.physics.diffraction import PowderPattern
from crystalign.physics.symmetry import symmetry
from crystalign.shards.splits import SplitRule, fraction

SPACE_GROUPS = 230


class LabelledPattern(NamedTuple):
    """The powder pattern of a crystal with its space group."""

    pattern: PowderPattern
    """The peaks."""
    number: int
    """The space group, 1 to 230."""
    formula: str
    """The formula, by which patterns are split."""


class SpaceGroupConfig(Config):
    """Settings of the training."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the training patterns, each with a new random instrument if `augment` is set."""
    batch_size: int = Field(default=64, ge=1)
    """Patterns per step."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW; warm-up over a tenth of the steps, then a cosine to zero."""
    split: SplitRule = SplitRule()
    """The split; use that of the alignment that follows. Its training and validation parts are used."""
    augment: bool = True
    """Whether strain, peak widths, texture, background and noise are random."""
    seed: int = 0
    """Random seed of the weights, the order and the augmentation."""


class SpaceGroupResult(NamedTuple):
    """The losses and the accuracy of a trained classifier."""

    losses: list[float]
    """Mean cross-entropy (nats) of each epoch."""
    accuracy: float
    """Fraction of validation patterns whose most probable space group is correct; NaN if there are none."""
    baseline: float
    """Accuracy of always predicting the most frequent space group of the training part."""


def labelled_patterns(materials: Iterable[Material]) -> list[LabelledPattern]:
    """The patterns of all materials that have one, with their stored space group, or else that of the crystal."""
    return [
        LabelledPattern(
            pattern, material.spacegroup_number or symmetry(material.crystal).number, material.crystal.formula
        )
        for material in materials
        if (pattern := material.value("xrd")) is not None
    ]


def pretrain_space_groups(
    encoder: str,
    patterns: Sequence[LabelledPattern],
    config: SpaceGroupConfig | None = None,
    *,
    options: dict[str, Any] | None = None,
    features: dict[str, Any] | None = None,
) -> tuple[Encoder, SpaceGroupResult]:
    """Train an encoder of powder patterns with a linear classifier on top; print the loss of each epoch.

    Args:
        encoder: name of an encoder that reads `xrd`.
        patterns: patterns with labels; the split divides them into training and validation part.
        config: settings of the training.
        options: settings of the encoder, the same as in the later model.
        features: settings of the modality, the same as in the later model.

    Returns:
        The trained encoder without the classifier, and the result.

    Raises:
        ConfigError: the encoder does not read `xrd`, or the split is not by formula.
        DatasetError: there is no pattern in the training part.
    """
    config = config or SpaceGroupConfig()
    entry = encoder_entry(encoder)
    if entry.modality != "xrd":
        raise ConfigError(f"encoder {encoder!r} reads {entry.modality!r}; space groups are learned from 'xrd'")
    if config.split.by != "formula":
        raise ConfigError(f"the split is by {config.split.by}, but patterns only have a formula: split by formula")
    parts = [config.split.name_of(fraction(p.formula, config.split.salt)) for p in patterns]
    train = [p for p, part in zip(patterns, parts, strict=True) if part == "train"]
    unseen = [p for p, part in zip(patterns, parts, strict=True) if part == "validation"]
    if not train:
        raise DatasetError(f"none of {len(patterns)} patterns is in the training part of {config.split}")
    torch.manual_seed(config.seed)
    modality = make_modality("xrd", entry.features | (features or {}))
    network = make_encoder(encoder, options)
    classifier = nn.Sequential(nn.LayerNorm(network.width), nn.Linear(network.width, SPACE_GROUPS))
    losses = _fit(network, classifier, modality, train, config)
    network.eval()
    numbers = np.array([p.number for p in unseen])
    right = _named(network, classifier, modality, unseen, config.batch_size) == numbers
    commonest = np.bincount([p.number for p in train]).argmax()
    accuracy, baseline = (float(x.mean()) if len(unseen) else float("nan") for x in (right, numbers == commonest))
    print(f"space group of {len(unseen)} unseen patterns: {accuracy:.1%} right; the most frequent one: {baseline:.1%}")
    return network, SpaceGroupResult(losses, accuracy, baseline)


def _fit(
    network: Encoder,
    classifier: nn.Module,
    modality: Modality[Any],
    train: Sequence[LabelledPattern],
    config: SpaceGroupConfig,
) -> list[float]:
    """The mean loss of each epoch."""
    rng = np.random.default_rng(config.seed)
    weights = [*network.parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.05)
    steps = config.epochs * -(-len(train) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, max(steps, 2), pct_start=0.1)
    losses = []
    for epoch in range(config.epochs):
        network.train()
        total = 0.0
        order = rng.permutation(len(train))
        for start in range(0, len(train), config.batch_size):
            batch = [train[i] for i in order[start : start + config.batch_size]]
            targets = torch.tensor([p.number - 1 for p in batch])
            loss = F.cross_entropy(
                _logits(network, classifier, modality, batch, rng if config.augment else None), targets
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(train))
        print(f"epoch {epoch + 1}/{config.epochs}: cross-entropy {losses[-1]:.3f} over {len(train)} patterns")
    return losses


def _logits(
    network: Encoder,
    classifier: nn.Module,
    modality: Modality[Any],
    batch: Sequence[LabelledPattern],
    rng: np.random.Generator | None = None,
) -> Tensor:
    """(n, 230) logits of n patterns."""
    inputs: Inputs = modality.collate([modality.featurise(p.pattern, rng=rng) for p in batch])
    logits: Tensor = classifier(network(inputs))
    return logits


@torch.no_grad()
def _named(
    network: Encoder,
    classifier: nn.Module,
    modality: Modality[Any],
    patterns: Sequence[LabelledPattern],
    batch_size: int,
) -> Any:
    """(n,) the most probable space group of each pattern."""
    numbers = [
        _logits(network, classifier, modality, patterns[start : start + batch_size]).argmax(dim=1).numpy() + 1
        for start in range(0, len(patterns), batch_size)
    ]
    return np.concatenate([np.empty(0, np.int64), *numbers])

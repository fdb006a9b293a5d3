"""What describes a model, without the model: importing this imports no torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.encoders import encoder_entry
from crystalign.modalities import NAMES

Pair = tuple[str, str]
"""Two modalities that are aligned with each other."""


class ModalitySpec(Config):
    """How one modality enters a model."""

    encoder: str
    """Name of an encoder, as `crystalign encoders` lists them."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the encoder that differ from its defaults."""
    features: dict[str, Any] = Field(default_factory=dict)
    """Settings of the modality that differ from its defaults: how values become tensors."""

    @model_validator(mode="before")
    @classmethod
    def _supply(cls, values: Any) -> Any:
        """What the encoder needs from the modality is there unless it is set otherwise."""
        if not isinstance(values, dict) or not isinstance(values.get("encoder"), str):
            return values
        return values | {"features": encoder_entry(values["encoder"]).features | (values.get("features") or {})}


class ModelConfig(Config):
    """Which modalities a model has, by which networks, and which pairs are aligned."""

    modalities: dict[str, ModalitySpec]
    """Modality → its encoder."""
    pairs: tuple[Pair, ...] = ()
    """Aligned pairs; none given means anchored: every other modality with the crystal."""
    embedding_dim: int = Field(default=128, ge=2)
    """Dimension D of the shared space."""
    objective: Literal["clip", "siglip"] = "clip"
    """`clip`: symmetric softmax cross-entropy. `siglip`: pairwise sigmoid."""
    initial_temperature: float = Field(default=0.07, gt=0.01, le=1.0)
    """Temperature τ at the start; each pair learns its own logit scale 1/τ <= 100."""
    learn_temperature: bool = True
    """Whether the logit scales are trained."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.modalities) < 2:
            raise ValueError("a model aligns at least two modalities")
        for name, spec in self.modalities.items():
            if name not in NAMES:
                raise ValueError(f"no modality {name!r}; there are {', '.join(NAMES)}")
            entry = encoder_entry(spec.encoder)
            if entry.modality != name:
                raise ValueError(f"encoder {spec.encoder!r} reads {entry.modality!r}, not {name!r}")
        if not self.pairs and "crystal" not in self.modalities:
            raise ValueError("without a crystal there is no anchor: list the pairs")
        for pair in self.pairs:
            if pair[0] == pair[1] or not set(pair) <= set(self.modalities):
                raise ValueError(f"pair {pair} must name two different modalities of {', '.join(self.modalities)}")
        if len({frozenset(pair) for pair in self.pairs}) < len(self.pairs):
            raise ValueError(f"a pair is listed twice in {self.pairs}")
        return self

    @property
    def aligned(self) -> tuple[Pair, ...]:
        """The pairs that are trained: those listed, else the crystal with every other modality."""
        return self.pairs or tuple(("crystal", name) for name in self.modalities if name != "crystal")


class ModelCard(Config):
    """What a model was trained on: it travels in `config.json` and is printed in the model's README."""

    name: str = ""
    """Of the run."""
    dataset_uri: str = ""
    """Where the data was."""
    dataset_sha256: str = ""
    """Of the dataset's manifest: which data it was, exactly."""
    selection_sha256: str = ""
    """Of the rows that were trained on."""
    split: dict[str, Any] = Field(default_factory=dict)
    """The split rule (`crystalign.shards.splits.SplitRule`); evaluation queries its unseen part."""
    sources: tuple[str, ...] = ()
    """Databases that the rows come from."""
    licences: tuple[str, ...] = ()
    """SPDX identifiers of the rows; the model inherits them."""
    steps: int = 0
    """Optimiser steps."""
    samples: int = 0
    """Samples seen, repetitions included."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Whatever was measured, by name."""


class ModelFile(Config):
    """The content of `config.json`."""

    format: int
    """Version of the directory's layout."""
    config: ModelConfig
    """Encoders, pairs, objective."""
    card: ModelCard
    """What it was trained on."""
    files: dict[str, str]
    """Relative path → sha256 of every other file, README aside."""

    @property
    def identity(self) -> str:
        """sha256 of what the model computes: its settings, weights and files, without the card."""
        content = self.model_dump(mode="json", exclude={"card"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

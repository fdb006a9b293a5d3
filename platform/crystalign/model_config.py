"""What describes a model, without the model: importing this imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.encoders import encoder_entry
from crystalign.modalities import NAMES

Names = tuple[str, ...]
"""Modalities that an objective aligns with each other."""
Pair = tuple[str, str]
"""Two of them."""

PAIRWISE = ("clip", "siglip", "cosface")
"""Objectives that align pairs; the others align all modalities of a model at once."""
JOINT = {"tensorclip": (3, 3), "barlow": (2, 4)}
"""Non-pairwise objective → least and most modalities."""


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
    pairs: tuple[Pair, ...] | Annotated[str, Field(pattern=r"^(all|anchored\([a-z_]+\))$")] = ()
    """Aligned pairs: `anchored(crystal)`, or another modality, with every other one; `all`; or a list of pairs. An
    empty list means `anchored(crystal)`."""
    pair_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    """Weight of a pair in the mean over pairs, e.g. `{"crystal-xrd": 2.0}`; 1 where not given."""
    embedding_dim: int = Field(default=128, ge=2)
    """Dimension D of the shared space."""
    objective: Literal["clip", "siglip", "cosface", "tensorclip", "barlow"] = "clip"
    """`clip`: symmetric softmax cross-entropy. `siglip`: pairwise sigmoid. `cosface`: `clip` with a margin on the
    positive and a fixed scale. `tensorclip`: all triples of exactly three modalities. `barlow`: the cross-moments of
    two to four modalities; rows that lack one do not count in these two."""
    initial_temperature: float = Field(default=0.07, gt=0.01, le=1.0)
    """Temperature τ at the start; each pair learns its own logit scale 1/τ <= 100. Not of `cosface` and `barlow`."""
    learn_temperature: bool = True
    """Whether the logit scales are trained."""
    cosface_scale: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """Factor s of the cosines in `cosface`."""
    cosface_margin: float = Field(default=0.5, ge=0, lt=2)
    """What `cosface` takes off the positive's cosine."""
    barlow_off_diagonal: float = Field(default=0.0051, ge=0, allow_inf_nan=False)
    """Weight λ in `barlow` of the moments whose indices all differ."""

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
        if self.objective in PAIRWISE:
            self._check_pairs()
        else:
            self._check_joint()
        return self

    def _check_pairs(self) -> None:
        if isinstance(self.pairs, str) and self.pairs != "all" and self._anchor not in self.modalities:
            raise ValueError(f"pairs: {self.pairs} names no modality of this model: {', '.join(self.modalities)}")
        if not self.pairs and "crystal" not in self.modalities:
            raise ValueError("without a crystal there is no anchor: list the pairs")
        for pair in self.aligned:
            if pair[0] == pair[1] or not set(pair) <= set(self.modalities):
                raise ValueError(f"pair {pair} must name two different modalities of {', '.join(self.modalities)}")
        if len({frozenset(pair) for pair in self.aligned}) < len(self.aligned):
            raise ValueError(f"a pair is listed twice in {self.pairs}")
        names = ["-".join(pair) for pair in self.aligned]
        for name in self.pair_weights:
            if name not in names:
                raise ValueError(f"pair_weights: {name!r} is not an aligned pair; there are {', '.join(names)}")

    def _check_joint(self) -> None:
        least, most = JOINT[self.objective]
        if not least <= len(self.modalities) <= most:
            wanted = "exactly three" if least == most else f"{least} to {most}"
            raise ValueError(f"{self.objective} aligns {wanted} modalities at once, not {len(self.modalities)}")
        if self.pairs or self.pair_weights:
            raise ValueError(f"{self.objective} aligns all modalities at once: leave out pairs and pair_weights")

    @property
    def aligned(self) -> tuple[Pair, ...]:
        """The pairs that are trained, directly or as part of all modalities."""
        if self.objective not in PAIRWISE or self.pairs == "all":
            return tuple(combinations(self.modalities, 2))
        if isinstance(self.pairs, str) or not self.pairs:
            return tuple((self._anchor, name) for name in self.modalities if name != self._anchor)
        return self.pairs

    @property
    def scaled(self) -> tuple[Names, ...]:
        """What has a logit scale of its own: pairs, or all modalities together."""
        if self.objective in {"clip", "siglip"}:
            return self.aligned
        return (tuple(self.modalities),) if self.objective == "tensorclip" else ()

    @property
    def weights(self) -> Mapping[Pair, float]:
        """Pair → its weight in the mean over pairs."""
        return {pair: self.pair_weights.get("-".join(pair), 1.0) for pair in self.aligned}

    @property
    def unwritten(self) -> set[str]:
        """Settings that nobody wrote down, in a saved model those that are younger than it."""
        return set(type(self).model_fields) - self.model_fields_set

    @property
    def _anchor(self) -> str:
        found = re.fullmatch(r"anchored\((\w+)\)", self.pairs) if isinstance(self.pairs, str) else None
        return "crystal" if found is None else found[1]


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
        """sha256 of what the model computes: its settings, weights and files, without the card.

        Only settings that were written down count, not those that a later version added: they have
        their defaults, and the default of an added setting is what there was before it.
        """
        content = self.model_dump(mode="json", exclude={"card": True, "config": self.config.unwritten})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `config.json`, which has the same identity when it is read."""
        return self.model_dump_json(indent=2, exclude={"config": self.config.unwritten}) + "\n"

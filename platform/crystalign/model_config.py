"""Settings and card of a model. Importing this module does not import torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, SerializeAsAny, ValidationError, model_validator

from crystalign.config import Config, faults
from crystalign.encoders import encoder_entry
from crystalign.errors import ConfigError
from crystalign.modalities import MODALITIES
from crystalign.objectives.clip import Clip
from crystalign.objectives.flat_settings import PLACES, flat_layout, flat_settings_of, without_flat_settings
from crystalign.objectives.objective import Objective, Pair

FLAT = (1, 2)
"""Formats of model directories that store the objective's settings among the model's settings."""


class ModalitySpec(Config):
    """Encoder and settings of one modality in a model."""

    encoder: str
    """Name of an encoder, as `crystalign encoders` lists them."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the encoder that differ from its defaults."""
    features: dict[str, Any] = Field(default_factory=dict)
    """Settings of the modality that differ from its defaults: how values become tensors."""

    @model_validator(mode="before")
    @classmethod
    def _supply(cls, values: Any) -> Any:
        """Fill in the modality settings that the encoder requires, unless the user has set them."""
        if not isinstance(values, dict) or not isinstance(values.get("encoder"), str):
            return values
        return values | {"features": encoder_entry(values["encoder"]).features | (values.get("features") or {})}


class ModelConfig(Config):
    """Modalities of a model, their encoders, and the objective that aligns them.

    The flat layout of earlier releases, with the objective's settings among the model's, is read as well.
    """

    moved: ClassVar[Mapping[str, str]] = {name: f"objective.{setting.name}" for name, setting in PLACES.items()}
    """Describe the flat layout of earlier releases."""

    modalities: dict[str, ModalitySpec]
    """Modality → its encoder."""
    embedding_dim: int = Field(default=128, ge=2)
    """Dimension D of the shared space."""
    objective: SerializeAsAny[Objective] = Field(default_factory=Clip)
    """Training objective: `{kind: NAME, …}`, or only the name. `clip`: symmetric softmax cross-entropy of pairs.
    `siglip`: sigmoid loss of pairs. `cosface`: `clip` with a margin on the positive and a fixed scale. `tensorclip`:
    triples of exactly three modalities. `barlow`: cross-moments of two to four modalities. These two ignore rows that
    lack a modality. Installed packages may add others. On the command line, `--set model.objective=NAME` chooses
    one."""

    @model_validator(mode="before")
    @classmethod
    def _today(cls, values: Any) -> Any:
        return without_flat_settings(values) if isinstance(values, dict) else values

    @classmethod
    def layer(cls, values: dict[str, Any], base: Config | None) -> tuple[type[Config], dict[str, Any], Config | None]:
        """Move the objective's settings from the flat layout into their own section.

        A modality of `base` that `values` removes takes the pairs along that `base` lists.
        """
        modalities = values.get("modalities")
        if isinstance(base, ModelConfig) and isinstance(modalities, dict):
            removed = {name for name in base.modalities if modalities.get(name) is None}
            objective = base.objective.without(removed)
            if values.get("objective") == base.objective:
                values = {**values, "objective": objective}
            base = base.model_copy(update={"objective": objective})
        kind = base.objective.kind if isinstance(base, ModelConfig) else "clip"
        try:
            return cls, without_flat_settings(values, kind), base
        except ValidationError as error:
            raise ConfigError(faults(error)) from error
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.modalities) < 2:
            raise ValueError("a model aligns at least two modalities")
        for name, spec in self.modalities.items():
            if name not in MODALITIES:
                raise ValueError(f"no modality {name!r}; there are {', '.join(MODALITIES)}")
            entry = encoder_entry(spec.encoder)
            if entry.modality != name:
                raise ValueError(f"encoder {spec.encoder!r} reads {entry.modality!r}, not {name!r}")
        self.objective.check(tuple(self.modalities))
        return self

    @property
    def aligned(self) -> tuple[Pair, ...]:
        """Pairs that are trained, directly or as part of a joint loss over all modalities."""
        return self.objective.aligned(tuple(self.modalities))

    @property
    def unwritten(self) -> dict[str, Any]:
        """Settings that were not given, in pydantic's `exclude` form; in a saved model, those added later."""
        unset: dict[str, Any] = dict.fromkeys(set(type(self).model_fields) - self.model_fields_set, True)
        objective = set(type(self.objective).model_fields) - self.objective.model_fields_set - {"kind"}
        return {"objective": objective} | unset

    def written_out(self) -> Self:
        """Return the same settings with every default written out."""
        every = {name: getattr(self, name) for name in type(self).model_fields}
        objective = {name: getattr(self.objective, name) for name in type(self.objective).model_fields}
        return self.model_copy(update=every | {"objective": self.objective.model_copy(update=objective)})


class ModelCard(Config):
    """Provenance of a model: stored in `config.json` and printed in the model's README."""

    name: str = ""
    """Name of the training run."""
    dataset_uri: str = ""
    """Location of the training data."""
    dataset_sha256: str = ""
    """sha256 of the dataset's manifest, which identifies the training data."""
    selection_sha256: str = ""
    """Number of training rows."""
    split: dict[str, Any] = Field(default_factory=dict)
    """Split rule (`crystalign.shards.splits.SplitRule`); evaluation uses the part not trained on."""
    sources: tuple[str, ...] = ()
    """Source databases of the rows."""
    licences: tuple[str, ...] = ()
    """SPDX licences of the rows, which the model inherits."""
    steps: int = 0
    """Optimiser steps."""
    samples: int = 0
    """Samples seen during training, counting repetitions."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Evaluation metrics by name."""


class ModelFile(Config):
    """The content of `config.json`."""

    format: int
    """Version of the directory's layout."""
    config: ModelConfig
    """Encoders, pairs, objective."""
    card: ModelCard
    """Provenance of the model."""
    files: dict[str, str]
    """Relative path → sha256 of every other file except the README."""
    _flat: dict[str, Any] | None = PrivateAttr(default=None)
    """The objective's settings as stored by an earlier format."""

    @model_validator(mode="wrap")
    @classmethod
    def _remember(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        described = handler(values)
        if described.format in FLAT and isinstance(values, dict) and isinstance(values.get("config"), dict):
            described._flat = flat_settings_of(values["config"])  # noqa: SLF001 (its own)
        return described

    @property
    def identity(self) -> str:
        """Identity of the model: sha256 of its settings, weights and files, without the card.

        Only settings stored in the file count. Settings added by a later version are left out: their defaults
        reproduce the earlier behaviour. A model of an earlier format keeps that format, so indexes still recognise it.
        """
        content = {key: value for key, value in self._content().items() if key != "card"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of `config.json`; reading it back gives the same identity."""
        return json.dumps(self._content(), indent=2, ensure_ascii=False) + "\n"

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json", exclude={"config": self.config.unwritten})
        if self._flat is not None:
            content["config"] = flat_layout(content["config"], self._flat)
        return content

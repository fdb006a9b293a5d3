"""What describes a model, without the model: importing this imports no torch."""

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
"""Formats of model directories that have the settings of the objective among those of the model."""


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
    """Which modalities a model has, by which networks, and what aligns them.

    Settings of the objective that stand among those of the model, as earlier releases wrote them, are read as well.
    """

    moved: ClassVar[Mapping[str, str]] = {name: f"objective.{place.name}" for name, place in PLACES.items()}
    """Earlier releases had the settings of the objective here."""

    modalities: dict[str, ModalitySpec]
    """Modality → its encoder."""
    embedding_dim: int = Field(default=128, ge=2)
    """Dimension D of the shared space."""
    objective: SerializeAsAny[Objective] = Field(default_factory=Clip)
    """What is trained: `{kind: NAME, …}`, or a name alone. `clip`: symmetric softmax cross-entropy of pairs. `siglip`:
    sigmoid of pairs. `cosface`: `clip` with a margin on the positive and a fixed scale. `tensorclip`: all triples of
    exactly three modalities. `barlow`: the cross-moments of two to four modalities; rows that lack one do not count in
    these two. Installed packages may add others. On the command
    line, `--set model.objective=NAME` chooses one."""

    @model_validator(mode="before")
    @classmethod
    def _today(cls, values: Any) -> Any:
        return without_flat_settings(values) if isinstance(values, dict) else values

    @classmethod
    def layer(cls, values: dict[str, Any], base: Config | None) -> tuple[type[Config], dict[str, Any], Config | None]:
        """Settings of the objective that stand among those of the model are of the objective that it has."""
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
        """The pairs that are trained, directly or as part of all modalities."""
        return self.objective.aligned(tuple(self.modalities))

    @property
    def unwritten(self) -> dict[str, Any]:
        """Settings that nobody wrote down, in a saved model those that are younger than it; as pydantic excludes."""
        found: dict[str, Any] = dict.fromkeys(set(type(self).model_fields) - self.model_fields_set, True)
        objective = set(type(self.objective).model_fields) - self.objective.model_fields_set - {"kind"}
        return {"objective": objective} | found

    def written_out(self) -> Self:
        """The same with every default written down."""
        every = {name: getattr(self, name) for name in type(self).model_fields}
        objective = {name: getattr(self.objective, name) for name in type(self.objective).model_fields}
        return self.model_copy(update=every | {"objective": self.objective.model_copy(update=objective)})


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
    _flat: dict[str, Any] | None = PrivateAttr(default=None)
    """What a file of an earlier format says of the objective, in its own words."""

    @model_validator(mode="wrap")
    @classmethod
    def _remember(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        described = handler(values)
        if described.format in FLAT and isinstance(values, dict) and isinstance(values.get("config"), dict):
            described._flat = flat_settings_of(values["config"])  # noqa: SLF001 (its own)
        return described

    @property
    def identity(self) -> str:
        """sha256 of what the model computes: its settings, weights and files, without the card.

        Only settings that were written down count, not those that a later version added: they have
        their defaults, and the default of an added setting is what there was before it. A model of an
        earlier format keeps that format, and with it the identity that indexes know it by.
        """
        content = {key: value for key, value in self._content().items() if key != "card"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `config.json`, which has the same identity when it is read."""
        return json.dumps(self._content(), indent=2, ensure_ascii=False) + "\n"

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json", exclude={"config": self.config.unwritten})
        if self._flat is not None:
            content["config"] = flat_layout(content["config"], self._flat)
        return content

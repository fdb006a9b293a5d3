"""Settings and card of a fine-tuned network. Importing this module does not import torch."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.encoders import encoder_entry
from crystalign.errors import ConfigError
from crystalign.finetuning.data.scaling import TargetScaler
from crystalign.finetuning.data.task import Task
from crystalign.model_config import ModalitySpec
from crystalign.properties import PropertySpec

JOINT = "joint"
"""Name of the predictor that reads all modalities."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Levels (coverage) of the intervals that a model is calibrated for."""
FORMAT = 3
"""Format version of the model directory. 3: as format 2 of pre-trained models."""
READABLE = {2: 1, 3: 2}
"""Format → corresponding format of pre-trained models."""


class HeadConfig(Config):
    """Head that maps the fused vector to the targets."""

    kind: Literal["linear", "mlp", "elastic"] = "linear"
    """`linear`: one linear layer, as in MultiMat. `mlp`: hidden layers. `elastic`: predicts the elastic tensor and
    computes the moduli as its invariants; only for bulk and shear modulus."""
    hidden: tuple[int, ...] = Field(default=(128,), min_length=1)
    """Widths of the hidden layers of `mlp`; for `elastic`, the first is the number of edge channels."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability of the hidden layers of `mlp`."""


class FusionConfig(Config):
    """How modalities are combined; with a single modality all kinds are equal."""

    kind: Literal["early", "late", "hybrid", "attention"] = "early"
    """`early`: concatenated vectors, with a learned vector and a mask bit for missing ones. `late`: the mean of one
    prediction per modality. `hybrid`: the mean of early and late predictions. `attention`: a small transformer over
    one token per modality, with missing ones masked."""
    weights: Literal["equal", "stacked"] = "equal"
    """How predictions of `late` and `hybrid` are averaged: with equal weights, or with non-negative weights of sum 1
    fitted to the validation part (stacking; Wolpert, Neural Networks 5, 241 (1992))."""
    hide: float = Field(default=0.1, ge=0, lt=1)
    """Probability of hiding each modality from the joint predictor in training, but never all of a material. The
    predictor thereby learns to handle missing modalities."""
    width: int = Field(default=128, ge=4)
    """Channels per token of `attention`."""
    heads: int = Field(default=4, ge=1)
    """Heads of `attention`; `width` must be a multiple."""
    layers: int = Field(default=1, ge=1)
    """Number of layers of `attention`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"fusion: {self.heads} heads do not divide width {self.width}")
        return self

    def predictors(self, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the predictors: `joint`, modalities, or both."""
        if len(modalities) == 1 or self.kind in {"early", "attention"}:
            return (JOINT,)
        return modalities if self.kind == "late" else (*modalities, JOINT)


class Calibration(Config):
    """Half widths of prediction intervals from the errors on the calibration part (split conformal prediction)."""

    n: tuple[int, ...]
    """(T,) number of calibration materials with a label of each target."""
    radii: dict[str, tuple[float | None, ...]]
    """Level, e.g. `0.9` → (T,) half widths in units of the scaled target or of its spread; None if the level needs
    more materials than there are. A level that
    no target has is left out."""
    floor: tuple[float, ...] = ()
    """(T,) s₀, added in quadrature to the spread of an ensemble; empty if radii are not in units of a spread."""


class PropertyCard(Config):
    """Provenance of a fine-tuned model: stored in `config.json` and printed in the model's README."""

    name: str = ""
    """Name of the trial."""
    initialisation: str = ""
    """`scratch`, or the pre-trained model its encoders come from."""
    base_sha256: str = ""
    """Identity of that model; empty for `scratch`."""
    dataset_uri: str = ""
    """Location of the dataset with the labels."""
    dataset_sha256: str = ""
    """sha256 of the dataset's manifest."""
    split: dict[str, Any] = Field(default_factory=dict)
    """Split of the labels."""
    sizes: dict[str, int] = Field(default_factory=dict)
    """Part → number of materials."""
    sources: tuple[str, ...] = ()
    """Source databases of the rows, including those of pre-training."""
    licences: tuple[str, ...] = ()
    """SPDX licences of the rows, including those of pre-training; the model inherits them."""
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Target → metrics on the test part."""


class NetworkConfig(Config):
    """Settings of a network: encoders, fusion, head and task."""

    modalities: Annotated[dict[str, ModalitySpec], Field(min_length=1)]
    """Modality → its encoder."""
    vectors: Literal["encoder", "embedding"] = "encoder"
    """What the heads read: the encoder's own vector, or the unit vector in the space that pre-training aligned."""
    embedding_dim: int | None = Field(default=None, ge=2)
    """Dimension of the aligned space; only with `vectors: embedding`."""
    fusion: FusionConfig = FusionConfig()
    """Fusion of several modalities."""
    head: HeadConfig = HeadConfig()
    """Head after the fusion."""
    task: Task
    """Prediction task."""
    targets: Annotated[tuple[PropertySpec, ...], Field(min_length=1)]
    """(T,) property of each target, with method, source and release."""
    scaler: TargetScaler
    """Scaler between the network's scale and the unit of each target."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, spec in self.modalities.items():
            reads = encoder_entry(spec.encoder).modality
            if reads != name:
                raise ValueError(f"modalities: encoder {spec.encoder!r} reads {reads!r}, not {name!r}")
        if (self.vectors == "embedding") != (self.embedding_dim is not None):
            raise ValueError("embedding_dim: set it with `vectors: embedding`, and only then")
        check_head(self.head, self.fusion, tuple(self.modalities), self.task)
        return self


def check_head(head: HeadConfig, fusion: FusionConfig, modalities: tuple[str, ...], task: Task) -> None:
    """Refuse a head that does not fit the modalities, their fusion or the task.

    Raises:
        ConfigError: the head does not fit.
    """
    if head.kind != "elastic":
        return
    if "crystal" not in modalities or fusion.predictors(modalities) != (JOINT,):
        raise ConfigError(
            f"head: elastic reads the structure: `crystal` must be one of the modalities, not {', '.join(modalities)}, "
            "and their fusion early or attention"
        )
    if task.kind != "regression":
        raise ConfigError("head: elastic predicts moduli in GPa; the task is a classification")


class PropertyModelFile(Config):
    """The content of a fine-tuned model's `config.json`."""

    format: int
    """Version of the directory's layout."""
    kind: Literal["property"] = "property"
    """Kind of model, which distinguishes it from an aligned `Model`."""
    config: NetworkConfig
    """Encoders, fusion, head, task."""
    calibration: Calibration | None = None
    """Calibration of the intervals; None for no intervals."""
    domain_scale: float | None = None
    """Distance to the training part with an out-of-domain score of 1; None if the model has no reference."""
    card: PropertyCard
    """Provenance of the model."""
    files: dict[str, str]
    """Relative path → sha256 of every other file except the README."""

    @property
    def identity(self) -> str:
        """Identity of the model: sha256 of settings, weights and files, without the card."""
        content = self.model_dump(mode="json", exclude={"card": True})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

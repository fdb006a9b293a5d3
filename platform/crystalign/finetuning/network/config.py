"""What describes a fine-tuned network, without the network: importing this imports no torch."""

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
"""Name of the predictor that sees all modalities at once."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Coverage of the intervals that a model carries."""
FORMAT = 3
"""Of a model's directory. 3: as format 2 of pre-trained models."""
READABLE = {2: 1, 3: 2}
"""Format → that of pre-trained models of its time."""


class HeadConfig(Config):
    """What follows the encoders."""

    kind: Literal["linear", "mlp", "elastic"] = "linear"
    """`linear`: one matrix, as MultiMat. `mlp`: hidden layers. `elastic`: the elastic tensor of the crystal, of which
    the moduli are invariants; for targets that are bulk and shear modulus."""
    hidden: tuple[int, ...] = Field(default=(128,), min_length=1)
    """Widths of the hidden layers of `mlp`; the first is that of the edges of `elastic`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of hidden activations of `mlp` dropped in training."""


class FusionConfig(Config):
    """Where modalities meet; of one modality alone all kinds are the same."""

    kind: Literal["early", "late", "hybrid", "attention"] = "early"
    """`early`: vectors side by side, a learned vector and a mask bit for those that are missing. `late`: the mean of
    one prediction per modality. `hybrid`: the mean of early's and late's. `attention`: a small transformer over one
    token per modality, those that are missing masked."""
    weights: Literal["equal", "stacked"] = "equal"
    """How predictions of `late` and `hybrid` are averaged: alike, or with weights fitted to the validation part
    (stacking; Wolpert, Neural Networks 5, 241 (1992)), not negative and of sum 1."""
    hide: float = Field(default=0.1, ge=0, lt=1)
    """Probability with which training hides each modality from the joint predictor, never the last of a material:
    what is never missing in training cannot be missing later."""
    width: int = Field(default=128, ge=4)
    """Channels of a token of `attention`."""
    heads: int = Field(default=4, ge=1)
    """Heads of `attention`; they divide `width`."""
    layers: int = Field(default=1, ge=1)
    """Layers of `attention`."""

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
    """What the errors on the calibration part say of the next ones (split conformal prediction)."""

    n: tuple[int, ...]
    """(T,) calibration materials behind it, with a label of each target."""
    radii: dict[str, tuple[float | None, ...]]
    """Level, e.g. `0.9` → (T,) half widths in units of the scaled target, or of its spread; None where the level needs
    more materials than there were. A level that no target has is not here."""
    floor: tuple[float, ...] = ()
    """(T,) smallest spread of an ensemble that counts; empty where radii are not in units of a spread."""


class PropertyCard(Config):
    """Where a fine-tuned model comes from: it travels in `config.json` and is printed in the model's README."""

    name: str = ""
    """Of the trial."""
    initialisation: str = ""
    """`scratch`, or the pre-trained model its encoders come from."""
    base_sha256: str = ""
    """Identity of that model; empty for `scratch`."""
    dataset_uri: str = ""
    """Where the labels were."""
    dataset_sha256: str = ""
    """Of the dataset's manifest."""
    split: dict[str, Any] = Field(default_factory=dict)
    """The split of the labels."""
    sizes: dict[str, int] = Field(default_factory=dict)
    """Part → materials."""
    sources: tuple[str, ...] = ()
    """Databases of the rows, those of pre-training included."""
    licences: tuple[str, ...] = ()
    """SPDX identifiers of the rows, those of pre-training included; the model inherits them."""
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Target → what was measured on the test part."""


class NetworkConfig(Config):
    """Encoders of some modalities, where these meet, and what is predicted."""

    modalities: Annotated[dict[str, ModalitySpec], Field(min_length=1)]
    """Modality → its encoder."""
    vectors: Literal["encoder", "embedding"] = "encoder"
    """What the heads read: the encoder's own vector, or the unit vector in the space that pre-training aligned."""
    embedding_dim: int | None = Field(default=None, ge=2)
    """Dimension of that space; set with `vectors: embedding` only."""
    fusion: FusionConfig = FusionConfig()
    """Where several modalities meet."""
    head: HeadConfig = HeadConfig()
    """What follows."""
    task: Task
    """What is predicted."""
    targets: Annotated[tuple[PropertySpec, ...], Field(min_length=1)]
    """(T,) the property of each target of the task, with method, source and release."""
    scaler: TargetScaler
    """From the network's scale to the unit of each target."""

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
    """Refuse a head that the modalities, their fusion or the task contradict.

    Raises:
        ConfigError: they do.
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
    """What tells it from an aligned `Model`."""
    config: NetworkConfig
    """Encoders, fusion, head, task."""
    calibration: Calibration | None = None
    """Widths of intervals; None gives none."""
    domain_scale: float | None = None
    """Distance to the training part that is called 1; None where the model has no reference for it."""
    card: PropertyCard
    """Where it comes from."""
    files: dict[str, str]
    """Relative path → sha256 of every other file, README aside."""

    @property
    def identity(self) -> str:
        """sha256 of what the model computes, without the card."""
        content = self.model_dump(mode="json", exclude={"card": True})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""`TrialConfig`: all settings of a fine-tuning trial. Importing this module does not import torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.finetuning.data.splits import SplitConfig, check_split, sixty_twenty_twenty
from crystalign.finetuning.data.task import Task
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.network.config import FusionConfig, HeadConfig, check_head
from crystalign.modalities import MODALITIES
from crystalign.model_config import ModalitySpec
from crystalign.storage import FileEntry, Uri

CONSTANTS = ("mean", "median")
"""Initialisations that only predict a constant."""
SCRATCH = "scratch"
"""The initialisation with fresh weights."""


class TrialConfig(Config):
    """Settings of a fine-tuning trial. Baselines are chosen by `initialisation` and `encoders` as well.

    - `initialisation: mean` or `median`: the constant of the training labels
    - `scratch` with `encoders: {composition: {encoder: crabnet}}`: the composition alone
    - `scratch` with `encoders: {crystal: {encoder: cgcnn}}`: a published network
    - `scratch` with `like: MODEL`: the architecture of a pre-trained model, with fresh weights
    - the URI of a pre-trained model: its encoders
    """

    data: Uri
    """Dataset with the labels."""
    task: Task
    """Prediction task."""
    split: SplitConfig = Field(default_factory=sixty_twenty_twenty)
    """Split of the labels."""
    n_labels: int | None = Field(default=None, ge=2)
    """Number of training labels, for a learning curve; by default all. The test part does not change."""
    initialisation: str = SCRATCH
    """`scratch`, `mean`, `median`, or the URI of a pre-trained model."""
    like: Uri | None = None
    """With `scratch`: a model whose encoders are rebuilt with fresh weights, to isolate the effect of pre-training."""
    encoders: dict[str, ModalitySpec] = Field(default_factory=dict)
    """With `scratch`: modality → encoder, instead of `like`."""
    modalities: tuple[str, ...] = ()
    """Modalities that the network reads, of those that the model or `encoders` have; by default the crystal, or, where
    `encoders` are given, all of them."""
    require: tuple[str, ...] = ()
    """Modalities that every material must have, read or not: with the same list, trials over different modalities are
    tested on the same materials. A material with none of the modalities that are read is always left out."""
    vectors: Literal["encoder", "embedding"] = "encoder"
    """Input of the head: the encoder's own vector, or the unit vector in the aligned space."""
    fusion: FusionConfig = FusionConfig()
    """Fusion of several modalities."""
    head: HeadConfig = HeadConfig()
    """Head after the fusion."""
    recipe: Recipe = Recipe()
    """Training recipe."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the schedule."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, order of the labels and dropout; the split and `n_labels` do not depend on it."""
    shuffle_labels: bool = False
    """Control: permute the labels before the split. A result better than the mean baseline then indicates a leak."""

    @field_validator("initialisation")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return value if value in {SCRATCH, *CONSTANTS} else storage.absolute(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_split(self.split)
        for name in (*self.modalities, *self.require, *self.encoders):
            if name not in MODALITIES:
                raise ValueError(f"modalities: there is no {name!r}; there are {', '.join(MODALITIES)}")
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities: {', '.join(self.modalities)} names one twice")
        if self.initialisation != SCRATCH and (self.like or self.encoders):
            raise ValueError(
                f"initialisation: {self.initialisation} brings its own encoders, if any; leave out `like` and "
                "`encoders`, or set `initialisation: scratch`"
            )
        if self.like and self.encoders:
            raise ValueError("like: give a model to build anew, or `encoders`, not both")
        unknown = set(self.modalities) - set(self.encoders)
        if self.encoders and unknown:
            raise ValueError(f"modalities: `encoders` has none for {', '.join(sorted(unknown))}")
        if self.vectors == "embedding" and not self.origin:
            raise ValueError("vectors: embedding is the aligned space of a model; name one as initialisation or `like`")
        if not (self.origin or self.constant):
            self.specs  # noqa: B018 (refuses modalities without an encoder)
        check_head(self.head, self.fusion, self.chosen, self.task)
        return self

    @property
    def origin(self) -> str | None:
        """Model whose encoders are copied or rebuilt; None without one."""
        if self.initialisation == SCRATCH:
            return self.like
        return None if self.constant else self.initialisation

    @property
    def constant(self) -> bool:
        """Whether it predicts a constant."""
        return self.initialisation in CONSTANTS

    @property
    def pretrained(self) -> bool:
        """Whether weights are copied from a model."""
        return self.initialisation not in {SCRATCH, *CONSTANTS}

    @property
    def chosen(self) -> tuple[str, ...]:
        """Modalities that are read, with defaults resolved."""
        return self.modalities or tuple(self.encoders) or ("crystal",)

    @property
    def specs(self) -> dict[str, ModalitySpec]:
        """Encoders of a trial without a model."""
        given = self.encoders or {"crystal": ModalitySpec(encoder="dual-space")}
        missing = set(self.chosen) - set(given)
        if missing:
            raise ConfigError(
                f"modalities: no encoder is given for {', '.join(sorted(missing))}; set `encoders` or `like`"
            )
        return {name: given[name] for name in self.chosen}

    @property
    def id(self) -> str:
        """The trial's name: 16 hexadecimal digits of the sha256 of its settings, every default written out.

        The id does not change if the content of a dataset, a model or a list of ids changes; the result contains their
        checksums, which `finished` compares.
        """
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrialResult(Config):
    """Result of a trial: `result.json`, written last. A trial without it is not finished."""

    format: int
    """Version of the layout."""
    id: str
    """Id of the trial."""
    config: TrialConfig
    """Settings of the trial."""
    dataset_sha256: str
    """sha256 of the dataset's manifest."""
    model_sha256: str = ""
    """Identity of the model whose encoders were copied or rebuilt."""
    split_sha256: str = ""
    """sha256 of the file of a published split; empty if a rule makes the split."""
    sizes: dict[str, int]
    """Part → number of materials."""
    left_out: dict[str, int] = {}
    """Reason → number of labelled materials that are in no part."""
    seen: dict[str, int] = {}
    """Part → number of materials whose keys were used in pre-training; 0 for the test part."""
    parameters: int = 0
    """Number of weights of the network."""
    trained: int = 0
    """Number of trained weights."""
    metrics: dict[str, dict[str, float]]
    """Target → metric → value on the test part, evaluated once; undefined metrics are left out."""
    validation: dict[str, dict[str, float]]
    """The same on the validation part, by which learning rates are compared."""
    coverage: dict[str, dict[str, float]] = {}
    """Target → level → coverage: share of the test labels within their intervals."""
    score: float | None = None
    """Validation loss that early stopping minimised; None for a constant."""
    kept_epoch: int = 0
    """The epoch whose weights were tested."""
    epochs: int = 0
    """Number of epochs."""
    ended: str
    """Reason for the end: `epochs`, `patience`, `seconds`, `stopped`, or `constant`."""
    seconds: float = 0.0
    """Processor time of the fit, features not counted."""
    files: tuple[FileEntry, ...]
    """Every other file of the trial, with its checksum."""

    @property
    def content(self) -> dict[str, Any]:
        """Plain values for a table: the settings flattened, and the metrics of the test part."""
        flat = {f"config/{name}": value for name, value in _flat(self.config.model_dump(mode="json"))}
        flat |= {f"{target}/{name}": v for target, metrics in self.metrics.items() for name, v in metrics.items()}
        return {"id": self.id, **flat, **{f"size/{part}": n for part, n in self.sizes.items()}}


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs

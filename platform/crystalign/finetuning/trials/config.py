"""`TrialConfig`: everything that decides one fine-tuning trial; importing this imports no torch."""

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
"""Initialisations that learn nothing but a constant."""
SCRATCH = "scratch"
"""The initialisation with fresh weights."""


class TrialConfig(Config):
    """One way to one property. Baselines are initialisations and encoders like any other.

    - `initialisation: mean` or `median`: the constant of the training labels
    - `scratch` with `encoders: {composition: {encoder: crabnet}}`: the composition alone
    - `scratch` with `encoders: {crystal: {encoder: cgcnn}}`: a published network
    - `scratch` with `like: MODEL`: the architecture of a pre-trained model, with fresh weights
    - the URI of a pre-trained model: its encoders
    """

    data: Uri
    """Dataset with the labels."""
    task: Task
    """What is predicted."""
    split: SplitConfig = Field(default_factory=sixty_twenty_twenty)
    """How the labels are split."""
    n_labels: int | None = Field(default=None, ge=2)
    """Training labels, of a learning curve; by default all. The test part stays the same."""
    initialisation: str = SCRATCH
    """`scratch`, `mean`, `median`, or the URI of a pre-trained model."""
    like: Uri | None = None
    """Of `scratch`: a model whose encoders are built anew, so that the comparison with it is one of weights alone."""
    encoders: dict[str, ModalitySpec] = Field(default_factory=dict)
    """Of `scratch`: modality → encoder, in place of `like`."""
    modalities: tuple[str, ...] = ()
    """Modalities that the network reads, of those that the model or `encoders` have; by default the crystal, or, where
    `encoders` are given, all of them."""
    require: tuple[str, ...] = ()
    """Modalities that every material must have, read or not: with the same list, trials over different modalities are
    tested on the same materials. A material that has none of those that are read is left out in any case."""
    vectors: Literal["encoder", "embedding"] = "encoder"
    """What the head reads: the encoder's own vector, or the unit vector of the aligned space."""
    fusion: FusionConfig = FusionConfig()
    """Where several modalities meet."""
    head: HeadConfig = HeadConfig()
    """What follows."""
    recipe: Recipe = Recipe()
    """How the network is fitted."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate at the top of the schedule."""
    seed: int = Field(default=0, ge=0)
    """Decides the weights, the order of the labels, and dropout; the split and `n_labels` do not depend on it."""
    shuffle_labels: bool = False
    """A control: labels change places before they are split. What then is better than the mean is a leak."""

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
        """The model whose encoders are taken or built anew; None without one."""
        if self.initialisation == SCRATCH:
            return self.like
        return None if self.constant else self.initialisation

    @property
    def constant(self) -> bool:
        """Whether it predicts one number."""
        return self.initialisation in CONSTANTS

    @property
    def pretrained(self) -> bool:
        """Whether weights are taken from a model."""
        return self.initialisation not in {SCRATCH, *CONSTANTS}

    @property
    def chosen(self) -> tuple[str, ...]:
        """The modalities that are read, defaults resolved."""
        return self.modalities or tuple(self.encoders) or ("crystal",)

    @property
    def specs(self) -> dict[str, ModalitySpec]:
        """The encoders of a trial without a model."""
        given = self.encoders or {"crystal": ModalitySpec(encoder="dual-space")}
        missing = set(self.chosen) - set(given)
        if missing:
            raise ConfigError(
                f"modalities: nothing says which encoder reads {', '.join(sorted(missing))}; set `encoders` or `like`"
            )
        return {name: given[name] for name in self.chosen}

    @property
    def id(self) -> str:
        """The trial's name: 16 hexadecimal digits of the sha256 of its settings, every default written out.

        A dataset, a model or a list of ids that changes under its URI does not change the id; the result holds their
        checksums, and `finished` compares those.
        """
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrialResult(Config):
    """What a trial found; `result.json`, written last. Without it a trial is not finished."""

    format: int
    """Version of the layout."""
    id: str
    """Of the settings."""
    config: TrialConfig
    """The settings."""
    dataset_sha256: str
    """Of the manifest of the dataset."""
    model_sha256: str = ""
    """Identity of the model that encoders were taken from or built like."""
    split_sha256: str = ""
    """Of the file of a published split; empty of a rule."""
    sizes: dict[str, int]
    """Part → materials."""
    left_out: dict[str, int] = {}
    """Why labelled materials are in no part → how many."""
    seen: dict[str, int] = {}
    """Part → materials whose keys pre-training took; none of the test part."""
    parameters: int = 0
    """Weights of the network."""
    trained: int = 0
    """Of them learnt."""
    metrics: dict[str, dict[str, float]]
    """Target → metric → value, on the test part, which was looked at once; without those that are not defined."""
    validation: dict[str, dict[str, float]]
    """The same on the validation part, by which learning rates are compared."""
    coverage: dict[str, dict[str, float]] = {}
    """Target → level → share of the test labels within their intervals."""
    score: float | None = None
    """On the validation part: what the fit minimised; None of a constant."""
    kept_epoch: int = 0
    """The epoch whose weights were tested."""
    epochs: int = 0
    """How many there were."""
    ended: str
    """`epochs`, `patience`, `seconds`, `stopped`, or `constant`."""
    seconds: float = 0.0
    """Processor time of the fit, features not counted."""
    files: tuple[FileEntry, ...]
    """Every other file of the trial, with its checksum."""

    @property
    def content(self) -> dict[str, Any]:
        """Plain values for a table: the settings flattened, and the metrics of the test part."""
        flat = {f"config/{name}": value for name, value in _flat(self.config.model_dump(mode="json"))}
        flat |= {f"{target}/{name}": v for target, found in self.metrics.items() for name, v in found.items()}
        return {"id": self.id, **flat, **{f"size/{part}": n for part, n in self.sizes.items()}}


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found

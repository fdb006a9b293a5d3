"""Predictions by one model, an ensemble, or several models that share one pass of the encoders."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalign.batch import Batch
from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, InputError
from crystalign.finetuning.data.features import batch_of
from crystalign.finetuning.network.config import Calibration, NetworkConfig
from crystalign.finetuning.network.fusion import Views
from crystalign.finetuning.prediction.domain import Domain
from crystalign.finetuning.prediction.intervals import interval
from crystalign.material import Material, Provenance
from crystalign.modalities import Inputs, Modality
from crystalign.modalities.composition import Composition

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predictions for n materials."""

    ids: tuple[str, ...]
    """Ids of the n materials; empty for a crystal without an id."""
    targets: tuple[str, ...]
    """T property columns, which name quantity, method, source and release."""
    mean: Array
    """(n, T) in the unit of the property; for classification, the probability of the second class."""
    lower: Array
    """(n, T) lower end of the interval; NaN for classification and for a model without calibration."""
    upper: Array
    """(n, T) upper end."""
    out_of_domain: Array
    """(n,) out-of-domain score: above 1 it is larger than for 95 % of the held-out materials. NaN if the model has no
    reference.
    """


class Network(Protocol):
    """Protocol of a fine-tuned network, e.g. `PropertyModel`."""

    config: NetworkConfig
    """Encoders, fusion, head, task."""
    domain: Domain | None
    """Reference data of the out-of-domain scores."""
    encoders: nn.ModuleDict
    """Modality → its network."""
    projections: nn.ModuleDict
    """Modality → projection to the aligned space; empty if the heads read the encoders' own vectors."""

    @property
    def modalities(self) -> dict[str, Modality[Any]]:
        """Modalities that the network can read, by name."""

    @property
    def targets(self) -> tuple[str, ...]:
        """(T,) the property columns that it predicts."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    def eval(self) -> object:
        """Switch dropout off."""

    def encoder_sha256(self) -> str:
        """Identity of the network up to the fusion."""

    def encode(self, batch: Batch) -> Views:
        """Run the encoders."""

    def answers(self, views: Views, crystals: Inputs | None = None) -> tuple[Tensor, Tensor]:
        """Outputs (n, P, T) and mask (n, P) of the predictors, from the encoders' output."""

    def combined(self, outputs: Tensor, able: Tensor) -> Tensor:
        """Weighted mean (n, T) of the predictors."""

    def represent(self, views: Views) -> Tensor:
        """Vectors (n, R) for the out-of-domain score."""


class Predictor(Protocol):
    """A model or an ensemble."""

    @property
    def members(self) -> tuple[Network, ...]:
        """Member networks, which have the same targets and the same scaler."""

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the intervals."""

    def predict(
        self, materials: Sequence[Material | Crystal], *, level: float = 0.9, batch_size: int = 64
    ) -> Prediction:
        """Values, intervals and out-of-domain scores of n materials."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Outputs of the members of a predictor for n materials."""

    scaled: tuple[Array, ...]
    """(n, T) output of each member, on the scale of the network."""
    distance: tuple[Array, ...]
    """(n,) out-of-domain score of each member."""

    @property
    def mean(self) -> Array:
        """Mean (n, T) over the members."""
        return np.asarray(np.mean(self.scaled, axis=0))

    @property
    def spread(self) -> Array | None:
        """Standard deviation (n, T) over the members; None for a single member."""
        return np.asarray(np.std(self.scaled, axis=0, ddof=1)) if len(self.scaled) > 1 else None


def as_material(value: Material | Crystal) -> Material:
    """Make a material with the composition of its crystal."""
    if isinstance(value, Crystal):
        value = Material("", value, Provenance("", ""))
    if value.value("composition") is None:
        return replace(value, modalities={**value.modalities, "composition": Composition.of(value.crystal)})
    return value


def predict_together(
    predictors: Mapping[str, Predictor],
    values: Sequence[Material | Crystal],
    *,
    level: float = 0.9,
    batch_size: int = 64,
) -> dict[str, Prediction]:
    """Run several predictors on the same materials, as `PredictorGroup.predict`."""
    return PredictorGroup(predictors).predict(values, level=level, batch_size=batch_size)


class PredictorGroup:
    """Predictors that run together; members with the same encoders share one pass of them.

    Encoders are the same if they are frozen encoders of the same pre-trained model, e.g. in several seeds of a trial.
    The weights must not change while a group is in use.
    """

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        """Make a group of predictors.

        Args:
            predictors: by any name.
        """
        self.predictors = dict(predictors)
        self._identity = {id(member): member.encoder_sha256() for member in self._members()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities that the members read."""
        return tuple(sorted({name for member in self._members() for name in member.modalities}))

    def only(self, names: Sequence[str]) -> PredictorGroup:
        """Return a group of some predictors.

        Raises:
            ConfigError: there is no predictor of a name.
        """
        unknown = [name for name in names if name not in self.predictors]
        if unknown:
            raise ConfigError(f"models: there is no {unknown[0]!r}; there are {', '.join(self.predictors)}")
        group = copy.copy(self)
        group.predictors = {name: self.predictors[name] for name in names}
        return group

    def share_encoders(self) -> int:
        """Keep equal encoders only once in memory; return the number of different encoders.

        The members then share weights, so this is only for inference.
        """
        first: dict[str, Network] = {}
        for member in self._members():
            owner = first.setdefault(self._identity[id(member)], member)
            member.encoders, member.projections = owner.encoders, owner.projections
        return len(first)

    def predict(
        self, values: Sequence[Material | Crystal], *, level: float = 0.9, batch_size: int = 64
    ) -> dict[str, Prediction]:
        """Predict n materials with each predictor.

        Args:
            values: materials with any modalities; a crystal provides the structure and the composition.
            level: of the intervals, one of `LEVELS`.
            batch_size: materials that pass the encoders together.

        Returns:
            Name → its prediction.

        Raises:
            InputError: a material has none of a predictor's modalities, or cannot be encoded; a note names it.
            ConfigError: a level that is not calibrated.
        """
        materials, members = [as_material(value) for value in values], self._members()
        outputs: dict[int, list[tuple[Array, Array]]] = {id(member): [] for member in members}
        for start in range(0, len(materials), batch_size):
            batches, views = _Batches(materials[start : start + batch_size]), dict[str, Views]()
            for member in members:
                identity = self._identity[id(member)]
                if identity not in views:
                    views[identity] = _encoded(member, batches.of(member.modalities))
                outputs[id(member)].append(_answer(member, views[identity], batches))
        ids = tuple(material.id for material in materials)
        return {name: _assembled(predictor, outputs, ids, level) for name, predictor in self.predictors.items()}

    def _members(self) -> list[Network]:
        """Return each member once."""
        return list({id(one): one for predictor in self.predictors.values() for one in predictor.members}.values())


class _Batches:
    """Features of materials, computed once per modality and its settings."""

    def __init__(self, materials: Sequence[Material]) -> None:
        self.materials = materials
        self._made: dict[str, Batch] = {}

    def of(self, modalities: Mapping[str, Modality[object]]) -> Batch:
        parts = [self.one(name, modality) for name, modality in modalities.items()]
        for number, material in enumerate(self.materials):
            if not any(bool(part.present[name][number]) for part, name in zip(parts, modalities, strict=True)):
                raise InputError(
                    f"material {material.id or material.crystal.formula!r} has none of {', '.join(modalities)}, which "
                    "this model reads; `crystalign derive` adds what follows from the structure",
                    reason="no-modality",
                )
        pairs = list(zip(modalities, parts, strict=True))
        return Batch(
            real=parts[0].real,
            present={name: part.present[name] for name, part in pairs},
            inputs={name: part.inputs[name] for name, part in pairs},
            keys={},
        )

    def one(self, name: str, modality: Modality[object]) -> Batch:
        key = f"{name} {modality.settings.model_dump_json()}"
        if key not in self._made:
            self._made[key] = batch_of(self.materials, {name: modality})
        return self._made[key]


@torch.no_grad()
def _encoded(member: Network, batch: Batch) -> Views:
    member.eval()
    return member.encode(batch.to(member.device))


@torch.no_grad()
def _answer(member: Network, views: Views, batches: _Batches) -> tuple[Array, Array]:
    """Outputs (n, T) on the network's scale, and out-of-domain scores (n,)."""
    member.eval()
    crystals = None
    if member.config.head.kind == "elastic":
        one = batches.one("crystal", member.modalities["crystal"]).to(member.device)
        crystals = one.inputs["crystal"]
    scaled = member.combined(*member.answers(views, crystals)).double().cpu().numpy()
    domain: Domain | None = member.domain
    if domain is None:
        return scaled, np.full(len(scaled), np.nan)
    return scaled, domain.score(member.represent(views).float().cpu().numpy())


def _assembled(
    predictor: Predictor, outputs: Mapping[int, list[tuple[Array, Array]]], ids: tuple[str, ...], level: float
) -> Prediction:
    first = predictor.members[0]
    parts = [outputs[id(member)] for member in predictor.members]
    targets = len(first.targets)
    answers = Answers(
        tuple(np.concatenate([np.empty((0, targets)), *(scaled for scaled, _ in part)]) for part in parts),
        tuple(np.concatenate([np.empty(0), *(score for _, score in part)]) for part in parts),
    )
    lower, upper = interval(predictor.calibration, answers.mean, answers.spread, level=level)
    scaler = first.config.scaler
    return Prediction(
        ids=ids,
        targets=first.targets,
        mean=scaler.restored(answers.mean),
        lower=scaler.restored(lower),
        upper=scaler.restored(upper),
        out_of_domain=np.asarray(np.mean(answers.distance, axis=0)),
    )

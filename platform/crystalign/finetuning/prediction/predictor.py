"""Predictions of one model, of an ensemble, or of many that share a pass of the encoders."""

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
    """What is predicted of n materials."""

    ids: tuple[str, ...]
    """Of the n materials; empty for a bare crystal."""
    targets: tuple[str, ...]
    """T property columns, which name quantity, method, source and release."""
    mean: Array
    """(n, T) in the unit of the property; of a classification the probability of the second class."""
    lower: Array
    """(n, T) lower end of the interval; NaN of a classification and of a model without calibration."""
    upper: Array
    """(n, T) upper end."""
    out_of_domain: Array
    """(n,) distance to the training materials; above 1 it is larger than that of 95 % of those that were held out.
    NaN where the model has no reference."""


class Network(Protocol):
    """What is asked of a fine-tuned network; `PropertyModel` is one."""

    config: NetworkConfig
    """Encoders, fusion, head, task."""
    domain: Domain | None
    """Reference of the out-of-domain scores."""
    encoders: nn.ModuleDict
    """Modality → its network."""
    projections: nn.ModuleDict
    """Modality → its map to the aligned space; empty where the heads read the encoders' own vectors."""

    @property
    def modalities(self) -> dict[str, Modality[Any]]:
        """Every modality that it may read, by name."""

    @property
    def targets(self) -> tuple[str, ...]:
        """(T,) the property columns that it predicts."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def eval(self) -> object:
        """Switch dropout off."""

    def encoder_sha256(self) -> str:
        """Identity of what happens before the fusion."""

    def encode(self, batch: Batch) -> Views:
        """What the encoders give."""

    def answers(self, views: Views, crystals: Inputs | None = None) -> tuple[Tensor, Tensor]:
        """(n, P, T) and (n, P), from what the encoders give."""

    def combined(self, outputs: Tensor, able: Tensor) -> Tensor:
        """(n, T) the weighted mean of the predictors."""

    def represent(self, views: Views) -> Tensor:
        """(n, R) what `Domain` compares."""


class Predictor(Protocol):
    """A model or an ensemble."""

    @property
    def members(self) -> tuple[Network, ...]:
        """The networks behind it; they have the same targets and the same scaler."""

    @property
    def calibration(self) -> Calibration | None:
        """Widths of its intervals."""

    def predict(
        self, materials: Sequence[Material | Crystal], *, level: float = 0.9, batch_size: int = 64
    ) -> Prediction:
        """Values, intervals and out-of-domain scores of n materials."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What the members of a predictor say of n materials."""

    scaled: tuple[Array, ...]
    """(n, T) of each member, on the scale of the network."""
    distance: tuple[Array, ...]
    """(n,) out-of-domain score of each member."""

    @property
    def mean(self) -> Array:
        """(n, T) over the members."""
        return np.asarray(np.mean(self.scaled, axis=0))

    @property
    def spread(self) -> Array | None:
        """(n, T) standard deviation over the members; None of a single one."""
        return np.asarray(np.std(self.scaled, axis=0, ddof=1)) if len(self.scaled) > 1 else None


def as_material(value: Material | Crystal) -> Material:
    """A material with the composition that follows from its crystal."""
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
    """Many predictors on the same materials, as `PredictorGroup.predict`."""
    return PredictorGroup(predictors).predict(values, level=level, batch_size=batch_size)


class PredictorGroup:
    """Predictors that are asked together: members whose encoders are the same share one pass of them.

    Encoders are the same where pre-trained ones were kept frozen, or in the seeds of such a trial. The weights must
    not change while a group is in use.
    """

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        """Join them.

        Args:
            predictors: by any name.
        """
        self.predictors = dict(predictors)
        self._identity = {id(member): member.encoder_sha256() for member in self._members()}

    @property
    def modalities(self) -> tuple[str, ...]:
        """All that the members read."""
        return tuple(sorted({name for member in self._members() for name in member.modalities}))

    def only(self, names: Sequence[str]) -> PredictorGroup:
        """Some of them.

        Raises:
            ConfigError: there is none of a name.
        """
        unknown = [name for name in names if name not in self.predictors]
        if unknown:
            raise ConfigError(f"models: there is no {unknown[0]!r}; there are {', '.join(self.predictors)}")
        found = copy.copy(self)
        found.predictors = {name: self.predictors[name] for name in names}
        return found

    def share_encoders(self) -> int:
        """Keep the same encoders once in memory; returns how many different ones there are.

        The members are then no longer independent of each other: this is for a service, which trains nothing.
        """
        first: dict[str, Network] = {}
        for member in self._members():
            owner = first.setdefault(self._identity[id(member)], member)
            member.encoders, member.projections = owner.encoders, owner.projections
        return len(first)

    def predict(
        self, values: Sequence[Material | Crystal], *, level: float = 0.9, batch_size: int = 64
    ) -> dict[str, Prediction]:
        """What each says of n materials.

        Args:
            values: with whatever modalities they have; of a bare crystal the structure and the composition.
            level: of the intervals, one of `LEVELS`.
            batch_size: materials that pass the encoders together.

        Returns:
            Name → its prediction.

        Raises:
            InputError: a material has none of a predictor's modalities, or cannot be encoded; a note names it.
            ConfigError: a level that is not calibrated.
        """
        materials, members = [as_material(value) for value in values], self._members()
        found: dict[int, list[tuple[Array, Array]]] = {id(member): [] for member in members}
        for start in range(0, len(materials), batch_size):
            batches, views = _Batches(materials[start : start + batch_size]), dict[str, Views]()
            for member in members:
                identity = self._identity[id(member)]
                if identity not in views:
                    views[identity] = _encoded(member, batches.of(member.modalities))
                found[id(member)].append(_answer(member, views[identity], batches))
        ids = tuple(material.id for material in materials)
        return {name: _assembled(predictor, found, ids, level) for name, predictor in self.predictors.items()}

    def _members(self) -> list[Network]:
        """Each once."""
        return list({id(one): one for predictor in self.predictors.values() for one in predictor.members}.values())


class _Batches:
    """The features of some materials, made once for each setting of a modality."""

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
    """(n, T) on the network's scale, and (n,) out-of-domain scores."""
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
    predictor: Predictor, found: Mapping[int, list[tuple[Array, Array]]], ids: tuple[str, ...], level: float
) -> Prediction:
    first = predictor.members[0]
    parts = [found[id(member)] for member in predictor.members]
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

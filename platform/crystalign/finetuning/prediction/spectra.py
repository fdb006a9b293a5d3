"""Predict a spectrum by nearest neighbours in the aligned embedding space, without fitting a head or any weight.

In the aligned space a crystal lies near matching spectra. Its spectrum is predicted as the weighted mean of the
nearest training spectra. (Moro et al., MultiMat, Newton 1, 100016 (2025), take the best of up to 15; here the target
is not used for the choice.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError
from crystalign.material import Material
from crystalign.modalities import Modality
from crystalign.modalities.spectrum import SpectrumModality
from crystalign.model import Model
from crystalign.shards.dataset import Dataset
from crystalign.shards.schema import table_to_materials
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitName, SplitRule

Array = NDArray[np.float64]
NEIGHBOURS = 5
"""Number of training spectra that are averaged."""
SHARPNESS = 1.0 / 0.07
"""Default 1/τ of a pair without a trained temperature."""
SPECTRA = ("dos", "phonon_dos", "xrd")


class SpectrumErrors(NamedTuple):
    """MultiMat's normalised error ∫|y − ŷ| / ∫y of n materials, over the known range; NaN if y is zero."""

    predicted: Array
    """(n,) errors of the prediction."""
    mean: Array
    """(n,) errors of the mean training spectrum, the baseline that ignores the structure."""


@dataclass(frozen=True, eq=False)
class SpectrumTarget:
    """ŷ(c) = Σ_j w_j y_j,  w = softmax_j(⟨z_c, z_j⟩/τ) over the k training spectra with the largest ⟨z_c, z_j⟩.

    At each energy the mean is over those of the k spectra that are known there; if none is, ŷ is zero.
    """

    model: Model
    """Pre-trained model that embeds crystals and spectra."""
    name: str
    """`dos` (states/eV/atom from −10 to 10 eV), `phonon_dos` or `xrd` (on the model's grid, as its network sees it)."""
    vectors: NDArray[np.float32]
    """(m, D) embeddings of the training spectra."""
    curves: Array
    """(m, G) the training spectra."""
    known: NDArray[np.bool_]
    """(m, G) mask of the known range of each."""
    neighbours: int = NEIGHBOURS
    """Number of neighbours k."""

    @classmethod
    def fit(cls, model: Model, name: str, materials: Sequence[Material], neighbours: int = NEIGHBOURS) -> Self:
        """Store the training materials that have the spectrum; others are skipped.

        Raises:
            ConfigError: the modality is not a spectrum, the model does not have it, or no material has one.
        """
        if name not in SPECTRA:
            raise ConfigError(f"{name!r} is not a spectrum; there are {', '.join(SPECTRA)}")
        modality = model.modality(name)
        values = [value for material in materials if (value := material.value(name)) is not None]
        if not values:
            raise ConfigError(
                f"none of {len(materials)} training materials has {name}; `crystalign derive`, or ingest it"
            )
        curves = np.stack([_curve(modality, value) for value in values])
        in_range = np.stack([_known(modality, value, curves.shape[1]) for value in values])
        return cls(model, name, model.embed(name, values), curves, in_range, neighbours)

    def predict(self, crystals: Sequence[Crystal]) -> Array:
        """Predict the spectra (n, G) of n crystals.

        Raises:
            InputError: a crystal that cannot be encoded.
        """
        cosines = self.model.embed("crystal", crystals).astype(np.float64) @ self.vectors.astype(np.float64).T  # (n, m)
        k = min(self.neighbours, cosines.shape[1])
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]  # (n, k)
        scores = self._sharpness() * np.take_along_axis(cosines, nearest, axis=1)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
        weights /= weights.sum(axis=1, keepdims=True)
        shares = weights[:, :, None] * self.known[nearest]  # (n, k, G)
        total = shares.sum(axis=1)
        return np.asarray((shares * self.curves[nearest]).sum(axis=1) / np.where(total > 0, total, 1.0))

    def errors(self, materials: Sequence[Material]) -> SpectrumErrors:
        """Compare the errors of prediction and mean training spectrum on materials that were not trained on.

        Raises:
            ConfigError: a material has no spectrum.
        """
        missing = [material.id for material in materials if material.value(self.name) is None]
        if missing:
            raise ConfigError(f"{len(missing)} materials, such as {missing[0]}, have no {self.name} to compare with")
        modality = self.model.modality(self.name)
        curves = np.stack([_curve(modality, material.value(self.name)) for material in materials])
        in_range = np.stack([_known(modality, m.value(self.name), curves.shape[1]) for m in materials])
        predicted = self.predict([material.crystal for material in materials])
        counted = self.known.sum(axis=0)
        mean = (self.curves * self.known).sum(axis=0) / np.where(counted > 0, counted, 1)
        return SpectrumErrors(_normalised(curves, predicted, in_range), _normalised(curves, mean, in_range))

    def _sharpness(self) -> float:
        for pair, scale in self.model.logit_scales().items():
            if set(pair) == {"crystal", self.name}:
                return float(scale.detach())
        return SHARPNESS


def part_of(model: Model, dataset: Dataset, which: SplitName, name: str) -> list[Material]:
    """Read the materials with a spectrum in one part of the split that the model was trained with.

    Raises:
        ConfigError: the model does not record its split.
        DatasetError: no material is left.
    """
    if not model.card.split:
        raise ConfigError("the model does not record which split it was trained on; pre-train with this version")
    rule = SplitRule.from_mapping(model.card.split, origin="the split of the model")
    fits = [model.modality("crystal")]
    selection = Selection.build(dataset, rule, which, [name], fits=fits)
    materials: list[Material] = []
    for index in np.flatnonzero(selection.counts).tolist():
        shard, group, _ = selection.rows(index)[0].tolist()
        table = dataset.read(shard, row_group=group, modalities=[name])
        materials += table_to_materials(table.take(selection.rows(index)[:, 2]), modalities=[name])
    return materials


def _curve(modality: Modality[Any], value: Any) -> Array:
    if isinstance(modality, SpectrumModality):
        return np.asarray(modality.curve(value), np.float64)
    return np.asarray(modality.featurise(value)["pattern"], np.float64)


def _known(modality: Modality[Any], value: Any, points: int) -> NDArray[np.bool_]:
    return modality.known(value) if isinstance(modality, SpectrumModality) else np.ones(points, dtype=bool)


def _normalised(curves: Array, predicted: Array, in_range: NDArray[np.bool_]) -> Array:
    area = (curves * in_range).sum(axis=1)
    return np.asarray((np.abs(curves - predicted) * in_range).sum(axis=1) / np.where(area > 0, area, np.nan))

"""Features of a dataset's materials, computed once and cached in memory up to a limit.

Without augmentation they are the same in every epoch and in every trial, and making them (neighbours, spectra) costs
more than a step of a small network: one `FeatureStore` serves all trials of a process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalign.batch import Batch
from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.modalities import Features, Modality
from crystalign.shards.dataset import Dataset

CHUNK = 512
"""Materials per read."""
LIMIT = 2 * 2**30
"""Default limit of the cache in bytes."""

Places = NDArray[np.int64]


class FeatureStore:
    """Cache of features by position in the dataset, modality and its settings."""

    def __init__(self, dataset: Dataset, limit: int = LIMIT) -> None:
        """An empty store.

        Args:
            dataset: where values are read.
            limit: bytes that are cached; features beyond are recomputed each time.
        """
        self.dataset, self.limit = dataset, limit
        self.bytes = 0
        """Bytes cached now."""
        self._kept: dict[str, dict[tuple[int, int], Features | None]] = {}

    def prepare(self, places: Places, modalities: Mapping[str, Modality[Any]]) -> None:
        """Compute missing features before the clock of a fit starts.

        Args:
            places: (n, 2) shard and row.
            modalities: by name, with the settings of the network.

        Raises:
            InputError: a value that cannot be featurised; a note names its place.
        """
        for name, modality in modalities.items():
            cache = self._kept.setdefault(_key(modality), {})
            missing = sorted({(int(s), int(r)) for s, r in places} - set(cache))
            for start in range(0, len(missing), CHUNK):
                if self.bytes >= self.limit:
                    return
                chunk = missing[start : start + CHUNK]
                for position, features in zip(chunk, self._make(chunk, name, modality), strict=True):
                    cache[position] = features
                    self.bytes += sum(array.nbytes for array in (features or {}).values())

    def batch(self, places: Places, modalities: Mapping[str, Modality[Any]]) -> Batch:
        """Return the materials at these positions, in order, as a batch without equivalence keys."""
        rows = [(int(shard), int(row)) for shard, row in places]
        samples: dict[str, list[Features | None]] = {}
        for name, modality in modalities.items():
            cache = self._kept.get(_key(modality), {})
            absent = [position for position in rows if position not in cache]
            made = dict(zip(absent, self._make(absent, name, modality), strict=True)) if absent else {}
            samples[name] = [made[position] if position in made else cache[position] for position in rows]
        return collated(samples, modalities)

    def _make(self, places: Sequence[tuple[int, int]], name: str, modality: Modality[Any]) -> list[Features | None]:
        values = self.dataset.gather(places, name)
        features: list[Features | None] = []
        for position, value in zip(places, values, strict=True):
            try:
                features.append(None if value is None else modality.featurise(value))
            except InputError as error:
                error.add_note(f"while making the {name!r} features of row {position[1]} of shard {position[0]}")
                raise
        return features


def batch_of(materials: Sequence[Material], modalities: Mapping[str, Modality[Any]]) -> Batch:
    """Featurise materials that are not in a dataset as a batch without equivalence keys.

    Raises:
        InputError: a value that cannot be featurised; a note names the material.
    """
    samples: dict[str, list[Features | None]] = {name: [] for name in modalities}
    for material in materials:
        for name, modality in modalities.items():
            value = material.value(name)
            try:
                samples[name].append(None if value is None else modality.featurise(value))
            except InputError as error:
                error.add_note(f"while making the {name!r} features of material {material.id!r}")
                raise
    return collated(samples, modalities)


def collated(samples: Mapping[str, Sequence[Features | None]], modalities: Mapping[str, Modality[Any]]) -> Batch:
    """Collate features as a batch without equivalence keys, which regression does not need."""
    n = len(next(iter(samples.values())))
    present = {name: [s for s in column if s is not None] for name, column in samples.items()}
    return Batch(
        real=torch.ones(n, dtype=torch.bool),
        present={name: torch.tensor([s is not None for s in column]) for name, column in samples.items()},
        inputs={
            name: modality.collate(present[name] or [modality.empty_sample()]) for name, modality in modalities.items()
        },
        keys={},
    )


def _key(modality: Modality[Any]) -> str:
    return f"{modality.name} {json.dumps(modality.settings.model_dump(mode='json'), sort_keys=True)}"

"""Full data of one material, read from the dataset by the shard and row number in its index row."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalign.crystal import pretty_formula
from crystalign.errors import DatasetError, StorageError
from crystalign.index.manifest import IndexManifest
from crystalign.material import HYPOTHETICAL
from crystalign.physics.symmetry import symbol_of
from crystalign.properties import PredictedProperty, PropertySpec
from crystalign_serve.backend import Record

if TYPE_CHECKING:
    from crystalign.material import Material
    from crystalign.shards.dataset import Dataset

_CACHED_MATERIALS = 256


class Materials:
    """The dataset of an index, with a cache of the last materials read.

    Raises:
        DatasetError: the dataset is not the one that was embedded.
    """

    def __init__(self, uri: str, sha256: str) -> None:
        from crystalign.shards.dataset import Dataset

        self._dataset: Dataset = Dataset.open(uri)
        if self._dataset.manifest.sha256 != sha256:
            raise DatasetError(
                f"the dataset at {uri} has changed since it was embedded: embed it again and rebuild the index"
            )
        self.get = functools.lru_cache(_CACHED_MATERIALS)(self._dataset.material)
        self.gather = self._dataset.gather

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Name, licence, vintage and number of rows of each source."""
        return [source.model_dump(mode="json") for source in self._dataset.manifest.sources]


def open_materials(manifest: IndexManifest, dataset_uri: str | None) -> Materials:
    """Open the dataset of an index, at `dataset_uri` or else at the URI in the manifest.

    Raises:
        DatasetError: it does not exist, or is not the one that was embedded.
    """
    uri = dataset_uri or manifest.dataset_uri
    try:
        return Materials(uri, manifest.dataset_sha256)
    except (DatasetError, StorageError) as error:
        raise DatasetError(f"the dataset of this index cannot be used: {error}; give its URI with --dataset") from error


def describe(
    material: Material,
    record: Record,
    properties: Sequence[PropertySpec],
    predictions: Sequence[PredictedProperty] = (),
) -> dict[str, Any]:
    """The JSON description of a material, without atoms and curves."""
    crystal = material.crystal
    lengths = np.linalg.norm(crystal.lattice, axis=1)
    text = material.value("text")
    return {
        "id": material.id,
        "formula": pretty_formula(crystal.formula),
        "spacegroup_number": record["spacegroup_number"],
        "spacegroup_symbol": _symbol(record["spacegroup_number"]),
        "prototype": record["prototype"],
        "lattice": {
            **dict(zip("abc", lengths.round(4).tolist(), strict=True)),
            **dict(zip(("alpha", "beta", "gamma"), _angles(crystal.lattice), strict=True)),
            "volume": round(crystal.volume, 3),
        },
        "n_sites": len(crystal),
        "text": None if text is None else text.description,
        "remarks": " | ".join(material.remarks) or None,
        "properties": listed_properties(record, properties),
        "provenance": {
            "source": material.provenance.source,
            "licence": material.provenance.licence,
            "vintage": material.provenance.vintage,
            "reference": material.provenance.reference,
        },
        "hypothetical": material.provenance.hypothetical,
        "predictions": listed_predictions(record, predictions),
        "modalities": ["crystal", *(name for name, value in material.modalities.items() if value is not None)],
    }


def listed_properties(record: Record, properties: Sequence[PropertySpec]) -> list[dict[str, Any]]:
    """Properties of a row that have a value, with label and unit."""
    listed = []
    for spec in properties:
        value = record.get(spec.column)
        if value is not None and math.isfinite(value):
            label = f"{spec.quantity.label}, {spec.method.upper()}"
            listed.append({"key": spec.column, "label": label, "unit": spec.quantity.unit, "value": value})
    return listed


def listed_predictions(record: Record, predictions: Sequence[PredictedProperty]) -> list[dict[str, Any]]:
    """Predicted properties of a row that have a value, with interval, out-of-domain score and model."""
    listed = []
    for spec in predictions:
        said: dict[str, Any] = {part: record.get(column) for part, column in spec.columns.items()}
        if said["value"] is not None:
            about = {"key": spec.column, "label": spec.label, "unit": spec.unit, "model": spec.model}
            listed.append({**about, **said, "level": spec.level})
    return listed


def listed_result(
    rank: int,
    score: float,
    record: Record,
    match: Record | None,
    properties: Sequence[PropertySpec],
    predictions: Sequence[PredictedProperty] = (),
) -> dict[str, Any]:
    """One result of a search response."""
    return {
        "rank": rank,
        "id": record["id"],
        "score": score,
        "match": match,
        "formula": pretty_formula(record["formula"]),
        "spacegroup_number": record["spacegroup_number"],
        "spacegroup_symbol": _symbol(record["spacegroup_number"]),
        "n_sites": record["n_sites"],
        "source": record["source"],
        "licence": record["licence"],
        "remarks": record.get("remarks"),
        "hypothetical": bool(record.get(HYPOTHETICAL)),
        "properties": listed_properties(record, properties),
        "predictions": listed_predictions(record, predictions),
    }


def _symbol(number: int | None) -> str | None:
    return None if number is None else symbol_of(number)


def _angles(lattice: Any) -> list[float]:
    """α, β, γ in degrees: between b and c, c and a, a and b."""
    unit = lattice / np.linalg.norm(lattice, axis=1, keepdims=True)
    cosines = [float(unit[i] @ unit[j]) for i, j in ((1, 2), (2, 0), (0, 1))]
    return [round(math.degrees(math.acos(max(-1.0, min(1.0, c)))), 3) for c in cosines]

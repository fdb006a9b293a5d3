"""The prediction dataset, which `crystalign predict --data` writes and an index takes as columns.

    predictions/
    ├── manifest.json                            models, dataset, every file with its checksum; written last
    └── predictions/<name>.<provenance>.parquet  one row per material: id, place in the dataset, values, what failed

Files are written and found again as those of an embedding dataset. They are in the order of the dataset, so that an
index joins them to embeddings row by row; every id is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.errors import ConfigError, DatasetError
from crystalign.index.embeddings import EmbeddingProvenance
from crystalign.index.stored_manifest import StoredManifest
from crystalign.properties import PredictedProperty

PROBLEM = "problem"
"""Column with the reason why a value is missing; null where nothing failed."""


class PredictionProvenance(EmbeddingProvenance):
    """Everything that determines the content of a file; `model_sha256` stands for all models and the level."""

    modality: str = "predictions"
    """No modality is embedded."""

    def path(self, name: str) -> str:
        """Path of the file of this provenance, relative to the prediction dataset."""
        return f"predictions/{name}.{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}.parquet"


class PredictionFile(storage.FileEntry):
    """One file of predictions: consecutive rows of one shard."""

    shard: int
    """Index of the shard."""
    start: int
    """First row within the shard."""
    rows: int
    """Number of rows."""
    failed: int = 0
    """Rows for which a model gave no value."""


class PredictionManifest(StoredManifest):
    """Identity and content of a prediction dataset. A dataset without a manifest does not exist."""

    content: ClassVar[str] = "predictions"
    command: ClassVar[str] = "crystalign predict --data"

    predictions: tuple[PredictedProperty, ...]
    """What is predicted, and by which models."""
    dataset_uri: str
    """URI of the dataset of the materials."""
    dataset_sha256: str
    """SHA-256 of the manifest of that dataset."""
    made_by: str = ""
    """SHA-256 of models, their names and the settings; empty if an earlier release wrote it."""
    rows: int
    """Number of rows of all files."""
    files: tuple[PredictionFile, ...]
    """All files in the order of the dataset, with paths relative to the prediction dataset."""


def prediction_table(
    ids: Sequence[str],
    shard: int,
    start: int,
    specs: Sequence[PredictedProperty],
    records: Sequence[Mapping[tuple[str, str], Mapping[str, Any]]],
    problems: Sequence[str | None],
) -> pa.Table:
    """The table of a file.

    Args:
        ids: (n,) ids of consecutive rows of a shard.
        shard: index of the shard.
        start: the first row.
        specs: the predicted properties.
        records: (n,) for each row, (model, column of the target) → value, lower, upper and out_of_domain; None where
            unknown.
        problems: (n,) why values are missing.
    """
    columns: dict[str, pa.Array[Any]] = {
        "id": pa.array(ids, pa.string()),
        "shard": pa.array(np.full(len(ids), shard), pa.int32()),
        "row": pa.array(np.arange(start, start + len(ids)), pa.int64()),
    }
    for spec in specs:
        said = [record.get((spec.model, spec.target.column), {}) for record in records]
        for part, column in spec.columns.items():
            columns[column] = pa.array([one.get(part) for one in said], pa.float64())
    return pa.table({**columns, PROBLEM: pa.array(problems, pa.string())})


def distinct_columns(specs: Sequence[PredictedProperty]) -> None:
    """Check that no property is predicted twice, because the values of two models are never mixed.

    Raises:
        ConfigError: two models predict the same property.
    """
    models: dict[str, PredictedProperty] = {}
    for spec in specs:
        other = models.setdefault(spec.column, spec)
        if other is not spec:
            raise ConfigError(
                f"the models {other.model!r} and {spec.model!r} both predict {spec.target.column}; use one of them, "
                "because values of different models are never mixed in a column"
            )


class PredictionColumns:
    """Joins predictions to the rows of embeddings; holds one file of each prediction dataset in memory."""

    def __init__(self, uris: Sequence[str], dataset_sha256: str) -> None:
        """Open prediction datasets.

        Args:
            uris: where they are.
            dataset_sha256: SHA-256 of the manifest of the dataset that was embedded.

        Raises:
            DatasetError: there are no predictions at a URI, or they are of another dataset or another version of it.
            ConfigError: two of them predict the same property.
        """
        self._manifests = [(uri, PredictionManifest.read(uri)) for uri in uris]
        for uri, manifest in self._manifests:
            if manifest.dataset_sha256 != dataset_sha256:
                raise DatasetError(
                    f"the predictions at {uri} are of dataset {manifest.dataset_sha256[:12]} ({manifest.dataset_uri}), "
                    f"the embeddings of {dataset_sha256[:12]}: predict and embed the same version of a dataset"
                )
        self.specs = tuple(spec for _, manifest in self._manifests for spec in manifest.predictions)
        distinct_columns(self.specs)
        self.columns = tuple(column for spec in self.specs for column in spec.columns.values())
        self._last: dict[str, tuple[PredictionFile, pa.Table]] = {}

    @property
    def key(self) -> list[str]:
        """SHA-256 of all files, which determine the values."""
        return [entry.sha256 for _, manifest in self._manifests for entry in manifest.files]

    def _read(self, uri: str, entry: PredictionFile) -> pa.Table:
        """A file; the last one of each prediction dataset is kept, because embeddings come in the same order."""
        if uri not in self._last or self._last[uri][0] != entry:
            self._last[uri] = entry, pq.read_table(pa.BufferReader(storage.read_verified(uri, entry)))
        return self._last[uri][1]

    def joined(self, rows: pa.Table) -> pa.Table:
        """The rows with the columns of all predictions; null where a row was not predicted.

        Args:
            rows: with `id`, and `shard` and `row` within the dataset.

        Raises:
            DatasetError: the predictions belong to other materials.
            VerificationError: a file differs from its manifest.
        """
        for uri, manifest in self._manifests:
            names = [column for spec in manifest.predictions for column in spec.columns.values()]
            values = np.full((len(rows), len(names)), np.nan)
            shards, places = (rows.column(name).to_numpy() for name in ("shard", "row"))
            for entry in manifest.files:
                here = np.flatnonzero(
                    (shards == entry.shard) & (places >= entry.start) & (places < entry.start + entry.rows)
                )
                if len(here):
                    found = self._read(uri, entry).take(pa.array(places[here] - entry.start))
                    _check_ids(rows.column("id").take(pa.array(here)), found.column("id"), uri)
                    values[here] = np.column_stack(
                        [found.column(name).to_numpy(zero_copy_only=False) for name in names]
                    )
            for number, name in enumerate(names):
                column = pa.array(values[:, number], pa.float64(), from_pandas=True)  # NaN is unknown
                rows = rows.append_column(name, column)
        return rows


def _check_ids(wanted: pa.ChunkedArray[Any], found: pa.ChunkedArray[Any], uri: str) -> None:
    """Compare the ids of rows at the same place.

    Raises:
        DatasetError: they differ.
    """
    for one, other in zip(wanted.to_pylist(), found.to_pylist(), strict=True):
        if one != other:
            raise DatasetError(
                f"the predictions at {uri} belong to another dataset: where the embeddings have {one!r} they have "
                f"{other!r}; predict the dataset that was embedded"
            )

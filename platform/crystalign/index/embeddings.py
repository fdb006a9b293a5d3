"""The embedding dataset: what `crystalign embed` writes and an index is built from.

    embeddings/
    ├── manifest.json                       which model, which data, every file by checksum; written last
    └── embeddings/<name>.<making>.parquet  one row per material: vector, what filters need, place in the dataset

Every file also names its own making, in its Parquet metadata and by a hash in its name, so that a restarted job can
tell the files it may keep from those of another model or dataset, and two jobs never write to one file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConflictError, DatasetError, StorageError
from crystalign.properties import PropertySpec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LIGHT_COLUMNS = (
    "id",
    "formula",
    "chemsys",
    "elements",
    "n_sites",
    "spacegroup_number",
    "prototype",
    "split_formula",
    "source",
    "licence",
    "remarks",
)
"""Columns of the dataset that travel with each vector, properties aside."""
_MAKING = b"crystalign"


class EmbeddingFile(storage.FileEntry):
    """One file of vectors."""

    rows: int
    """Number of vectors in it."""


class Making(Config):
    """What decides the content of a file: a restarted job keeps a file whose making is the same."""

    model_sha256: str
    """Of the model that made the vectors."""
    dataset_sha256: str
    """Of the manifest of the dataset."""
    modality: str
    """What was embedded."""
    part: str | None = None
    """`train`, `validation` or `test` of the model's split; None is every row that has the modality."""
    shard: int = -1
    """Number of the shard; -1 for the whole."""
    row_groups: tuple[int, ...] = ()
    """Of the shard."""

    def path(self, name: str) -> str:
        """Of the file of this making, relative to the embedding dataset."""
        return f"embeddings/{name}.{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}.parquet"


class EmbeddingManifest(Config):
    """Identity and content of an embedding dataset; without it there is none."""

    schema_version: int = SCHEMA_VERSION
    """Version of this layout."""
    model_uri: str
    """Where the model was when it embedded."""
    model_sha256: str
    """Which model it was."""
    modality: str
    """Whose embeddings these are."""
    dimension: int
    """D, of the unit vectors."""
    dataset_uri: str
    """Where the materials are."""
    dataset_sha256: str
    """Of the manifest of that dataset."""
    part: str | None = None
    """Part of the model's split that was embedded; None is all of it."""
    split: dict[str, Any] = {}
    """The split rule that the model carries."""
    rows: int
    """Vectors in all files."""
    properties: tuple[PropertySpec, ...]
    """Property columns of every file."""
    licences: tuple[str, ...]
    """Of the rows."""
    files: tuple[EmbeddingFile, ...]
    """Every file, by path relative to the dataset."""

    @classmethod
    def read(cls, uri: str) -> Self:
        """The manifest of the embedding dataset at `uri`.

        Raises:
            DatasetError: there is none, or it is of another schema version.
        """
        try:
            values = json.loads(storage.read_bytes(storage.join(uri, MANIFEST)))
        except StorageError as error:
            raise DatasetError(
                f"no embeddings at {uri}: it has no {MANIFEST}; make them with `crystalign embed`"
            ) from error
        if values.get("schema_version") != SCHEMA_VERSION:
            raise DatasetError(
                f"the embeddings at {uri} have schema version {values.get('schema_version')}, this release reads "
                f"{SCHEMA_VERSION}: embed again"
            )
        return cls.from_mapping(values, origin=f"the manifest of {uri}")

    def write(self, uri: str) -> None:
        """Write the manifest, once and for all; every file it names must be there.

        Raises:
            ConflictError: there are embeddings.
        """
        data = json.dumps(self.model_dump(mode="json"), indent=1).encode()
        storage.write_bytes(storage.join(uri, MANIFEST), data, if_absent=True)

    @property
    def making(self) -> Making:
        """What decides the content of the whole."""
        return Making(
            model_sha256=self.model_sha256,
            dataset_sha256=self.dataset_sha256,
            modality=self.modality,
            part=self.part,
        )


def with_remarks(table: pa.Table) -> pa.Table:
    """The table with its column `remarks`, unknown in every row where it was made before there was one."""
    if "remarks" in table.column_names:
        return table
    return table.append_column("remarks", pa.nulls(len(table), pa.string()))


def embedding_table(
    rows: pa.Table,
    vectors: NDArray[np.float32],
    *,
    shard: int,
    positions: Sequence[int],
    properties: Sequence[PropertySpec],
) -> pa.Table:
    """Vectors beside what filters and result lists need.

    Args:
        rows: the materials' rows, with at least `LIGHT_COLUMNS` and the property columns.
        vectors: (n, D) unit vectors; stored as float16.
        shard: number of the shard the rows come from.
        positions: (n,) row numbers within that shard.
        properties: which property columns to keep.
    """
    names = [*LIGHT_COLUMNS, *(spec.column for spec in properties)]
    flat = pa.array(vectors.astype(np.float16).reshape(-1), pa.float16())
    kept = with_remarks(rows).select(names).combine_chunks()
    kept = kept.add_column(1, "embedding", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    kept = kept.append_column("shard", pa.array(np.full(len(rows), shard), pa.int32()))
    return kept.append_column("row", pa.array(positions, pa.int64()))


def write_embeddings(uri: str, name: str, table: pa.Table, making: Making) -> EmbeddingFile:
    """Write one file, verified. One of the same making that another job has just written is taken instead.

    Raises:
        VerificationError: what was read back is not what was written.
    """
    sink = pa.BufferOutputStream()
    stamped = table.replace_schema_metadata({_MAKING: making.model_dump_json().encode()})
    pq.write_table(stamped, sink, compression="zstd", write_page_checksum=True)
    path, data = making.path(name), bytes(sink.getvalue())
    place = storage.join(uri, path)
    try:
        entry = storage.write_bytes(place, data, if_absent=True)
    except ConflictError:
        if (found := existing_embeddings(uri, name, making)) is not None:
            return found
        entry = storage.replace_bytes(place, data, expected=storage.sha256_of(place))  # cut off or damaged
    return EmbeddingFile(path=path, bytes=entry.bytes, sha256=entry.sha256, rows=len(table))


def existing_embeddings(uri: str, name: str, making: Making) -> EmbeddingFile | None:
    """The file of an interrupted job if it is whole and of the same making; None otherwise."""
    path = making.path(name)
    try:
        data = storage.read_bytes(storage.join(uri, path))
    except StorageError:
        return None
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return None  # cut off or damaged: it is made again
    if (table.schema.metadata or {}).get(_MAKING) != making.model_dump_json().encode():
        return None
    return EmbeddingFile(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=len(table))


def read_embeddings(uri: str) -> tuple[pa.Table, NDArray[np.float32]]:
    """Every row and its vector, in dataset order; for evaluation and small sets.

    Returns:
        The table without the vectors, and (n, D) vectors.

    Raises:
        DatasetError: no embeddings there.
        VerificationError: a file is not the one the manifest names.
    """
    from crystalign.index.search import embedding_matrix

    manifest = EmbeddingManifest.read(uri)
    tables = []
    for entry in manifest.files:
        data = storage.read_bytes(storage.join(uri, entry.path))
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DatasetError(f"{entry.path} of {uri} is not the file its manifest names; embed again")
        tables.append(pq.read_table(pa.BufferReader(data)))
    table = pa.concat_tables(tables).combine_chunks()
    return table.drop_columns(["embedding"]), embedding_matrix(table).astype(np.float32)

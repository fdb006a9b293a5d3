"""The embedding dataset, which `crystalign embed` writes and from which an index is built.

    embeddings/
    ├── manifest.json                           model, dataset, every file with its checksum; written last
    └── embeddings/<name>.<provenance>.parquet  one row per material: vector, columns for filters, row in the dataset

Every file records its provenance in its Parquet metadata and as a hash in its name. A restarted job can therefore
reuse its own files and does not mistake those of another model or dataset for them. Two jobs never write to the same
file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import DatasetError, VerificationError
from crystalign.index.columns import whole
from crystalign.index.filter_fields import joined_keywords
from crystalign.index.stamped import stamped_entry, write_stamped
from crystalign.index.stored_manifest import StoredManifest
from crystalign.material import HYPOTHETICAL
from crystalign.properties import PropertySpec

EMBEDDING = "embedding"
"""Name of the column of vectors."""
TEXT = "text"
"""Name of the modality of a dataset from which `TEXT_COLUMNS` are made."""
CONTENT = "content"
"""Name of the column of hashes, by which a later job sees which rows have changed."""
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
"""Columns of the dataset that are stored with each vector, in addition to the properties."""
FACT_COLUMNS: dict[str, pa.DataType] = {"keywords": pa.string(), "density": pa.float64()}
"""Columns for filters that follow from a caption with facts: keywords, and density (g/cm³). Null without facts."""
TEXT_COLUMNS: dict[str, pa.DataType] = {"words": pa.string(), **FACT_COLUMNS}
"""The text of a material, for the lexical index, and what follows from its facts. Null without a text."""


class EmbeddingFile(storage.FileEntry):
    """One file of vectors."""

    rows: int
    """Number of vectors in the file."""


class EmbeddingProvenance(Config):
    """Everything that determines the content of a file; a restarted job reuses files of the same provenance."""

    model_sha256: str
    """SHA-256 of the model that computed the vectors."""
    dataset_sha256: str
    """SHA-256 of the manifest of the dataset."""
    modality: str
    """The modality that was embedded."""
    part: str | None = None
    """Part of the model's split: `train`, `validation` or `test`; None means all rows that have the modality."""
    shard: int = -1
    """Index of the shard; -1 means the whole dataset."""
    row_groups: tuple[int, ...] = ()
    """Row groups of the shard."""
    since: str | None = None
    """Identity of the earlier embeddings whose unchanged rows are left out; None if there are none."""

    @property
    def stamp(self) -> bytes:
        """The provenance as bytes; the same as in earlier releases where it has no `since`."""
        return self.model_dump_json(exclude={"since"} if self.since is None else set()).encode()

    def path(self, name: str) -> str:
        """Path of the file of this provenance, relative to the embedding dataset."""
        return f"embeddings/{name}.{hashlib.sha256(self.stamp).hexdigest()[:12]}.parquet"


class EmbeddingManifest(StoredManifest):
    """Identity and content of an embedding dataset. A dataset without a manifest does not exist."""

    content: ClassVar[str] = "embeddings"
    command: ClassVar[str] = "crystalign embed"

    model_uri: str
    """URI of the model at the time of embedding."""
    model_sha256: str
    """SHA-256 of the model."""
    modality: str
    """The modality that was embedded."""
    dimension: int
    """Dimension D of the unit vectors."""
    dataset_uri: str
    """URI of the dataset of the materials."""
    dataset_sha256: str
    """SHA-256 of the manifest of that dataset."""
    part: str | None = None
    """Part of the model's split that was embedded; None means all of it."""
    since: str | None = None
    """Identity of the earlier embeddings whose unchanged rows are left out; None if there are none."""
    split: dict[str, Any] = {}
    """The split rule of the model."""
    rows: int
    """Number of vectors in all files."""
    properties: tuple[PropertySpec, ...]
    """Property columns of every file."""
    licences: tuple[str, ...]
    """Licences of the rows."""
    files: tuple[EmbeddingFile, ...]
    """All files, with paths relative to the embedding dataset."""

    @property
    def provenance(self) -> EmbeddingProvenance:
        """The provenance of the dataset as a whole."""
        return EmbeddingProvenance(
            model_sha256=self.model_sha256,
            dataset_sha256=self.dataset_sha256,
            modality=self.modality,
            part=self.part,
            since=self.since,
        )


def with_remarks(table: pa.Table) -> pa.Table:
    """The table with a column `remarks`; tables of earlier releases get a column of nulls."""
    return with_columns(table, {"remarks": pa.string()})


def with_text_columns(table: pa.Table) -> pa.Table:
    """The table with `TEXT_COLUMNS`; tables of earlier releases get columns of nulls."""
    return with_columns(table, TEXT_COLUMNS)


def with_fact_columns(table: pa.Table) -> pa.Table:
    """The table with `FACT_COLUMNS`; segments without facts get columns of nulls."""
    return with_columns(table, FACT_COLUMNS)


def with_hypothetical(table: pa.Table) -> pa.Table:
    """The table with a column `hypothetical`, which is false where the table does not say."""
    table = with_columns(table, {HYPOTHETICAL: pa.bool_()})
    known = pc.fill_null(table[HYPOTHETICAL], False)
    return table.set_column(table.column_names.index(HYPOTHETICAL), HYPOTHETICAL, known)


def with_columns(table: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """The table with these columns; those that it lacks are null."""
    for name, kind in columns.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), kind))
    return table


def _text_columns(rows: pa.Table) -> dict[str, pa.Array[Any]]:
    """The values of `TEXT_COLUMNS`, from the column of texts."""
    from crystalign.modalities.text import TextModality
    from crystalign.text.keywords import keywords

    texts = [TextModality.from_column(cell) if cell.is_valid else None for cell in rows[TEXT]]
    facts = [None if text is None else text.facts for text in texts]
    values: dict[str, list[Any]] = {
        "words": [None if text is None else text.description for text in texts],
        "keywords": [None if fact is None else joined_keywords(keywords(fact)) for fact in facts],
        "density": [None if fact is None else fact.density for fact in facts],
    }
    return {name: pa.array(values[name], kind) for name, kind in TEXT_COLUMNS.items()}


def embedding_table(
    rows: pa.Table,
    vectors: NDArray[np.float32],
    *,
    shard: int,
    positions: Sequence[int],
    properties: Sequence[PropertySpec],
    modality: str | None = None,
) -> pa.Table:
    """A table of vectors with the columns that filters and result lists need; `hypothetical` only if a row is.

    Args:
        rows: the materials' rows, with at least `LIGHT_COLUMNS` and the property columns; `TEXT_COLUMNS` are made from
            the column of texts, if there is one.
        vectors: (n, D) unit vectors; stored as float16.
        shard: index of the shard that the rows come from.
        positions: (n,) row numbers within that shard.
        properties: property columns to include.
        modality: column of `rows` that was encoded; None leaves out the hash of the content.
    """
    names = [*LIGHT_COLUMNS, *(spec.column for spec in properties)]
    flat = pa.array(vectors.astype(np.float16).reshape(-1), pa.float16())
    table = with_remarks(rows).select(names).combine_chunks()
    if pc.any(with_hypothetical(rows)[HYPOTHETICAL]).as_py():
        table = table.append_column(HYPOTHETICAL, with_hypothetical(rows)[HYPOTHETICAL])
    for name, values in _text_columns(rows).items() if TEXT in rows.column_names else ():
        table = table.append_column(name, values)
    if modality is not None:
        table = table.append_column(CONTENT, contents(rows, [*names, modality, TEXT]))
    table = table.add_column(1, "embedding", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    table = table.append_column("shard", pa.array(np.full(len(rows), shard), pa.int32()))
    return table.append_column("row", pa.array(positions, pa.int64()))


def write_embeddings(uri: str, name: str, table: pa.Table, provenance: EmbeddingProvenance) -> EmbeddingFile:
    """Write one file and verify it. If another job has just written one of the same provenance, that one is used.

    Raises:
        VerificationError: the data read back differ from what was written.
    """
    path = provenance.path(name)
    entry, rows = write_stamped(storage.join(uri, path), table, provenance.stamp)
    return EmbeddingFile(path=path, bytes=entry.bytes, sha256=entry.sha256, rows=rows)


def existing_embeddings(uri: str, name: str, provenance: EmbeddingProvenance) -> EmbeddingFile | None:
    """The file that an interrupted job wrote, if it is complete and has the same provenance; None otherwise."""
    path = provenance.path(name)
    found = stamped_entry(storage.join(uri, path), provenance.stamp)
    return (
        None if found is None else EmbeddingFile(path=path, bytes=found[0].bytes, sha256=found[0].sha256, rows=found[1])
    )


def contents(rows: pa.Table, names: Sequence[str]) -> pa.Array[Any]:
    """(n,) a hash of each row: 32 hexadecimal digits that change if any of the named columns or its mark does.

    The hash of a row does not depend on the other rows. The mark is that of hypothetical rows.

    Args:
        rows: the rows.
        names: columns that count; those that the rows do not have are left out.
    """
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(len(rows))]
    for name in sorted({name for name in names if name in rows.column_names}):
        for digest, data in zip(hashes, _bytes_of(whole(rows.column(name))), strict=True):
            digest.update(name.encode() + data)
    for digest, mark in zip(hashes, with_hypothetical(rows)[HYPOTHETICAL].to_pylist(), strict=True):
        if mark:
            digest.update(HYPOTHETICAL.encode())
    return pa.array([digest.hexdigest() for digest in hashes], pa.string())


def _bytes_of(column: pa.Array[Any]) -> list[bytes]:
    """Bytes of each value of a column, with their length first; they differ if the values do."""
    if pa.types.is_struct(column.type):
        values = [b"".join(fields) for fields in zip(*map(_bytes_of, column.flatten()), strict=True)]
    elif (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        values = _pieces(column.flatten(), lengths)
    else:
        values = [repr(value).encode() for value in column.to_pylist()]
    valid = column.is_valid().to_pylist()
    return [b"%d:" % len(data) + data if ok else b"null:" for data, ok in zip(values, valid, strict=True)]


def _pieces(items: pa.Array[Any], lengths: NDArray[Any]) -> list[bytes]:
    """The bytes of consecutive pieces of an array, of the given lengths."""
    ends = np.cumsum(lengths).tolist()
    bounds = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
    if pa.types.is_floating(items.type) or pa.types.is_integer(items.type):
        missing = items.is_null().to_numpy(zero_copy_only=False)
        numbers = np.ascontiguousarray(items.fill_null(0).to_numpy(zero_copy_only=False))
        data, size = numbers.tobytes(), numbers.itemsize
        pieces = [data[start * size : end * size] for start, end in bounds]
        if not missing.any():
            return pieces
        masks = [missing[start:end] for start, end in bounds]
        return [piece + (mask.tobytes() if mask.any() else b"") for piece, mask in zip(pieces, masks, strict=True)]
    each = _bytes_of(items)
    return [b"".join(each[start:end]) for start, end in bounds]


def read_contents(uri: str, manifest: EmbeddingManifest) -> dict[str, str]:
    """Id → hash of the content, for all rows of the embeddings at `uri`.

    Raises:
        DatasetError: a file is missing or altered, or was written by a release that stored no such hashes.
    """
    found: dict[str, str] = {}
    for entry in manifest.files:
        try:
            data = storage.read_verified(uri, entry)
        except VerificationError as error:
            raise DatasetError(f"{error}; embed again") from error
        file = pq.ParquetFile(pa.BufferReader(data))
        if CONTENT not in file.schema_arrow.names:
            raise DatasetError(
                f"the embeddings at {uri} do not say what their rows were made from: embed all rows again"
            )
        table = file.read(columns=["id", CONTENT])
        found |= zip(table.column("id").to_pylist(), table.column(CONTENT).to_pylist(), strict=True)
    return found


def read_embeddings(uri: str) -> tuple[pa.Table, NDArray[np.float32]]:
    """Read all rows and vectors into memory, in dataset order; for evaluation and small sets.

    Returns:
        The table without the vectors, and (n, D) vectors.

    Raises:
        DatasetError: there are no embeddings, or a file is missing or differs from the manifest.
    """
    manifest = EmbeddingManifest.read(uri)
    tables = []
    for entry in manifest.files:
        try:
            data = storage.read_verified(uri, entry)
        except VerificationError as error:
            raise DatasetError(f"{error}; embed again") from error
        tables.append(pq.read_table(pa.BufferReader(data)))
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()  # earlier files lack `TEXT_COLUMNS`
    return table.drop_columns([EMBEDDING]), embedding_matrix(table).astype(np.float32)


def embedding_matrix(table: pa.Table) -> NDArray[np.float16]:
    """(n, D) vectors of the `embedding` column.

    Raises:
        DatasetError: a vector is missing or not finite.
    """
    column = table[EMBEDDING].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)
    values = column.flatten().to_numpy(zero_copy_only=False)
    if column.null_count or len(values) != len(column) * column.type.list_size or not np.isfinite(values).all():
        raise DatasetError("an embedding is missing or not finite: embed the dataset again")
    matrix: NDArray[np.float16] = values.astype(np.float16).reshape(len(column), column.type.list_size)
    return matrix

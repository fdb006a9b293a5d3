"""The rows of an embedding dataset as an index stores them: checked, and with the columns that filters need."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.crystal import SYMBOLS
from crystalign.errors import DatasetError
from crystalign.index.embeddings import (
    TEXT_COLUMNS,
    EmbeddingFile,
    EmbeddingManifest,
    embedding_matrix,
    with_hypothetical,
    with_remarks,
    with_text_columns,
)
from crystalign.index.filters import ELEMENT_COLUMNS, element_bits
from crystalign.index.lexical import WordCounts
from crystalign.index.predictions import PredictionColumns
from crystalign.index.segment_writer import Rows
from crystalign.material import HYPOTHETICAL

LENGTH_TOLERANCE = 0.01
"""Largest deviation of the length of a vector from 1."""


class EmbeddingRows(NamedTuple):
    """The rows of all files of an embedding dataset, one file after the other."""

    uri: str
    """URI of the embeddings."""
    manifest: EmbeddingManifest
    """Their manifest."""
    columns: tuple[str, ...]
    """Columns to keep, in addition to those that come from the texts and to the mark of hypothetical rows."""
    predicted: PredictionColumns
    """Predictions that are joined to the rows."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(entry.rows for entry in self.manifest.files)

    @property
    def key(self) -> str:
        """SHA-256 of what determines the rows."""
        parts = [*(entry.sha256 for entry in self.manifest.files), *self.columns, str(self.manifest.dimension)]
        parts += self.predicted.key
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read(self, start: int, stop: int, folder: Path) -> Rows:
        """The rows from `start` to `stop`. Only the files that hold them are read, one at a time.

        Raises:
            VerificationError: a file differs from the manifest.
            DatasetError: a column is missing, or a vector is missing or has a wrong dimension or length.
        """
        tables, places = [], []
        for entry, first, last in self._parts(start, stop):
            tables.append(self._table(entry, first, last, folder / "embeddings.parquet"))
            places += [entry.path] * (last - first)
        table = pa.concat_tables(tables).combine_chunks()
        _check(table, self.manifest.dimension)
        words = WordCounts.of(table["words"].to_pylist())
        return Rows(_with_bitmap(table.drop_columns(["words"])), words, places)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[EmbeddingFile, int, int]]:
        """The files that overlap a range of rows, and the first and last row within each."""
        ends = itertools.accumulate(entry.rows for entry in self.manifest.files)
        for entry, end in zip(self.manifest.files, ends, strict=True):
            begin = end - entry.rows
            if begin < stop and end > start:
                yield entry, max(start, begin) - begin, min(stop, end) - begin

    def _table(self, entry: EmbeddingFile, first: int, last: int, local: Path) -> pa.Table:
        storage.download(storage.join(self.uri, entry.path), local, expect=entry)
        with pq.ParquetFile(local) as file:
            if file.metadata.num_rows != entry.rows:
                raise DatasetError(
                    f"{entry.path} of {self.uri} holds {file.metadata.num_rows} rows, its manifest says {entry.rows}: "
                    "embed the dataset again"
                )
            table = with_hypothetical(with_text_columns(with_remarks(file.read())))
        table = self.predicted.joined(table.slice(first, last - first))
        missing = [name for name in self.columns if name not in table.column_names]
        if missing:
            raise DatasetError(
                f"{entry.path} of {self.uri} lacks the columns {', '.join(missing)}: embed the dataset again"
            )
        return table.select([*self.columns, *TEXT_COLUMNS, HYPOTHETICAL]).replace_schema_metadata(None)


def _check(table: pa.Table, dimension: int) -> None:
    vectors = embedding_matrix(table)
    if vectors.shape[1] != dimension:
        raise DatasetError(f"vectors of dimension {vectors.shape[1]} in embeddings of dimension {dimension}")
    deviations = np.abs(np.linalg.norm(vectors.astype(np.float32), axis=1) - 1.0)
    if (deviations > LENGTH_TOLERANCE).any():
        worst = int(np.argmax(deviations))
        length = np.linalg.norm(vectors[worst].astype(np.float32))
        raise DatasetError(f"the embedding of {table['id'][worst].as_py()} has length {length:.4f}, expected 1")


def _with_bitmap(table: pa.Table) -> pa.Table:
    """Add the columns that filters need: the elements as a bitmap, and their number. NaN values become null."""
    numbers = {symbol: z for z, symbol in enumerate(SYMBOLS)}
    lists: list[list[str]] = table["elements"].to_pylist()
    bits = [element_bits(numbers[symbol] for symbol in row) for row in lists]
    for name, words in zip(ELEMENT_COLUMNS, zip(*bits, strict=True), strict=True):
        table = table.append_column(name, pa.array(words, type=pa.uint64()))
    table = table.append_column("nelements", pa.array([len(row) for row in lists], type=pa.int32()))
    for position, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column: Any = table.column(position)
            unknown = pc.is_nan(column)
            table = table.set_column(position, field, pc.if_else(unknown, pa.scalar(None, field.type), column))
    return table

"""Read a table of queries: pinned by its checksum, a few rows at a time, each row refused by itself."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.errors import ConfigError, FileFormatError, InputError, QueryError, StorageError, VerificationError
from crystalign_serve.errors import MAX_BODY_BYTES

MAX_GROUP_BYTES = 2**30
"""Largest size of a row group of a table after decompression (bytes)."""
ROWS_AT_ONCE = 128
"""Rows that are decoded at once."""


class Row(NamedTuple):
    """A row of a table of queries."""

    values: dict[str, Any]
    """Column → value, None where it is null; without the values that cannot be read."""
    refusal: InputError | None = None
    """Why the row cannot be used."""


class Table:
    """A copy of a table of queries on this machine, so that every read sees the same content.

    Args:
        uri: URI of the `.parquet` file.
        sha256: its checksum; None: whatever is there now.

    Raises:
        ConfigError: it is no Parquet table, or a row group is too large.
        StorageError: it cannot be read.
        VerificationError: its checksum differs.
    """

    def __init__(self, uri: str, sha256: str | None = None) -> None:
        self.uri, self._folder = uri, tempfile.TemporaryDirectory(prefix="crystalign-")
        self._path = str(Path(self._folder.name, "queries.parquet"))
        storage.download(uri, self._path)
        self.sha256 = storage.fingerprint(self._path).sha256
        if sha256 not in (None, self.sha256):
            raise VerificationError(f"{uri} has changed since the screening began; run it again with another --out")
        try:
            with pq.ParquetFile(self._path) as file:
                self._metadata, self.columns = file.metadata, list(file.schema_arrow.names)
        except pa.ArrowException as error:
            raise ConfigError(f"{uri} is no Parquet table: {str(error)[:200]}") from error
        self._sizes = [self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups)]
        largest = max((self._metadata.row_group(i).total_byte_size for i in range(len(self._sizes))), default=0)
        if largest > MAX_GROUP_BYTES:
            raise ConfigError(
                f"{uri} has a row group of {largest:,} bytes; at most {MAX_GROUP_BYTES:,} are read: "
                "write smaller groups"
            )

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    def rows(self, start: int, stop: int, columns: list[str] | None = None) -> Iterator[Row]:
        """The rows from `start` to before `stop`; only the row groups that hold them are read.

        Raises:
            StorageError: the table is damaged, or ends before `stop`.
        """
        number = start
        try:
            for batch in self._batches(start, stop, columns):
                sizes = [_sizes(column) for column in batch.columns]
                for place in range(len(batch)):
                    yield _row(batch, place, sum(size[place] for size in sizes), number)
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{self.uri} cannot be read: {str(error)[:200]}") from error
        if number != stop:
            raise StorageError(f"{self.uri} ends at row {number:,}, before {stop:,}; write it again")

    def _batches(self, start: int, stop: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        first = 0
        with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
            for group, size in enumerate(self._sizes):
                at, last = first, first + size
                if first < stop and last > start:
                    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
                        low, high = max(start - at, 0), min(stop - at, len(batch))
                        if low < high:
                            yield batch.slice(low, high - low)
                        at += len(batch)
                        if at >= stop:
                            break
                first = last


@functools.lru_cache(1)
def pinned(uri: str, sha256: str) -> Table:
    """The table with a checksum, copied once per process; see `Table`."""
    return Table(uri, sha256)


def _sizes(column: pa.Array) -> list[int]:
    """Size of each value (bytes), found without making it."""
    if pa.types.is_dictionary(column.type):
        sizes = pa.array(_sizes(column.dictionary), pa.int64())
        return [size or 0 for size in sizes.take(column.indices).to_pylist()]
    if _is_text(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [size or 0 for size in pc.binary_length(column).to_pylist()]
    return [column.slice(place, 1).nbytes for place in range(len(column))]


def _row(batch: pa.RecordBatch, place: int, size: int, number: int) -> Row:
    if size > MAX_BODY_BYTES:
        large = f"row {number} has {size} bytes; at most {MAX_BODY_BYTES} are read"
        return Row({}, FileFormatError(large, reason="too-large"))
    values: dict[str, Any] = {}
    refusal: InputError | None = None
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = _value(column, place)
        except UnicodeDecodeError:
            refusal = QueryError(f"{name} of row {number} is not UTF-8; write it as UTF-8", reason="bad-text")
    return Row(values, refusal)


def _value(column: pa.Array, place: int) -> Any:
    """A value of a column.

    Raises:
        UnicodeDecodeError: it is text that is not UTF-8.
    """
    if pa.types.is_dictionary(column.type):
        index = column.indices[place].as_py()
        return None if index is None else _value(column.dictionary, index)
    return column[place].as_py()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

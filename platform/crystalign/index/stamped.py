"""Parquet files of restartable jobs: each records what it was made from, and is used again only if that is the same."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.errors import ConflictError, StorageError

_MAKING = b"crystalign"


def write_stamped(uri: str, table: pa.Table, stamp: bytes) -> tuple[storage.FileEntry, int]:
    """Write a table with its stamp and verify it. If another job has just written the same one, that one is used.

    Args:
        uri: URI of the file.
        table: its content; its own metadata are replaced.
        stamp: everything that determines the content.

    Returns:
        The entry of the file, with its name as path, and its number of rows.

    Raises:
        VerificationError: the data read back differ from what was written.
    """
    sink = pa.BufferOutputStream()
    stamped = table.replace_schema_metadata({_MAKING: stamp})
    pq.write_table(stamped, sink, compression="zstd", write_page_checksum=True)
    data = bytes(sink.getvalue())
    try:
        return storage.write_bytes(uri, data, if_absent=True), len(table)
    except ConflictError:
        if (existing := stamped_entry(uri, stamp)) is not None:
            return existing
        entry = storage.replace_bytes(uri, data, expected=storage.sha256_of(uri))  # truncated or damaged
        return entry, len(table)


def read_stamped(uri: str, stamp: bytes) -> pa.Table | None:
    """The table that a job wrote; None if there is none, it is damaged, or it was made from something else."""
    found = _read(uri, stamp)
    return None if found is None else found[0]


def stamped_entry(uri: str, stamp: bytes) -> tuple[storage.FileEntry, int] | None:
    """The entry of the file that a job wrote, and its number of rows; None where `read_stamped` finds nothing."""
    found = _read(uri, stamp)
    return None if found is None else (storage.entry_of(storage.name_of(uri), found[1]), len(found[0]))


def _read(uri: str, stamp: bytes) -> tuple[pa.Table, bytes] | None:
    try:
        data = storage.read_bytes(uri)
    except StorageError:
        return None
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return None  # truncated or damaged: it is made again
    return (table, data) if (table.schema.metadata or {}).get(_MAKING) == stamp else None

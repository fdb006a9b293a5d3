"""Read the files of segments: each is checked against the manifest."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import VerificationError
from crystalign.index.columns import FilterColumns
from crystalign.index.embeddings import (
    EMBEDDING,
    embedding_matrix,
    with_columns,
    with_fact_columns,
    with_hypothetical,
    with_remarks,
)
from crystalign.index.lexical import WordCounts
from crystalign.index.local_cache import Prepared
from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign.material import HYPOTHETICAL


def read_segments(uri: str, manifest: IndexManifest, entries: Sequence[SegmentEntry]) -> Prepared:
    """The content of some segment files, checked against the manifest, as one table; removed rows are in it.

    A property that the index has and a segment lacks is null there. If the index has materials of several datasets,
    the column `dataset` says which.

    Raises:
        VerificationError: a file is missing or differs from the manifest.
    """
    tables = [read_segment(uri, entry) for entry in entries]
    if manifest.has_facts:
        tables = [with_fact_columns(one) for one in tables]
    if manifest.has_hypothetical:
        tables = [with_hypothetical(one) for one in tables]
    tables = [with_columns(one, dict.fromkeys(manifest.number_columns, pa.float64())) for one in tables]
    if manifest.added_datasets:
        numbers = [pa.array(np.full(e.rows, e.dataset), pa.int32()) for e in entries]
        tables = [one.append_column("dataset", number) for one, number in zip(tables, numbers, strict=True)]
    table = pa.concat_tables(tables, promote_options="default")  # where a segment lacked them, they come last
    vectors = embedding_matrix(table)
    table = with_remarks(table.drop_columns([EMBEDDING])).combine_chunks()
    return Prepared(table, vectors, FilterColumns.of(table))


def read_segment(uri: str, entry: SegmentEntry) -> pa.Table:
    """All rows of a segment file.

    Raises:
        VerificationError: it is missing, differs from the manifest, or has another number of rows.
    """
    table = pq.read_table(io.BytesIO(verified(uri, entry)))
    if len(table) != entry.rows:
        raise VerificationError(
            f"{entry.path} of {uri} has {len(table):,} rows, the manifest says {entry.rows:,}: rebuild the index"
        )
    return table


def layout(manifest: IndexManifest, entries: Sequence[SegmentEntry]) -> list[str]:
    """What a prepared table depends on beside the segment files."""
    datasets = [str(entry.dataset) for entry in entries] if manifest.added_datasets else []
    flags = [str(manifest.has_facts), *([HYPOTHETICAL] if manifest.has_hypothetical else [])]
    return [*flags, *manifest.number_columns, *datasets]


def removed_bits(uri: str, entry: SegmentEntry) -> NDArray[np.uint8]:
    """(⌈rows / 8⌉,) bitmap of the removed rows of a segment.

    Raises:
        VerificationError: the file is missing, differs from the manifest, or does not fit the segment.
    """
    size = -(-entry.rows // 8)
    if entry.removed is None:
        return np.zeros(size, np.uint8)
    bits = np.frombuffer(verified(uri, entry.removed), np.uint8)
    if len(bits) != size or int(np.bitwise_count(bits).sum()) != entry.removed_rows:
        raise VerificationError(f"{entry.removed.path} of {uri} does not fit {entry.path}: rebuild the index")
    return bits


def removed_rows(uri: str, entries: Sequence[SegmentEntry]) -> NDArray[np.uint8] | None:
    """The removed rows of all segments, as one bitmap; None if there are none."""
    if all(entry.removed is None for entry in entries):
        return None
    masks = [np.unpackbits(removed_bits(uri, entry), bitorder="little", count=entry.rows) for entry in entries]
    return np.packbits(np.concatenate(masks), bitorder="little")


def word_counts(uri: str, entry: SegmentEntry) -> WordCounts:
    """The word counts of a segment; none if it has no texts.

    Raises:
        VerificationError: the file is missing or differs from the manifest.
    """
    return WordCounts.of([]) if entry.words is None else WordCounts.load(verified(uri, entry.words))


def verified(uri: str, entry: storage.FileEntry) -> bytes:
    """The content of a file of an index.

    Raises:
        VerificationError: it is missing or differs from the manifest.
    """
    try:
        return storage.read_verified(uri, entry)
    except VerificationError as error:
        raise VerificationError(f"{error}: rebuild the index") from error

"""Compact an index: rewrite segments without removed rows, and bring added rows into the kind of the index."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.index.approximate import measured, read_queries, sample_vectors
from crystalign.index.build import write_lexicon
from crystalign.index.embeddings import (
    embedding_matrix,
    with_columns,
    with_fact_columns,
    with_hypothetical,
    with_remarks,
)
from crystalign.index.lexical import WordCounts
from crystalign.index.live import Changed, OnRows, next_number
from crystalign.index.manifest import Change, IndexManifest, SegmentEntry
from crystalign.index.segment_files import read_segment, removed_bits, verified, word_counts
from crystalign.index.segment_writer import DIGITS, Rows, Run, SegmentWriter, count_words, run_here, write_segments
from crystalign.index.vector_store import VECTOR_STORES
from crystalign.index.versions import commit, open_current


class LiveRows(NamedTuple):
    """The rows of some segments that were not removed, one segment after the other."""

    uri: str
    """URI of the index."""
    columns: tuple[str, ...]
    """Columns of properties and predictions of the index; null where a segment lacks them."""
    entries: tuple[SegmentEntry, ...]
    """The segments."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(entry.live_rows for entry in self.entries)

    @property
    def key(self) -> str:
        """SHA-256 of what determines the rows."""
        parts = [file.sha256 for e in self.entries for file in (e, e.removed, e.words) if file is not None]
        return hashlib.sha256("\n".join([*parts, *self.columns]).encode()).hexdigest()

    def read(self, start: int, stop: int, folder: Path) -> Rows:  # noqa: ARG002
        """The rows from `start` to `stop`. Only the segments that hold them are read, one at a time.

        Raises:
            VerificationError: a file is missing or differs from the manifest.
        """
        parts = [self._part(entry, first, last) for entry, first, last in self._parts(start, stop)]
        table = pa.concat_tables([part.table for part in parts], promote_options="default").combine_chunks()
        words = WordCounts.joined([(part.words, len(part.table)) for part in parts])
        return Rows(table, words, [place for part in parts for place in part.places])

    def _parts(self, start: int, stop: int) -> Iterator[tuple[SegmentEntry, int, int]]:
        """The segments that overlap a range of rows, and the first and last of their remaining rows."""
        ends = itertools.accumulate(entry.live_rows for entry in self.entries)
        for entry, end in zip(self.entries, ends, strict=True):
            begin = end - entry.live_rows
            if begin < stop and end > start:
                yield entry, max(start, begin) - begin, min(stop, end) - begin

    def _part(self, entry: SegmentEntry, first: int, last: int) -> Rows:
        rows = live_rows(self.uri, entry)[first:last]
        table = with_remarks(with_fact_columns(read_segment(self.uri, entry)))
        table = with_hypothetical(table)
        table = with_columns(table, dict.fromkeys(self.columns, pa.float64()))
        keep = np.zeros(entry.rows, bool)
        keep[rows] = True
        return Rows(table.take(pa.array(rows)), word_counts(self.uri, entry).kept(keep), [entry.path] * len(rows))

    def vectors(self) -> Iterator[NDArray[np.float16]]:
        """(m, D) the vectors of one segment after the other."""
        for entry in self.entries:
            table = pq.read_table(io.BytesIO(verified(self.uri, entry)), columns=["embedding"])
            yield embedding_matrix(table)[live_rows(self.uri, entry)]


def live_rows(uri: str, entry: SegmentEntry) -> NDArray[np.int64]:
    """The rows of a segment that were not removed, ascending."""
    removed = np.unpackbits(removed_bits(uri, entry), bitorder="little", count=entry.rows)
    return np.flatnonzero(removed == 0)


def compact(
    uri: str,
    *,
    everything: bool = False,
    rows_per_segment: int | None = None,
    queries: Sequence[str] = (),
    run: Run = run_here,
    on_rows: OnRows = None,
) -> Changed:
    """Rewrite the segments with removed rows, with rows of another kind, or with few rows; searches find the same.

    Args:
        uri: URI of the index.
        everything: rewrite all segments, and train an approximate kind again, which helps if the index has grown much.
        rows_per_segment: rows of each new segment; None means as many as the largest segment has.
        queries: URIs of embeddings of other modalities, on which the recall of an approximate kind is measured again.
            Queries of modalities that are not measured will be searched exactly.
        run: runs the tasks.
        on_rows: called with the number of rows of each segment that was written.

    Raises:
        DatasetError: there is no index.
        ConfigError: the queries are of another model.
        ConflictError: another job has changed the index meanwhile.
    """
    opened = open_current(uri)
    old, exact = opened.manifest, VECTOR_STORES[opened.manifest.kind].is_exact
    asked = read_queries(queries, old.model_sha256)
    size = rows_per_segment or max(entry.rows for entry in old.segments)
    chosen = old.segments if everything else to_rewrite(old, size)
    if not chosen:
        return Changed(old, made=False)
    trained = _trained_again(uri, old) if everything and not exact else old.store
    kept = tuple(entry for entry in old.segments if entry not in chosen)
    first = next_number(old)
    new: list[SegmentEntry] = []
    folders: list[str] = []
    for dataset in sorted({entry.dataset for entry in chosen}):
        rows = _rows_of(uri, old, [entry for entry in chosen if entry.dataset == dataset])
        writer = SegmentWriter(rows, uri, old.kind, size, trained, first=first + len(new), apart=True)
        written = write_segments(writer, run, on_rows)
        new += [entry.model_copy(update={"dataset": dataset}) for entry in written.entries]
        folders.append(writer.folder)
    segments = (*kept, *new)
    lexicon = write_lexicon(uri, count_words(uri, segments))
    content = old.model_copy(update={"segments": segments, "lexicon": lexicon, "store": trained, "recall": ()})
    if not exact:
        content = measured(uri, content, asked)
    note = f"rewrote {len(chosen)} of {len(old.segments)} segments as {len(new)}"
    manifest = commit(uri, opened, content, Change(what="compact", note=note))
    for folder in folders:
        storage.delete(folder)
    return Changed(manifest, made=True)


def to_rewrite(manifest: IndexManifest, rows_per_segment: int) -> tuple[SegmentEntry, ...]:
    """The segments with removed rows or of another kind, and small ones if there would be fewer of them.

    Args:
        manifest: the index.
        rows_per_segment: rows of a new segment; a segment with fewer is small.
    """
    chosen: set[str] = set()
    for dataset in {entry.dataset for entry in manifest.segments}:
        own = [entry for entry in manifest.segments if entry.dataset == dataset]
        dirty = [e for e in own if e.removed is not None or manifest.kind_of(e) != manifest.kind]
        small = [e for e in own if e not in dirty and e.rows < rows_per_segment]
        fewer = -(-sum(e.rows for e in small) // rows_per_segment) < len(small)
        chosen |= {e.path for e in (*dirty, *(small if dirty or fewer else ()))}
    return tuple(entry for entry in manifest.segments if entry.path in chosen)


def _rows_of(uri: str, manifest: IndexManifest, entries: Sequence[SegmentEntry]) -> LiveRows:
    return LiveRows(uri, manifest.number_columns, tuple(entries))


def _trained_again(uri: str, manifest: IndexManifest) -> tuple[storage.FileEntry, ...]:
    """Train an approximate kind on all rows. The files get a folder of their own; older versions keep theirs."""
    rows = _rows_of(uri, manifest, manifest.segments)
    files = VECTOR_STORES[manifest.kind].train(sample_vectors(rows.vectors(), rows.rows), rows.rows)
    digest = hashlib.sha256(b"".join(data for _, data in sorted(files.items()))).hexdigest()[:DIGITS]
    entries = []
    for name, data in sorted(files.items()):
        path = f"store/{digest}/{name}"
        storage.write_bytes(storage.join(uri, *path.split("/")), data)
        entries.append(storage.entry_of(path, data))
    return tuple(entries)

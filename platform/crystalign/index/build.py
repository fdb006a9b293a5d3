"""Build an index from an embedding dataset: check the vectors, write segments, then the manifest."""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.crystal import SYMBOLS
from crystalign.errors import ConfigError, ConflictError, DatasetError
from crystalign.index.approximate import measured, random_sample, read_queries
from crystalign.index.embeddings import (
    EMBEDDING,
    TEXT_COLUMNS,
    EmbeddingManifest,
    embedding_matrix,
    with_hypothetical,
    with_remarks,
    with_text_columns,
)
from crystalign.index.filters import ELEMENT_COLUMNS, element_bits
from crystalign.index.lexical import WORDS, LexiconBuilder, WordCounts
from crystalign.index.manifest import MANIFEST, IndexManifest, SegmentEntry
from crystalign.index.predictions import PredictionColumns
from crystalign.index.recall import TARGET
from crystalign.index.vector_store import DEFAULT_KIND, VECTOR_STORES, VectorStore
from crystalign.material import HYPOTHETICAL

ROWS_PER_SEGMENT = 16_384
"""Default number of rows of a segment."""
_KEPT = ("id", EMBEDDING, "formula", "chemsys", "elements", "n_sites", "spacegroup_number", "prototype")
DIGITS = 12
"""Digits of the SHA-256 in a segment's name, which keep writes from replacing a segment of other content."""
_KEPT_TOO = ("split_formula", "source", "licence", "remarks", "shard", "row")


def build_index(
    embeddings_uri: str,
    out_uri: str,
    *,
    rows_per_segment: int = ROWS_PER_SEGMENT,
    kind: str = DEFAULT_KIND,
    queries: Sequence[str] = (),
    predictions: Sequence[str] = (),
    target_recall: float = TARGET,
    on_rows: Callable[[int], None] | None = None,
) -> IndexManifest:
    """Build the index of an embedding dataset.

    Args:
        embeddings_uri: URI of embeddings made by `crystalign embed`.
        out_uri: URI of the new index; an existing index is never changed.
        rows_per_segment: rows of each segment file; the last one may have fewer.
        kind: name of the vector store.
        queries: URIs of embeddings of other modalities by the same model, on which the recall of an approximate kind is
            measured. Queries of modalities that are not measured will be searched exactly.
        predictions: URIs of predictions for the same dataset, which become columns of their own.
        target_recall: recall that an approximate kind is to reach.
        on_rows: called with the number of rows of each segment after it is stored.

    Returns:
        The manifest of the index; if the same index already exists, that of the existing one.

    Raises:
        DatasetError: there are no embeddings, an id occurs twice, or a vector has the wrong dimension or length.
        ConfigError: `out_uri` holds another index, there is no vector store of this kind, or the queries are of another
            model.
        VerificationError: an embedding file differs from its manifest.
    """
    store = VECTOR_STORES[kind]
    source = EmbeddingManifest.read(embeddings_uri)
    predicted = PredictionColumns(predictions)
    columns = (*_KEPT, *_KEPT_TOO, *(spec.column for spec in source.properties), *predicted.columns)
    existing = _existing(out_uri)
    asked = read_queries(queries, source)
    trained = _trained(store, kind, embeddings_uri, source, out_uri, existing)
    writer = _Writer(out_uri, existing, store, trained)
    seen: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="crystalign-index-") as folder:
        for rows in _rechunk(_tables(embeddings_uri, source, columns, folder, predicted), rows_per_segment):
            _check(rows, source.dimension, seen)
            writer.add(rows, Path(folder) / "segment.parquet")
            if on_rows is not None:
                on_rows(len(rows))
    manifest = writer.manifest(source, kind).model_copy(update={"predictions": predicted.specs})
    if not store.is_exact:
        manifest = manifest.model_copy(update={"target_recall": target_recall})
        if existing is not None and existing.kind == kind:
            manifest = manifest.model_copy(update={"recall": existing.recall})  # measured when it was built
        else:
            manifest = measured(out_uri, manifest, asked)
    return _seal(manifest, out_uri, existing)


class _Writer:
    """Writes segments with their vector stores and word counts; writes nothing if the index already exists."""

    def __init__(
        self, out_uri: str, existing: IndexManifest | None, store: type[VectorStore], trained: Mapping[str, bytes]
    ) -> None:
        self._uri, self._existing, self._kind, self._trained = out_uri, existing, store, trained
        self._entries: list[SegmentEntry] = []
        self._lexicon = LexiconBuilder()
        self._has_facts = self._has_hypothetical = False

    def add(self, rows: pa.Table, local: Path) -> None:
        """Write a segment; `local` is a path for the temporary file."""
        counts = WordCounts.of(rows["words"].to_pylist())
        rows = rows.drop_columns(["words"])
        if rows["keywords"].null_count == len(rows):
            rows = rows.drop_columns(["keywords", "density"])
        else:
            self._has_facts = True
        if pc.any(rows[HYPOTHETICAL]).as_py():
            self._has_hypothetical = True
        else:
            rows = rows.drop_columns([HYPOTHETICAL])
        pq.write_table(_with_bitmap(rows), local, compression="zstd")
        entry = _store(local, self._uri, len(self._entries), len(rows), self._existing)
        folder = entry.path.removesuffix(".parquet")
        words = self._file(f"{folder}/{WORDS}", counts.save()) if counts.texts else None
        self._entries.append(entry.model_copy(update={"store": self._saved(rows, folder), "words": words}))
        self._lexicon.add(counts)

    def manifest(self, source: EmbeddingManifest, kind: str) -> IndexManifest:
        """The manifest of everything that was added; writes the lexicon."""
        shared = tuple(self._file(f"store/{name}", data) for name, data in sorted(self._trained.items()))
        manifest = _manifest(source, self._entries, kind)
        manifest = manifest.model_copy(update={"store": shared, "has_hypothetical": self._has_hypothetical})
        if not self._lexicon.texts:
            return manifest
        data = self._lexicon.lexicon().save()
        name = f"lexicon.{hashlib.sha256(data).hexdigest()[:DIGITS]}.json"
        return manifest.model_copy(update={"lexicon": self._file(name, data), "has_facts": self._has_facts})

    def _saved(self, rows: pa.Table, folder: str) -> tuple[storage.FileEntry, ...]:
        """The files of the vector store of a segment."""
        vectors = embedding_matrix(rows)
        files = sorted(self._kind.encode(vectors, self._trained).items())
        return tuple(self._file(f"{folder}/{name}", data) for name, data in files)

    def _file(self, path: str, data: bytes) -> storage.FileEntry:
        if self._existing is None:
            storage.write_bytes(storage.join(self._uri, *path.split("/")), data)
        return storage.entry_of(path, data)


def _seal(manifest: IndexManifest, out_uri: str, existing: IndexManifest | None) -> IndexManifest:
    """Write the manifest, unless the same index already exists, possibly written by another job meanwhile."""
    if existing is None:
        try:
            manifest.write(out_uri)
        except ConflictError:
            existing = IndexManifest.read(out_uri)
        else:
            return manifest
    if existing.version != manifest.version:
        raise ConfigError(
            f"{out_uri} already holds index {existing.version[:12]}, of other embeddings or of another kind; "
            "choose another --out"
        )
    return existing


def _trained(
    store: type[VectorStore],
    kind: str,
    embeddings_uri: str,
    source: EmbeddingManifest,
    out_uri: str,
    existing: IndexManifest | None,
) -> Mapping[str, bytes]:
    """The files that all segments share; those of the existing index, because training again may differ in rounding."""
    if store.is_exact:
        return {}
    if existing is not None and existing.kind == kind:
        return {entry.path.rpartition("/")[2]: storage.read_verified(out_uri, entry) for entry in existing.store}
    return store.train(random_sample(embeddings_uri, source), source.rows)


def _existing(out_uri: str) -> IndexManifest | None:
    return IndexManifest.read(out_uri) if storage.exists(storage.join(out_uri, MANIFEST)) else None


def _store(local: Path, out_uri: str, number: int, rows: int, existing: IndexManifest | None) -> SegmentEntry:
    """Upload a segment and return its entry. If the index already exists, only compute the entry, under its name."""
    size, digest = storage.fingerprint(str(local))
    name = f"segments/segment-{number:05d}.{digest[:DIGITS]}.parquet"
    if existing is None:
        storage.upload(local, storage.join(out_uri, name))
    else:
        name = next((entry.path for entry in existing.segments if entry.sha256 == digest), name)
    return SegmentEntry(path=name, bytes=size, sha256=digest, rows=rows)


def _tables(
    uri: str, source: EmbeddingManifest, columns: tuple[str, ...], folder: str, predicted: PredictionColumns
) -> Iterator[pa.Table]:
    for entry in source.files:
        local = str(Path(folder) / "embeddings.parquet")
        storage.download(storage.join(uri, entry.path), local, expect=entry)
        table = predicted.joined(with_hypothetical(with_text_columns(with_remarks(pq.read_table(local)))))
        missing = [name for name in columns if name not in table.column_names]
        if missing:
            raise DatasetError(f"{entry.path} of {uri} lacks the columns {', '.join(missing)}: embed the dataset again")
        yield table.select([*columns, *TEXT_COLUMNS, HYPOTHETICAL]).replace_schema_metadata(None)


def _rechunk(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows; the last may be shorter."""
    buffer: pa.Table | None = None
    for table in tables:
        buffer = table if buffer is None else pa.concat_tables([buffer, table])
        while len(buffer) >= rows:
            yield buffer.slice(0, rows).combine_chunks()
            buffer = buffer.slice(rows)
    if buffer is not None and len(buffer):
        yield buffer.combine_chunks()


def _check(table: pa.Table, dimension: int, seen: set[str]) -> None:
    vectors = embedding_matrix(table)
    if vectors.shape[1] != dimension:
        raise DatasetError(f"vectors of dimension {vectors.shape[1]} in embeddings of dimension {dimension}")
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    if (np.abs(norms - 1.0) > 0.01).any():
        worst = table["id"][int(np.argmax(np.abs(norms - 1.0)))].as_py()
        raise DatasetError(
            f"the embedding of {worst} has length {norms[np.argmax(np.abs(norms - 1.0))]:.4f}, expected 1",
        )
    for material_id in table["id"].to_pylist():
        if material_id in seen:
            raise DatasetError(f"{material_id!r} is in the embeddings twice; an id names one material")
        seen.add(material_id)


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


def _manifest(source: EmbeddingManifest, entries: list[SegmentEntry], kind: str) -> IndexManifest:
    rows = sum(entry.rows for entry in entries)
    if rows == 0 or rows != source.rows:
        raise DatasetError(f"the embeddings hold {rows} rows, their manifest says {source.rows}")
    return IndexManifest(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        modality=source.modality,
        dimension=source.dimension,
        kind=kind,
        rows=rows,
        model_uri=source.model_uri,
        model_sha256=source.model_sha256,
        dataset_uri=source.dataset_uri,
        dataset_sha256=source.dataset_sha256,
        properties=tuple(source.properties),
        licences=tuple(sorted(set(source.licences))),
        segments=tuple(entries),
    )

"""Build an index from an embedding dataset: check the vectors, write segments, then the manifest.

The segments are written by independent tasks (`segment_writer`), in this process or on a cluster. The files of the
index are the same for any number of tasks at a time, and after any number of interruptions.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ConflictError, DatasetError, StorageError
from crystalign.index.approximate import measured, random_sample, read_queries
from crystalign.index.embedding_rows import EmbeddingRows
from crystalign.index.embeddings import EMBEDDING, EmbeddingManifest
from crystalign.index.lexical import LexiconBuilder
from crystalign.index.manifest import MANIFEST, IndexManifest
from crystalign.index.predictions import PredictionColumns
from crystalign.index.recall import TARGET
from crystalign.index.segment_writer import (
    BUILDING,
    DIGITS,
    Run,
    SegmentWriter,
    Written,
    count_words,
    run_here,
    write_segments,
)
from crystalign.index.vector_store import DEFAULT_KIND, VECTOR_STORES

ROWS_PER_SEGMENT = 16_384
"""Default number of rows of a segment."""
_KEPT = ("id", EMBEDDING, "formula", "chemsys", "elements", "n_sites", "spacegroup_number", "prototype")
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
    run: Run = run_here,
) -> IndexManifest:
    """Build the index of an embedding dataset. If it is interrupted, the same call continues with what is missing.

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
        run: runs the tasks that write the segments.

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
    predicted = PredictionColumns(predictions, source.dataset_sha256)
    rows = embedding_rows(embeddings_uri, source, predicted)
    existing = _existing(out_uri)
    asked = read_queries(queries, source.model_sha256)
    trained = () if store.is_exact else _trained(rows, out_uri, kind, existing)
    paths = None if existing is None else {entry.sha256: entry.path for entry in existing.segments}
    writer = SegmentWriter(rows, out_uri, kind, rows_per_segment, trained, existing=paths)
    written = write_segments(writer, run, on_rows)
    if existing is not None and written.entries != existing.segments:
        raise _other(out_uri, existing)
    lexicon = existing.lexicon if existing else write_lexicon(out_uri, count_words(out_uri, written.entries))
    added = {"store": trained, "lexicon": lexicon, "predictions": predicted.specs}
    manifest = _manifest(source, written, kind).model_copy(update=added)
    if not store.is_exact:
        manifest = manifest.model_copy(update={"target_recall": target_recall})
        if existing is not None and existing.kind == kind:
            manifest = manifest.model_copy(update={"recall": existing.recall})  # measured when it was built
        else:
            manifest = measured(out_uri, manifest, asked)
    sealed = _seal(manifest, out_uri, existing)
    storage.delete(writer.folder)
    storage.delete(_record(rows, out_uri, kind))
    return sealed


def embedding_rows(uri: str, source: EmbeddingManifest, predicted: PredictionColumns) -> EmbeddingRows:
    """The rows of an embedding dataset, with the columns that an index keeps.

    Raises:
        DatasetError: its manifest contradicts itself, or there are no rows.
    """
    columns = (*_KEPT, *_KEPT_TOO, *(spec.column for spec in source.properties), *predicted.columns)
    rows = EmbeddingRows(uri, source, columns, predicted)
    if rows.rows == 0 or rows.rows != source.rows:
        raise DatasetError(f"the embeddings at {uri} hold {rows.rows} rows, their manifest says {source.rows}")
    return rows


def write_lexicon(uri: str, builder: LexiconBuilder) -> storage.FileEntry | None:
    """Write the lexicon of an index, under a name of its content; None if there are no texts."""
    if not builder.texts:
        return None
    data = builder.lexicon().save()
    name = f"lexicon.{hashlib.sha256(data).hexdigest()[:DIGITS]}.json"
    return storage.write_bytes(storage.join(uri, name), data)


class _Trained(Config):
    """The shared files that an interrupted build has trained; training again may differ in rounding."""

    files: tuple[storage.FileEntry, ...]
    """The files, with paths relative to the index."""


def _trained(
    rows: EmbeddingRows, out_uri: str, kind: str, existing: IndexManifest | None
) -> tuple[storage.FileEntry, ...]:
    """The files that all segments share: those of the existing index or of an interrupted build, or new ones."""
    if existing is not None and existing.kind == kind:
        return existing.store
    if existing is not None:
        raise _other(out_uri, existing)
    record = _record(rows, out_uri, kind)
    try:
        found = _Trained.model_validate_json(storage.read_bytes(record))
        for entry in found.files:
            storage.verify(storage.join(out_uri, *entry.path.split("/")), entry)
    except (StorageError, ValueError):
        files = VECTOR_STORES[kind].train(random_sample(rows.uri, rows.manifest), rows.rows)
        entries = []
        for name, data in sorted(files.items()):
            storage.write_bytes(storage.join(out_uri, "store", name), data)
            entries.append(storage.entry_of(f"store/{name}", data))
        found = _Trained(files=tuple(entries))
        storage.write_bytes(record, found.model_dump_json().encode())
    return found.files


def _record(rows: EmbeddingRows, out_uri: str, kind: str) -> str:
    """URI of the record of trained files."""
    return storage.join(out_uri, BUILDING, f"trained-{kind}-{rows.key[:DIGITS]}.json")


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
        raise _other(out_uri, existing)
    return existing


def _other(out_uri: str, existing: IndexManifest) -> ConfigError:
    return ConfigError(
        f"{out_uri} already holds index {existing.version[:12]}, of other embeddings or of another kind; "
        "choose another --out"
    )


def _existing(out_uri: str) -> IndexManifest | None:
    return IndexManifest.read(out_uri) if storage.exists(storage.join(out_uri, MANIFEST)) else None


def _manifest(source: EmbeddingManifest, written: Written, kind: str) -> IndexManifest:
    return IndexManifest(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        modality=source.modality,
        dimension=source.dimension,
        kind=kind,
        rows=sum(entry.rows for entry in written.entries),
        model_uri=source.model_uri,
        model_sha256=source.model_sha256,
        dataset_uri=source.dataset_uri,
        dataset_sha256=source.dataset_sha256,
        properties=tuple(source.properties),
        licences=tuple(sorted(set(source.licences))),
        segments=written.entries,
        has_facts=written.has_facts,
        has_hypothetical=written.has_hypothetical,
    )

"""From an embedding dataset to an index: verified, cut into segments, sealed by a manifest."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.crystal import SYMBOLS
from crystalign.errors import ConfigError, ConflictError, DatasetError
from crystalign.index.embeddings import EmbeddingManifest, with_remarks
from crystalign.index.filters import ELEMENT_COLUMNS, element_bits
from crystalign.index.manifest import MANIFEST, IndexManifest, SegmentEntry
from crystalign.index.search import EMBEDDING, embedding_matrix

ROWS_PER_SEGMENT = 16_384
"""By default."""
_KEPT = ("id", EMBEDDING, "formula", "chemsys", "elements", "n_sites", "spacegroup_number", "prototype")
DIGITS = 12
"""Of the SHA-256 in a segment's name: no write replaces a segment of other content."""
_KEPT_TOO = ("split_formula", "source", "licence", "remarks", "shard", "row")


def build_index(
    embeddings_uri: str,
    out_uri: str,
    *,
    rows_per_segment: int = ROWS_PER_SEGMENT,
    on_rows: Callable[[int], None] | None = None,
) -> IndexManifest:
    """Build the index of an embedding dataset.

    Args:
        embeddings_uri: what `crystalign embed` made.
        out_uri: where the index goes; an index that is already there is never changed.
        rows_per_segment: rows of each immutable file but the last.
        on_rows: called with the number of rows of each segment, once it is stored.

    Raises:
        DatasetError: no embeddings there, an id twice, or a vector that is not one.
        ConfigError: another index lives at `out_uri`.
        VerificationError: an embedding file is not the one its manifest names.
    """
    source = EmbeddingManifest.read(embeddings_uri)
    columns = (*_KEPT, *_KEPT_TOO, *(spec.column for spec in source.properties))
    entries: list[SegmentEntry] = []
    seen: set[str] = set()
    known = _existing(out_uri)
    with tempfile.TemporaryDirectory(prefix="crystalign-index-") as folder:
        for number, rows in enumerate(_rechunk(_tables(embeddings_uri, source, columns, folder), rows_per_segment)):
            _check(rows, source.dimension, seen)
            local = Path(folder) / "segment.parquet"
            pq.write_table(_with_bitmap(rows), local, compression="zstd")
            entries.append(_store(local, out_uri, number, len(rows), known))
            if on_rows is not None:
                on_rows(len(rows))
    return _seal(_manifest(source, entries), out_uri, known)


def _seal(manifest: IndexManifest, out_uri: str, known: IndexManifest | None) -> IndexManifest:
    """Write the manifest, unless this index is there: built before, or by another job meanwhile."""
    if known is None:
        try:
            manifest.write(out_uri)
        except ConflictError:
            known = IndexManifest.read(out_uri)
        else:
            return manifest
    if known.version != manifest.version:
        message = f"{out_uri} already holds index {known.version[:12]}, made of other embeddings; choose another --out"
        raise ConfigError(message)
    return known


def _existing(out_uri: str) -> IndexManifest | None:
    return IndexManifest.read(out_uri) if storage.exists(storage.join(out_uri, MANIFEST)) else None


def _store(local: Path, out_uri: str, number: int, rows: int, known: IndexManifest | None) -> SegmentEntry:
    """Upload a segment; where a sealed index lives already, only compare with it, whatever its files are called."""
    size, digest = storage.fingerprint(str(local))
    name = f"segments/segment-{number:05d}.{digest[:DIGITS]}.parquet"
    if known is None:
        storage.upload(local, storage.join(out_uri, name))
    else:
        name = next((entry.path for entry in known.segments if entry.sha256 == digest), name)
    return SegmentEntry(path=name, bytes=size, sha256=digest, rows=rows)


def _tables(uri: str, source: EmbeddingManifest, columns: tuple[str, ...], folder: str) -> Iterator[pa.Table]:
    for entry in source.files:
        local = str(Path(folder) / "embeddings.parquet")
        storage.download(storage.join(uri, entry.path), local, expect=entry)
        table = with_remarks(pq.read_table(local))
        missing = [name for name in columns if name not in table.column_names]
        if missing:
            message = f"{entry.path} of {uri} lacks the columns {', '.join(missing)}: embed the dataset again"
            raise DatasetError(message)
        yield table.select(list(columns)).replace_schema_metadata(None)


def _rechunk(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows, the last shorter."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) >= rows:
            yield held.slice(0, rows).combine_chunks()
            held = held.slice(rows)
    if held is not None and len(held):
        yield held.combine_chunks()


def _check(table: pa.Table, dimension: int, seen: set[str]) -> None:
    vectors = embedding_matrix(table)
    if vectors.shape[1] != dimension:
        message = f"vectors of dimension {vectors.shape[1]} in embeddings of dimension {dimension}"
        raise DatasetError(message)
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1)
    if (np.abs(norms - 1.0) > 0.01).any():
        worst = table["id"][int(np.argmax(np.abs(norms - 1.0)))].as_py()
        message = f"the embedding of {worst} has length {norms[np.argmax(np.abs(norms - 1.0))]:.4f}, expected 1"
        raise DatasetError(message)
    for material_id in table["id"].to_pylist():
        if material_id in seen:
            message = f"{material_id!r} is in the embeddings twice; an id names one material"
            raise DatasetError(message)
        seen.add(material_id)


def _with_bitmap(table: pa.Table) -> pa.Table:
    """Add the columns that filters need: the elements as bits, and their number; NaN becomes unknown."""
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


def _manifest(source: EmbeddingManifest, entries: list[SegmentEntry]) -> IndexManifest:
    rows = sum(entry.rows for entry in entries)
    if rows == 0 or rows != source.rows:
        message = f"the embeddings hold {rows} rows, their manifest says {source.rows}"
        raise DatasetError(message)
    return IndexManifest(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        modality=source.modality,
        dimension=source.dimension,
        rows=rows,
        model_uri=source.model_uri,
        model_sha256=source.model_sha256,
        dataset_uri=source.dataset_uri,
        dataset_sha256=source.dataset_sha256,
        properties=tuple(source.properties),
        licences=tuple(sorted(set(source.licences))),
        segments=tuple(entries),
    )

"""Write a dataset: shards in parallel, each verified, and then the manifest by a single process."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.errors import DatasetError
from crystalign.material import Material
from crystalign.properties import PropertySpec
from crystalign.rejects import Reject
from crystalign.shards.manifest import Manifest, ShardEntry, SourceEntry, StructureGroups
from crystalign.shards.schema import (
    GROUP,
    SCHEMA_VERSION,
    count_present,
    main_modalities,
    materials_to_table,
    sibling_modalities,
    sibling_table,
)
from crystalign.storage import FileEntry

ROWS_PER_GROUP = 512
"""Rows of a Parquet row group: small enough to read a single one, large enough to compress well."""
DIGITS = 12
"""Digits of the SHA-256 in a file's name."""


def write_shard(
    uri: str,
    name: str,
    materials: Sequence[Material],
    properties: Sequence[PropertySpec] = (),
    *,
    rows_per_group: int = ROWS_PER_GROUP,
) -> ShardEntry:
    """Write `shards/<name>.<sha256>.parquet`, and one file for each large modality that a material has.

    Args:
        uri: URI of the dataset.
        name: first part of the file's name. A part of its SHA-256 follows, so that no file of other content is
            replaced.
        materials: at least one material.
        properties: property columns of the dataset.
        rows_per_group: rows of a Parquet row group, the smallest unit of reading.

    Raises:
        VerificationError: the data read back differ from what was written.
    """
    assert materials, "a shard holds at least one material"
    table = materials_to_table(materials, properties)
    siblings = {
        m: _write_table(uri, m, name, sibling_table(materials, m), rows_per_group)
        for m in sibling_modalities()
        if any(material.value(m) is not None for material in materials)
    }
    entry = _write_table(uri, "shards", name, table, rows_per_group)
    columns = (*main_modalities(), *(p.column for p in properties))
    counts = {column: count_present(table.column(column)) for column in columns}
    counts |= {m: sum(material.value(m) is not None for material in materials) for m in siblings}
    provenance = Counter((m.provenance.source, m.provenance.licence, m.provenance.vintage) for m in materials)
    return ShardEntry(
        **entry.model_dump(),
        rows=len(materials),
        row_groups=tuple(
            min(rows_per_group, len(materials) - start) for start in range(0, len(materials), rows_per_group)
        ),
        counts=counts,
        sources=_sources(provenance),
        siblings=siblings,
    )


def write_with_columns(uri: str, shard: ShardEntry, name: str, columns: Mapping[str, pa.Array]) -> ShardEntry:
    """Write a shard again with further property columns; its rows, other columns and other files stay the same.

    Args:
        uri: URI of the dataset.
        shard: the shard.
        name: first part of the new file's name, as for `write_shard`.
        columns: column → values of all rows, in order; a column that exists is replaced.

    Returns:
        The entry of the new shard. The old file is kept.

    Raises:
        VerificationError: the old file is not what its entry says, or the new one is not what was written.
    """
    data = storage.read_verified(uri, shard)
    table = pq.read_table(pa.BufferReader(data))
    for column, values in columns.items():
        assert len(values) == shard.rows, f"{len(values)} values of {column} for {shard.rows} rows"
        if column in table.column_names:
            table = table.set_column(table.column_names.index(column), column, values)
        else:
            table = table.append_column(column, values)
    entry = _write_table(uri, "shards", name, table, max(shard.row_groups))
    counts = {column: count_present(table.column(column)) for column in columns}
    return shard.model_copy(update={**entry.model_dump(), "counts": shard.counts | counts})


def write_quarantine(uri: str, name: str, rejects: Sequence[Reject]) -> FileEntry:
    """Write `quarantine/<name>.<sha256>.parquet`."""
    texts = {field: [_storable(getattr(r, field)) for r in rejects] for field in Reject._fields}
    columns = {field: pa.array(values, pa.string()) for field, values in texts.items()}
    return _write_table(uri, "quarantine", name, pa.table(columns), ROWS_PER_GROUP)


def write_groups(uri: str, shard: ShardEntry, groups: Sequence[str]) -> ShardEntry:
    """Write `groups/<name>.<sha256>.parquet` with the structure group of every row of a shard.

    Returns:
        The entry of the shard with the new file.
    """
    assert len(groups) == shard.rows, f"{len(groups)} groups for {shard.rows} rows"
    name = shard.path.rpartition("/")[2].partition(".")[0]
    table = pa.table({GROUP: pa.array(groups, pa.string())})
    return shard.model_copy(update={"groups": _write_table(uri, "groups", name, table, max(1, shard.rows))})


def _storable(text: str) -> str:
    """Text with lone surrogates replaced: JSON from outside may contain them, but UTF-8 files cannot."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def commit_manifest(
    uri: str,
    shards: Sequence[ShardEntry],
    properties: Sequence[PropertySpec] = (),
    *,
    quarantine: Sequence[FileEntry] = (),
    quarantined: int = 0,
    derived: Sequence[str] = (),
    structures: StructureGroups | None = None,
    schema_version: int = SCHEMA_VERSION,
    expected: str | None = None,
) -> Manifest:
    """Check that ids are unique, sum up the counts and write the manifest, which completes the dataset.

    Args:
        uri: URI of the dataset.
        shards: the shards, in order.
        properties: property columns of the dataset.
        quarantine: files that list refused entries.
        quarantined: number of refused entries.
        derived: modalities that were computed from the crystals.
        schema_version: schema version of the oldest shard.
        structures: result of comparing the structures, for shards with structure groups.
        expected: `Manifest.version` of the manifest to replace; None for a new dataset.

    Raises:
        ConflictError: another job wrote a manifest meanwhile, which is kept.
        DatasetError: there is no row, an id occurs twice, or two properties have the same column.
    """
    if not shards:
        raise DatasetError(f"nothing to write to {uri}: no crystal could be used, {quarantined} were quarantined")
    Manifest.refuse_changed(uri, expected)
    _check_unique(uri, shards)
    check_columns(properties)
    counts: Counter[str] = Counter()
    provenance: Counter[tuple[str, str, str]] = Counter()
    for shard in shards:
        counts.update(shard.counts)
        for source in shard.sources:
            provenance[source.name, source.licence, source.vintage] += source.rows
    columns = {p.column for p in properties}
    manifest = Manifest(
        schema_version=schema_version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        shards=tuple(shards),
        modalities={name: n for name, n in counts.items() if name not in columns and n},
        properties=tuple(properties),
        property_counts={name: n for name, n in counts.items() if name in columns},
        sources=_sources(provenance),
        quarantine=tuple(quarantine),
        quarantined=quarantined,
        derived=tuple(derived),
        structures=structures,
    )
    manifest.write(uri, expected=expected)
    return manifest


def _write_table(uri: str, folder: str, name: str, table: pa.Table, rows_per_group: int) -> FileEntry:
    """Write a file whose name contains the hash of its content, so that concurrent jobs do not overwrite each other."""
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / "table.parquet"
        pq.write_table(table, local, compression="zstd", row_group_size=rows_per_group)
        path = f"{folder}/{name}.{storage.fingerprint(str(local))[1][:DIGITS]}.parquet"
        return storage.upload(local, storage.join(uri, path)).model_copy(update={"path": path})


def _sources(provenance: Counter[tuple[str, str, str]]) -> tuple[SourceEntry, ...]:
    return tuple(
        SourceEntry(name=name, licence=licence, vintage=vintage, rows=rows)
        for (name, licence, vintage), rows in sorted(provenance.items())
    )


def check_columns(properties: Sequence[PropertySpec]) -> None:
    """Check that every property has a column of its own.

    Raises:
        DatasetError: two different properties have the same column name.
    """
    names: dict[str, PropertySpec] = {}
    for spec in properties:
        other = names.setdefault(spec.column, spec)
        if other != spec:
            raise DatasetError(
                f"two properties would share the column {spec.column}: {_described(other)} and {_described(spec)}; "
                "spell method, source and vintage alike if they are the same, or rename one"
            )


def _described(spec: PropertySpec) -> str:
    return f"{spec.quantity.value} by {spec.method!r} of {spec.source!r} {spec.vintage!r}"


def _check_unique(uri: str, shards: Sequence[ShardEntry]) -> None:
    seen: set[str] = set()
    for shard in shards:
        with storage.open_input(storage.join(uri, shard.path)) as source:
            ids = [str(i) for i in pq.read_table(source, columns=["id"]).column("id").to_pylist()]
        repeated = seen.intersection(ids) or {i for i, n in Counter(ids).items() if n > 1}
        if repeated:
            raise DatasetError(f"id {min(repeated)!r} occurs twice in {uri}; ids must be unique in a dataset")
        seen.update(ids)

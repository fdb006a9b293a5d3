"""`Dataset`: read the files that the manifest names."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import DatasetError
from crystalign.material import Material
from crystalign.modalities import modality_class
from crystalign.shards.manifest import Manifest, ShardEntry
from crystalign.shards.schema import (
    ADDED_LATER,
    DESCRIPTION,
    GROUP,
    ONE_FORMULA,
    main_modalities,
    sibling_modalities,
    table_to_materials,
    with_added_fields,
)
from crystalign.storage import FileEntry


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset at a URI, opened by its manifest."""

    uri: str
    """Any URI that `crystalign.storage` supports."""
    manifest: Manifest
    """Files, schema, properties and sources of the dataset."""

    @classmethod
    def open(cls, uri: str) -> Dataset:
        """Read the manifest.

        Raises:
            DatasetError: there is no dataset, or its splits differ from those of this release.
        """
        dataset = cls(uri, Manifest.read(uri))
        if dataset.manifest.schema_version < ONE_FORMULA and _has_cell_dependent_formula(uri, dataset.manifest.sha256):
            raise DatasetError(
                f"{uri} holds disordered crystals, whose formulas and splits depended on the choice of cell in the "
                "release that wrote it; ingest the source again"
            )
        return dataset

    def __len__(self) -> int:
        """The number of materials."""
        return self.manifest.rows

    def read(
        self,
        shard: int,
        row_group: int | None = None,
        columns: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of one shard.

        Args:
            shard: index of the shard in the manifest.
            row_group: index of one row group; None reads all.
            columns: the columns to read, including modalities. None reads the description, the properties,
                the crystal, and `modalities`.
            modalities: modalities to read besides the crystal. Large ones are joined from their own files; one that
                the dataset does not have becomes a column of nulls. None reads all that are stored in the shard.

        Raises:
            DatasetError: a file is missing or differs from the manifest, or there is no such column.
        """
        entry = self.manifest.shards[shard]
        if columns is None:
            names = main_modalities() if modalities is None else tuple(dict.fromkeys(("crystal", *modalities)))
            columns = [*DESCRIPTION.names, GROUP, *names, *(p.column for p in self.manifest.properties)]
        heavy = [c for c in columns if c in sibling_modalities()]
        light = [c for c in columns if c not in heavy and c != GROUP]
        table = self._read_file(entry, entry, row_group, light)
        for name in [c for c in columns if c not in table.column_names]:
            if name in ADDED_LATER:
                table = table.append_column(name, pa.nulls(table.num_rows, DESCRIPTION.field(name).type))
                continue
            if name == GROUP:
                table = table.append_column(name, self._groups(entry, row_group))
                continue
            if name in light and name not in main_modalities():
                raise DatasetError(f"{self.uri} has no column {name!r}; it has {', '.join(self.columns)}")
            table = table.append_column(name, self._sibling(entry, name, row_group, table.num_rows))
        return table

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that describe a material, and its properties, without modalities."""
        return (*DESCRIPTION.names, GROUP, *(p.column for p in self.manifest.properties))

    def require_current(self, modalities: Iterable[str]) -> None:
        """Refuse modalities that an earlier release stored in a format that differs from today's.

        Raises:
            DatasetError: one of the modalities is stored in an old format; the message says what to do.
        """
        version = self.manifest.schema_version
        for name in modalities:
            if self.manifest.modalities.get(name, 0) and version < modality_class(name).stored_since:
                raise DatasetError(
                    f"{self.uri} has version {version}, in which {name} was stored in another format than the one "
                    f"this release reads (since version {modality_class(name).stored_since}); ingest the source "
                    f"again, or leave {name} out"
                )

    def has(self, shard: int, modality: str) -> NDArray[np.bool_]:
        """(rows,) which rows of a shard have a modality; determined without reading its values."""
        entry = self.manifest.shards[shard]
        count = entry.counts.get(modality, 0)
        if count in (0, entry.rows):
            return np.full(entry.rows, count > 0)
        leaf = _lightest_field(modality)
        file = entry.siblings.get(modality, entry)
        cells = self._read_file(file, entry, None, [f"{modality}.{leaf}"]).column(modality)
        return np.asarray(cells.is_valid().to_numpy())

    def is_ordered(self, shard: int) -> NDArray[np.bool_]:
        """(rows,) which crystals of a shard have one element on each site; determined without reading positions."""
        import pyarrow.compute as pc

        entry = self.manifest.shards[shard]
        cells = self._read_file(entry, entry, None, ["crystal.occupancies"]).column("crystal")
        mixed = pc.is_valid(pc.struct_field(cells.combine_chunks(), "occupancies"))
        return ~np.asarray(mixed.to_numpy(zero_copy_only=False), bool)

    def materials(self, modalities: Sequence[str] | None = None) -> Iterator[Material]:
        """Iterate over all materials in order, with one row group in memory at a time."""
        for shard, entry in enumerate(self.manifest.shards):
            for group in range(len(entry.row_groups)):
                table = self.read(shard, group, modalities=modalities)
                yield from table_to_materials(table, self.manifest.properties, modalities=modalities)

    def gather(self, places: Sequence[tuple[int, int]], modality: str) -> list[Any | None]:
        """Read one modality of many materials; each row group is read once.

        Args:
            places: (shard, row within the shard) of each material.
            modality: name of the modality.

        Returns:
            The values in the order of `places`; None for materials without the modality.
        """
        by_group: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, (shard, row) in enumerate(places):
            bounds = np.cumsum(self.manifest.shards[shard].row_groups)
            group = int(np.searchsorted(bounds, row, side="right"))
            first = int(bounds[group - 1]) if group else 0
            by_group.setdefault((shard, group), []).append((number, row - first))
        values: list[Any | None] = [None] * len(places)
        cls = modality_class(modality)
        for (shard, group), members in by_group.items():
            column = self.read(shard, group, columns=[modality]).column(modality)
            for number, row in members:
                values[number] = cls.from_column(column[row]) if column[row].is_valid else None
        return values

    def material(self, shard: int, row: int, modalities: Sequence[str] | None = None) -> Material:
        """The material in a row of a shard; `modalities` None reads all of them."""
        bounds = np.cumsum(self.manifest.shards[shard].row_groups)
        group = int(np.searchsorted(bounds, row, side="right"))
        first = int(bounds[group - 1]) if group else 0
        everything = (*main_modalities(), *self.manifest.shards[shard].siblings)
        table = self.read(shard, group, modalities=everything if modalities is None else modalities)
        return table_to_materials(table.slice(row - first, 1), self.manifest.properties)[0]

    def parts(self, rows: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Cut the dataset into parts for tasks: consecutive row groups of one shard with at least `rows` rows.

        The last part of a shard may be smaller. The parts do not depend on the number of workers.

        Yields:
            Number of the shard, and numbers of its row groups.
        """
        for number, shard in enumerate(self.manifest.shards):
            groups: list[int] = []
            for group, _ in enumerate(shard.row_groups):
                groups.append(group)
                if group + 1 == len(shard.row_groups) or sum(shard.row_groups[g] for g in groups) >= rows:
                    yield number, tuple(groups)
                    groups = []

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Columns of all rows, with the position of each row: `shard` (int32) and `row` within it (int64)."""
        pieces = []
        for shard, entry in enumerate(self.manifest.shards):
            piece = self.read(shard, columns=list(columns))
            piece = piece.append_column("shard", pa.array(np.full(entry.rows, shard, np.int32)))
            pieces.append(piece.append_column("row", pa.array(np.arange(entry.rows, dtype=np.int64))))
        return pa.concat_tables(pieces)

    def quarantine(self) -> pa.Table:
        """The entries that were refused during ingest: id, stage, reason, message, origin."""
        names = ("id", "stage", "reason", "message", "origin")
        pieces = [pa.table({name: pa.array([], pa.string()) for name in names})]
        for entry in self.manifest.quarantine:
            with storage.open_input(storage.join(self.uri, entry.path)) as source:
                pieces.append(pq.read_table(source))
        return pa.concat_tables(pieces)

    def verify(self) -> None:
        """Read every file and compare it with the manifest.

        Raises:
            VerificationError: a file is missing or altered.
        """
        for shard in self.manifest.shards:
            for entry in (shard, *shard.siblings.values(), *([shard.groups] if shard.groups else [])):
                storage.verify(storage.join(self.uri, entry.path), entry)
        for entry in self.manifest.quarantine:
            storage.verify(storage.join(self.uri, entry.path), entry)

    def _groups(self, entry: ShardEntry, row_group: int | None) -> pa.ChunkedArray[Any]:
        """The structure groups of a shard's rows; null if the structures have not been compared."""
        if entry.groups is None:
            groups = pa.chunked_array([pa.nulls(entry.rows, pa.string())])
        else:
            groups = _group_column(storage.join(self.uri, entry.groups.path), entry.groups, entry.rows)
        if row_group is None:
            return groups
        start = sum(entry.row_groups[:row_group])
        return groups.slice(start, entry.row_groups[row_group])

    def _sibling(self, entry: ShardEntry, name: str, row_group: int | None, rows: int) -> pa.ChunkedArray[Any]:
        if name not in entry.siblings:
            return pa.chunked_array([pa.nulls(rows, modality_class(name).column_type())])
        return self._read_file(entry.siblings[name], entry, row_group, [name]).column(name)

    def _read_file(
        self, entry: FileEntry, shard: ShardEntry, row_group: int | None, columns: Sequence[str]
    ) -> pa.Table:
        uri = storage.join(self.uri, entry.path)
        try:
            with storage.open_input(uri) as source:
                if source.size() != entry.bytes:
                    raise DatasetError(
                        f"{uri} has {source.size()} bytes, its manifest says {entry.bytes}: it was replaced or "
                        "truncated; run the job that wrote the dataset again"
                    )
                file = pq.ParquetFile(source)
                rows = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
                if rows != shard.row_groups:
                    raise DatasetError(f"{uri} has row groups of {rows} rows, its manifest says {shard.row_groups}")
                names = list(columns)
                table = file.read(columns=names) if row_group is None else file.read_row_group(row_group, columns=names)
                return with_added_fields(table)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{uri} cannot be read: {error}; `Dataset.verify` checks all files") from error


@functools.lru_cache(64)
def _group_column(uri: str, entry: FileEntry, rows: int) -> pa.ChunkedArray[Any]:
    """The structure groups of a shard; cached because they are small and read once per row group."""
    try:
        with storage.open_input(uri) as source:
            if source.size() != entry.bytes:
                wrong = f"{uri} has {source.size()} bytes, its manifest says {entry.bytes}"
                raise DatasetError(f"{wrong}; run `crystalign duplicates` again")
            column = pq.read_table(source, columns=[GROUP]).column(GROUP)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{uri} cannot be read: {error}; run `crystalign duplicates` again") from error
    if len(column) != rows or column.null_count or not pa.types.is_string(column.type):
        named = f"{len(column) - column.null_count} groups of type {column.type}"
        raise DatasetError(f"{uri} holds {named} for {rows} rows, not one id each; run `crystalign duplicates` again")
    return column


@functools.lru_cache(64)
def _has_cell_dependent_formula(uri: str, sha256: str) -> bool:  # noqa: ARG001 (identity, for the cache)
    """Whether a formula has decimals, which only earlier releases wrote, for the amounts in one cell."""
    import pyarrow.compute as pc

    formulas = Dataset(uri, Manifest.read(uri)).table(["formula"]).column("formula")
    return bool(pc.any(pc.match_substring(formulas, ".")).as_py())


def _lightest_field(modality: str) -> str:
    """A field of the modality's column that is cheap to read: a number if there is one."""
    fields = list(modality_class(modality).column_type())
    light = [field.name for field in fields if pa.types.is_primitive(field.type)]
    return str(light[0] if light else fields[0].name)

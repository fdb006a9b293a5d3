"""A Parquet table of crystals, read row group by row group, with a second table joined by id."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, CrystalError, FileFormatError, InputError
from crystalign.limits import Limits
from crystalign.material import Material, Provenance
from crystalign.properties import PropertySpec
from crystalign.rejects import Reject, reject_of
from crystalign.sources.mapping import TableMapping, load_mapping
from crystalign.sources.source import Item, Source, SourceKind, SourceRequest, ends_with

ROWS_PER_ITEM = 512

__all__ = ["KIND", "TableSource", "cell_matrix", "load_mapping"]


class TableSource(Source):
    """Source of the rows of a table, described by a `TableMapping`."""

    def __init__(self, location: str, mapping: TableMapping, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.mapping = mapping
        crystal, join = mapping.crystal, mapping.join
        structure = [crystal.lattice, crystal.frac_coords, crystal.atomic_numbers]
        main, joined = [mapping.id, *mapping.reference_columns], [join.id] if join else []
        (main if crystal.table == "main" else joined).extend(structure)
        for column in mapping.properties:
            target = main if column.table == "main" else joined
            target.extend([column.column, *([column.where[0]] if column.where else [])])
        for held in mapping.modalities.values():
            main.extend(held.names)
        self.main = _Table(location, main)
        self.joined = _Table(_beside(location, join.table), joined) if join else None

    def properties(self) -> tuple[PropertySpec, ...]:
        """Return one property per property column."""
        return tuple(self.mapping.spec(column) for column in self.mapping.properties)

    def licences(self) -> tuple[str, ...]:
        """Return the licence that the mapping states."""
        return (self.mapping.licence,)

    def items(self) -> list[Item]:
        """List items of up to 512 rows of one row group; rows without an id or with a repeated one are refused items.

        Raises:
            ConfigError: a column that the mapping names does not exist.
        """
        self.main.check()
        if self.joined:
            self.joined.check()
        ids, included = self.main.column(self.mapping.id).to_pylist(), self._kept()
        seen: set[str] = set()
        items, first = [], 0
        for size in self.main.sizes():
            good = []
            for row in range(first, first + size):
                if not included[row]:
                    continue
                name = ids[row]
                if name is None or str(name) in seen:
                    items.append(_refused(row, name))
                    continue
                seen.add(str(name))
                good.append(row)
            for start in range(0, len(good), ROWS_PER_ITEM):
                rows = tuple(good[start : start + ROWS_PER_ITEM])
                items.append(Item(key=f"rows {rows[0]}-{rows[-1]}", rows=rows))
            first += size
        return items

    def _kept(self) -> NDArray[np.bool_]:
        """Return the mask of the rows that are part of the source."""
        if self.mapping.where is None:
            return np.ones(sum(self.main.sizes()), bool)
        name, values = self.mapping.where
        mask = pc.is_in(self.main.column(name).cast(pa.string()), value_set=pa.array(values))
        return np.asarray(mask)

    def origin(self, item: Item) -> str:
        """Return the table and its rows."""
        return f"{self.main.location} {item.key}"

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """Load the materials of some rows."""
        table = self.main.rows(item.rows)
        names = [str(name) for name in table[self.mapping.id].to_pylist()]
        second: list[Mapping[str, Any] | None] = [None] * len(names)
        if self.joined and self.mapping.join:
            second = self.joined.matching(self.mapping.join.id, names)
        for number, name, row, other in zip(item.rows, names, _cells(table), second, strict=True):
            where = f"{self.main.location} row {number}"
            try:
                material, lost = self._material(name, row, other)
            except InputError as error:
                yield reject_of(error, name, where)
                continue
            yield material
            for modality, why in lost:
                yield Reject(name, modality, why.reason, str(why), where)

    def _material(
        self, name: str, row: Mapping[str, Any], other: Mapping[str, Any] | None
    ) -> tuple[Material, list[tuple[str, InputError]]]:
        """Convert one row to a material; also return the modalities that cannot be read, with their errors."""
        mapping = self.mapping
        crystal = self._crystal(row if mapping.crystal.table == "main" else other, name)
        modalities: dict[str, Any] = {}
        lost: list[tuple[str, InputError]] = []
        for modality, columns in mapping.modalities.items():
            if not row[columns.names[0]].is_valid:
                continue
            try:
                modalities[modality] = columns.read({name: _array(row[name]) for name in columns.names}, crystal)
            except InputError as error:
                lost.append((modality, error))
        said = [mapping.reference.format(id=name), *(str(row[c].as_py()) for c in mapping.reference_columns)]
        provenance = Provenance(mapping.name, mapping.licence, mapping.vintage, "; ".join(said))
        return Material(name, crystal, provenance, modalities, self._properties(row, other, len(crystal))), lost

    def _crystal(self, row: Mapping[str, Any] | None, name: str) -> Crystal:
        columns = self.mapping.crystal
        if row is None:
            assert self.joined is not None
            message = f"{name} has no structure in {self.joined.location}"
            raise CrystalError(message, reason="no-structure")
        numbers, frac, lattice = (
            _array(row[c]) for c in (columns.atomic_numbers, columns.frac_coords, columns.lattice)
        )
        if len(frac) != 3 * len(numbers):
            message = f"{len(frac)} fractional coordinates for {len(numbers)} atoms; expected three each"
            raise CrystalError(message, reason="bad-sites")
        if columns.lattice_format == "parameters":
            return Crystal(cell_matrix(lattice), frac.reshape(-1, 3), numbers)
        if lattice.size != 9:
            message = f"a lattice of {lattice.size} numbers; expected 9, rows as vectors in Å"
            raise CrystalError(message, reason="bad-lattice")
        return Crystal(lattice.reshape(3, 3), frac.reshape(-1, 3), numbers)

    def _properties(
        self, row: Mapping[str, Any], other: Mapping[str, Any] | None, n_sites: int
    ) -> dict[PropertySpec, float]:
        properties: dict[PropertySpec, float] = {}
        for column in self.mapping.properties:
            source = row if column.table == "main" else other
            if source is None or (column.where and source[column.where[0]].as_py() not in column.where[1]):
                continue
            value = source[column.column].as_py()
            if value is not None and math.isfinite(value):
                properties[self.mapping.spec(column)] = float(value) / (n_sites if column.divide_by_sites else 1)
        return properties


class _Table:
    """Selected columns of one Parquet file; the last row group that was read is cached."""

    def __init__(self, location: str, columns: Sequence[str]) -> None:
        self.location = location
        self.columns = list(dict.fromkeys(columns))
        self._file: Any = None
        self._held: tuple[int, Any] | None = None
        self._positions: dict[str, dict[str, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_held": None, "_positions": {}}

    def file(self) -> Any:
        """The open file.

        Raises:
            FileFormatError: not a Parquet file.
        """
        if self._file is None:
            try:
                self._file = pq.ParquetFile(storage.open_input(self.location))
            except pa.ArrowInvalid as error:
                message = f"{self.location} is not a Parquet table: {error}"
                raise FileFormatError(message, reason="unreadable-parquet") from error
        return self._file

    def check(self) -> None:
        """Refuse a mapping that names missing columns."""
        there = self.file().schema_arrow.names
        missing = [name for name in self.columns if name not in there]
        if missing:
            raise ConfigError(f"{self.location} has no column {', '.join(missing)}; it has {', '.join(there)}")

    def sizes(self) -> list[int]:
        """Rows of each row group."""
        metadata = self.file().metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def column(self, name: str) -> Any:
        """Read one whole column; meant for small ones, such as ids."""
        return self.file().read(columns=[name])[name]

    def rows(self, rows: Sequence[int]) -> Any:
        """Return the rows with these numbers, in the given order, as a table."""
        bounds = np.cumsum([0, *self.sizes()])
        numbers = np.asarray(rows)
        groups = np.searchsorted(bounds, numbers, side="right") - 1
        parts, places = [], []
        for group in np.unique(groups):
            mine = np.flatnonzero(groups == group)
            parts.append(self._group(int(group)).take(numbers[mine] - bounds[group]))
            places.append(mine)
        return pa.concat_tables(parts).take(np.argsort(np.concatenate(places)))

    def _group(self, group: int) -> Any:
        if self._held is None or self._held[0] != group:
            self._held = (group, self.file().read_row_group(group, columns=self.columns))
        return self._held[1]

    def matching(self, column: str, names: Sequence[str]) -> list[Mapping[str, Any] | None]:
        """Return, for each id, the row that has it in `column`, or None."""
        if column not in self._positions:
            ids = self.column(column).to_pylist()
            self._positions[column] = {str(name): row for row, name in enumerate(ids) if name is not None}
        positions = [self._positions[column].get(name) for name in names]
        rows = [row for row in positions if row is not None]
        cells = iter(_cells(self.rows(rows))) if rows else iter(())
        return [None if row is None else next(cells) for row in positions]


def cell_matrix(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) rows in Å from a b c (Å) and α β γ (degrees); a along x, b in the xy plane.

    Raises:
        CrystalError: not six finite numbers, or angles that span no cell.
    """
    if parameters.shape != (6,) or not np.isfinite(parameters).all():
        message = f"lattice parameters {parameters.tolist()[:9]}; expected six finite numbers a b c α β γ"
        raise CrystalError(message, reason="bad-lattice")
    (a, b, c), angles = parameters[:3], parameters[3:]
    cos_a, cos_b, cos_g = np.cos(np.radians(angles))
    sin_g = math.sqrt(max(0.0, 1.0 - cos_g**2))
    height = 1.0 - cos_a**2 - cos_b**2 - cos_g**2 + 2.0 * cos_a * cos_b * cos_g
    if sin_g < 1e-6 or height <= 0.0 or min(a, b, c) <= 0.0 or angles.min() <= 0.0 or angles.max() >= 180.0:
        message = f"lattice parameters {parameters.tolist()} span no cell"
        raise CrystalError(message, reason="bad-lattice")
    vector_c = (c * cos_b, c * (cos_a - cos_b * cos_g) / sin_g, c * math.sqrt(height) / sin_g)
    return np.array([(a, 0.0, 0.0), (b * cos_g, b * sin_g, 0.0), vector_c])


def _cells(table: Any) -> Iterator[Mapping[str, Any]]:
    """Yield each row as a mapping of Arrow scalars, so that long lists are converted only when they are needed."""
    columns = {name: table[name] for name in table.column_names}
    for row in range(table.num_rows):
        yield {name: column[row] for name, column in columns.items()}


def _array(scalar: Any) -> NDArray[Any]:
    """The numbers of a list cell.

    Raises:
        CrystalError: the cell is null or contains nulls.
    """
    values = scalar.values if scalar.is_valid else None
    if values is None or values.null_count:
        message = "a cell is null or holds nulls where numbers are expected"
        raise CrystalError(message, reason="missing-values")
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array


def _refused(row: int, name: str | None) -> Item:
    if name is None:
        return Item(key=f"row {row}", rejected=("no-id", "the id is null"))
    again = ("duplicate-id", f"the id {name!r} stands for an earlier row of this table")
    return Item(key=f"row {row}", id=str(name), rejected=again)


def _beside(location: str, other: str) -> str:
    """Return the URI of a table whose name is relative to the folder of another."""
    if "://" in other or other.startswith("/"):
        return other
    folder = location.rpartition("/")[0] or "."
    while other.startswith("../"):
        folder, other = folder.rpartition("/")[0], other[3:]
    return storage.join(folder, other)


def _open(request: SourceRequest) -> TableSource:
    assert request.mapping is not None
    return TableSource(request.location, load_mapping(request.mapping), request.limits)


KIND = SourceKind(lambda location: ends_with(location, (".parquet",)), _open, needs_mapping=True)
"""A Parquet table; its mapping states provenance and licence."""

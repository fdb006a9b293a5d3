"""GNoME: `stable_materials_summary.csv` and the CIFs of `by_id.zip`, as they are downloaded.

The table and the structures are matched by id; a row without a structure and a structure without a row are refused.
Where `by_id.zip` is missing, `by_reduced_formula.zip` is read, which has one structure per formula.

A. Merchant et al., Nature 624, 80 (2023), doi:10.1038/s41586-023-06735-9; data licence CC-BY-NC-4.0.
"""

from __future__ import annotations

import functools
import math
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from crystalign import storage
from crystalign.errors import ConfigError, CrystalError, InputError
from crystalign.limits import Limits
from crystalign.material import Material, Provenance
from crystalign.properties import PropertySpec, Quantity
from crystalign.readers.structures.agreement import Statements, compare, parse_stated_formula
from crystalign.readers.structures.reading import Reading
from crystalign.readers.structures.structure_file import read_structures
from crystalign.rejects import Reject, reject_of, unforeseen
from crystalign.sources.archives import Entry, Tree, open_tree
from crystalign.sources.delimited import TextTable, read_csv
from crystalign.sources.published_property import PublishedProperty
from crystalign.sources.source import Item, Source, SourceKind, SourceRequest, prefix_of

NAME, LICENCE = "gnome", "CC-BY-NC-4.0"
TABLE = "stable_materials_summary.csv"
ID, FORMULA, SITES = "MaterialId", "Reduced Formula", "NSites"
REQUIRED = (ID, "Composition", FORMULA, SITES)
STRUCTURES = (("by_id.zip", ID), ("by_id", ID), ("by_reduced_formula.zip", FORMULA), ("by_reduced_formula", FORMULA))
"""Places of the structures in the order of preference, with the column whose values are the names of the files."""
METHOD = "pbe"
ROWS_PER_ITEM = 512


COLUMNS = (
    PublishedProperty("Corrected Energy", Quantity.ENERGY_PER_ATOM, per_cell=True),
    PublishedProperty("Formation Energy Per Atom", Quantity.FORMATION_ENERGY_PER_ATOM),
    PublishedProperty("Decomposition Energy Per Atom All", Quantity.ENERGY_ABOVE_HULL),
    PublishedProperty("Bandgap", Quantity.BAND_GAP),
)
"""Columns that are read, in eV and eV/atom. The distance to the hull is that to the hull of all entries of GNoME and of
the databases it builds on; `Decomposition Energy Per Atom` is relative to the Materials Project alone, and negative for
most rows, so it is not an energy above the hull."""


class GnomeSource(Source):
    """The rows of the table with their structures."""

    def __init__(self, request: SourceRequest) -> None:
        super().__init__(request.limits)
        self.location = _folder(request.place)
        self.table = storage.join(self.location, TABLE)
        self.structures, self.named_by = _structures(self.location)
        self.provenance = Provenance(NAME, LICENCE, request.provenance.vintage)
        self.accept: Collection[str] = request.accept
        self.opened = uuid.uuid4().hex

    def licences(self) -> tuple[str, ...]:
        """Return the licence of the data."""
        return (LICENCE,)

    def properties(self) -> tuple[PropertySpec, ...]:
        """Return one property per column of `COLUMNS`."""
        return tuple(self._spec(column) for column in COLUMNS)

    def items(self) -> list[Item]:
        """List items of up to 512 rows, and items of the files without a row.

        Raises:
            FileFormatError: the table lacks a column.
        """
        table = self._table()
        ids = table.rows.column(ID).to_pylist()
        seen: set[str] = set()
        items = [Item(key=f"line {line}", rejected=("bad-row", what)) for line, what in table.bad]
        good = []
        for row, name in enumerate(ids):
            if name is None:
                items.append(Item(key=f"row {row}", rejected=("no-id", "the row has no MaterialId")))
            elif name in seen:
                again = ("duplicate-id", f"the id {name!r} stands for an earlier row of the table")
                items.append(Item(key=f"row {row}", id=name, rejected=again))
            else:
                seen.add(name)
                good.append(row)
        items += [_item("rows", good[start : start + ROWS_PER_ITEM]) for start in range(0, len(good), ROWS_PER_ITEM)]
        known = set(table.rows.column(self.named_by).to_pylist())
        files = self._files()
        extra = [
            number
            for number, entry in enumerate(files.entries)
            if number in files.repeated or _stem(entry.name) not in known
        ]
        return items + [
            _item("files", extra[start : start + ROWS_PER_ITEM]) for start in range(0, len(extra), ROWS_PER_ITEM)
        ]

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """Load the materials of some rows, or refuse some files."""
        if item.key.startswith("files"):
            files = self._files()
            for number in item.rows:
                name, rejected = files.entries[number]
                twice = number in files.repeated
                why = "another file has the same name" if twice else f"no row of {TABLE} has this {self.named_by}"
                reason = "duplicate-name" if twice else "not-in-the-table"
                yield Reject(_stem(name) or name, "list", *(rejected or (reason, why)), f"{self.structures} {name}")
            return
        table = self._table()
        for number in item.rows:
            row = table.row(number)
            where = f"{TABLE} row {number}"
            try:
                yield self._material(row, where)
            except InputError as error:
                yield reject_of(error, row[ID], where)
            except Exception as error:  # noqa: BLE001 (one bad row must not stop the following ones)
                yield Reject(row[ID], "read", *unforeseen(error), where)

    def _material(self, row: Mapping[str, str], where: str) -> Material:
        """Read the structure of a row and compare it with what the table says.

        Raises:
            InputError: there is no structure, or another one.
        """
        files = self._files()
        name = row[self.named_by]
        if self.named_by != ID and files.rows_of_name[name] > 1:
            message = f"{files.rows_of_name[name]} rows have the formula {name}; only `by_id.zip` tells them apart"
            raise CrystalError(message, reason="ambiguous-structure")
        entry = files.by_stem.get(name)
        if entry is None:
            raise CrystalError(f"{self.structures} has no file {name}.CIF", reason="no-structure")
        if entry.rejected:
            raise CrystalError(entry.rejected[1], reason=entry.rejected[0])
        data = files.tree.read(entry.name, self.limits.max_structure_bytes)
        _, reading = next(read_structures(data, entry.name, kind="cif", limits=self.limits))
        if isinstance(reading, InputError):
            raise reading
        reading = _compared(reading, row).accepted(self.accept)
        sites = len(reading.crystal)
        values = {column: _number(row[column.name]) for column in COLUMNS}
        properties = {
            self._spec(column): column.value(value, sites) for column, value in values.items() if value is not None
        }
        provenance = replace(self.provenance, reference=f"doi:10.1038/s41586-023-06735-9, {where}, {entry.name}")
        return Material(row[ID], reading.crystal, provenance, properties=properties, remarks=reading.remarks)

    def _spec(self, column: PublishedProperty) -> PropertySpec:
        return column.spec(METHOD, NAME, self.provenance.vintage)

    def _table(self) -> TextTable:
        optional = (*(column.name for column in COLUMNS), "Volume")
        return read_csv(self.table, REQUIRED, optional, self.limits, self.opened)

    def _files(self) -> _Files:
        return _files_of(self.structures, self.table, self.named_by, self.limits, self.opened)


class _Files(NamedTuple):
    """The files of the structures."""

    tree: Tree
    entries: list[Entry]
    by_stem: dict[str, Entry]
    """Name without folder and ending → the first file of that name."""
    repeated: frozenset[int]
    """Numbers of the other files of such names."""
    rows_of_name: Counter[str]
    """Name → how many rows of the table have it, where several may."""


@functools.lru_cache(maxsize=1)
def _files_of(structures: str, table: str, named_by: str, limits: Limits, opened: str) -> _Files:
    """List the files, once in each process, because the directory of the zip has half a million of them."""
    tree = open_tree(structures, limits)
    entries = tree.entries()
    by_stem: dict[str, Entry] = {}
    repeated = []
    for number, entry in enumerate(entries):
        stem = _stem(entry.name)
        if stem and by_stem.setdefault(stem, entry) is not entry:
            repeated.append(number)
    names = [] if named_by == ID else _names(table, named_by, limits, opened)
    return _Files(tree, entries, by_stem, frozenset(repeated), Counter(str(name) for name in names))


def _names(table: str, column: str, limits: Limits, opened: str) -> list[str | None]:
    names: list[str | None] = read_csv(table, (column,), (), limits, opened).rows.column(column).to_pylist()
    return names


def _folder(place: str) -> str:
    """Return the folder of the table.

    Raises:
        ConfigError: it is neither in the place nor in its folder `gnome_data`.
    """
    place = place.removesuffix(f"/{TABLE}")
    for folder in (place, storage.join(place, "gnome_data")):
        if storage.exists(storage.join(folder, TABLE)):
            return folder
    raise ConfigError(f"{place} holds no {TABLE}, neither directly nor in gnome_data/; download it from GNoME's bucket")


def _structures(folder: str) -> tuple[str, str]:
    """Return the place of the structures, and the column that names their files.

    Raises:
        ConfigError: there are none.
    """
    for name, column in STRUCTURES:
        if storage.exists(storage.join(folder, name)):
            return storage.join(folder, name), column
    raise ConfigError(f"{folder} holds no structures: none of {', '.join(name for name, _ in STRUCTURES)}")


def _item(what: str, rows: list[int]) -> Item:
    return Item(key=f"{what} {rows[0]}-{rows[-1]}", rows=tuple(rows))


def _stem(name: str) -> str:
    """Return the name of a CIF without folder and ending; empty for other files."""
    leaf = name.rpartition("/")[2]
    return leaf[:-4] if leaf.lower().endswith(".cif") else ""


def _compared(reading: Reading, row: Mapping[str, str]) -> Reading:
    """Add objections where the structure contradicts the row.

    Raises:
        CrystalError: it has another number of sites.
    """
    crystal = reading.crystal
    if _number(row[SITES]) != len(crystal):
        message = f"the structure has {len(crystal)} sites, the table says {row[SITES] or 'nothing'}"
        raise CrystalError(message, reason="sites-disagree")
    stated = Statements(formula=parse_stated_formula(row["Composition"]), volume=_number(row["Volume"]))
    agreement = compare(crystal.composition, crystal.volume, stated)
    return reading._replace(objections=(*reading.objections, *agreement.objections))


def _number(text: str) -> float | None:
    """Return a number; None if the field is empty, no number, or not finite, as the gap of some rows."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


KIND = SourceKind(prefix_of(NAME), GnomeSource)
"""`gnome:FOLDER` with the downloaded files."""

"""Alexandria: the files `alexandria_NNN.json.bz2` of https://alexandria.icams.rub.de, as they are downloaded.

Each file holds 100,000 pymatgen `ComputedStructureEntry` documents under `entries` and expands to gigabytes. It is
read as a stream: one task per file, with about one megabyte of it in memory.

J. Schmidt et al., Adv. Mater. 35, 2210788 (2023), doi:10.1002/adma.202210788; licence CC-BY-4.0.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pyarrow.fs import FileType

from crystalign import storage
from crystalign.errors import ConfigError, CrystalError, FileFormatError, InputError
from crystalign.limits import MIB
from crystalign.material import Material, Provenance
from crystalign.properties import PropertySpec, Quantity
from crystalign.readers.compression_streams import unpacked
from crystalign.readers.structures.documents import read_document
from crystalign.readers.structures.json_stream import list_entries
from crystalign.rejects import Reject, reject_of, unforeseen
from crystalign.sources.archives import FolderTree
from crystalign.sources.published_property import PublishedProperty
from crystalign.sources.source import Item, Source, SourceKind, SourceRequest, prefix_of

NAME, LICENCE = "alexandria", "CC-BY-4.0"
BYTES_PER_ENTRY = 2000
"""Approximate compressed size of an entry, from which the number of entries of a file is estimated."""
ENTRIES_PER_FILE = 100_000
_FILE = re.compile(r"alexandria(?:_(?P<set>[a-z0-9]+))?_\d+\.json(\.bz2|\.gz)?$")
_METHODS = {None: "pbe", "ps": "pbesol", "scan": "scan"}
"""Part of the file name → functional. The geometries of the SCAN files are those of PBEsol."""
_NOT_CRYSTALS = {"1d": "wires", "2d": "layers"}
_SKIPPED_PER_STEP = 1000
"""Entries outside the sample after which the time limit of reading starts again."""


FIELDS = (
    PublishedProperty("energy_corrected", Quantity.ENERGY_PER_ATOM, per_cell=True),
    PublishedProperty("e_form", Quantity.FORMATION_ENERGY_PER_ATOM),
    PublishedProperty("e_above_hull", Quantity.ENERGY_ABOVE_HULL),
    PublishedProperty("band_gap_ind", Quantity.BAND_GAP),
    PublishedProperty("total_mag", Quantity.TOTAL_MAGNETIZATION_PER_ATOM, per_cell=True, only_size=True),
    PublishedProperty("dos_ef", Quantity.DOS_AT_FERMI_PER_ATOM, per_cell=True),
)
"""Fields of `data` that are read. Energies in eV or eV/atom, gap in eV, magnetization in µB, DOS in states/eV."""


class AlexandriaSource(Source):
    """The entries of one file or of a folder of files of the same functional."""

    def __init__(self, request: SourceRequest) -> None:
        super().__init__(request.limits)
        self.location = request.place
        self.provenance = Provenance(NAME, LICENCE, request.provenance.vintage)
        self.accept: Collection[str] = request.accept
        self.seed = request.seed
        self.method = ""
        self._names = self._listed()

    def licences(self) -> tuple[str, ...]:
        """Return the licence of the database."""
        return (LICENCE,)

    def properties(self) -> tuple[PropertySpec, ...]:
        """Return one property per field of `FIELDS`."""
        return tuple(self._spec(field) for field in FIELDS)

    def items(self) -> list[Item]:
        """List one item per file, and one refused item per other file of the folder."""
        items = []
        for name in self._names:
            if _FILE.fullmatch(name.rpartition("/")[2]) is None:
                other = ("unsupported-file", "not named like a file of Alexandria, alexandria_000.json.bz2")
                items.append(Item(key=name, rejected=other))
                continue
            with storage.open_input(storage.join(self.location, name)) as stream:
                size = int(stream.size())
            weight = min(ENTRIES_PER_FILE, max(1, size // BYTES_PER_ENTRY))
            items.append(Item(key=name, weight=weight, stop=size))
        return items

    def load(self, item: Item) -> Iterator[Material | Reject | None]:
        """Load the entries of one file. If the file is damaged, the rest of it is lost, and one reject says so."""
        uri = storage.join(self.location, item.key)
        plausible = int(item.stop * self.limits.max_compression_ratio) + MIB
        chosen = _chosen(item, self.seed)
        with storage.open_input(uri) as stream:
            pieces = unpacked(stream, limit=min(plausible, self.limits.max_total_bytes), name=item.key)
            entries = list_entries(pieces, "entries", limit=self.limits.max_structure_bytes, name=item.key)
            number = -1
            try:
                for number, entry in enumerate(entries):
                    if next(chosen):
                        yield self._material(entry, f"{item.key} entry {number}")
                    elif number % _SKIPPED_PER_STEP == 0:
                        yield None
            except FileFormatError as error:
                yield Reject(f"{item.key} after entry {number}", "read", error.reason, str(error), uri)

    def _listed(self) -> list[str]:
        """Return the names of the files, and set the functional.

        Raises:
            ConfigError: there is no file of Alexandria, or there are files of several functionals.
        """
        system, path = storage.filesystem(self.location)
        if system.get_file_info(path).type == FileType.File:
            self.location, _, leaf = self.location.rpartition("/")
            names = [leaf]
        else:
            names = [entry.name for entry in FolderTree(self.location, self.limits).entries()]
        methods = {_method(name) for name in names if _FILE.fullmatch(name.rpartition("/")[2])}
        if len(methods) != 1:
            held = f"files of {' and '.join(sorted(methods))}" if methods else "no file such as alexandria_000.json.bz2"
            raise ConfigError(
                f"{self.location or '.'} holds {held}; ingest the files of one functional, which belong to one "
                "convex hull, into one dataset"
            )
        self.method = methods.pop()
        return names

    def _material(self, entry: Any, where: str) -> Material | Reject:
        data = entry.get("data") if isinstance(entry, Mapping) else None
        data = data if isinstance(data, Mapping) else {}
        identifier = str(data.get("mat_id") or "")
        try:
            if not identifier:
                raise CrystalError("the entry has no data.mat_id", reason="no-id")  # noqa: TRY301 (as other rejects)
            if not isinstance(entry.get("structure"), Mapping):
                raise CrystalError("the entry has no structure", reason="no-structure")  # noqa: TRY301
            reading = read_document(entry, max_sites=self.limits.max_sites).accepted(self.accept)
        except InputError as error:
            return reject_of(error, identifier or where, where)
        except Exception as error:  # noqa: BLE001 (one bad entry must not stop the following ones)
            return Reject(identifier or where, "read", *unforeseen(error), where)
        properties = {self._spec(field): value for field in FIELDS if (value := _value(data, field, entry)) is not None}
        provenance = replace(self.provenance, reference=f"https://alexandria.icams.rub.de, {where}")
        return Material(identifier, reading.crystal, provenance, properties=properties, remarks=reading.remarks)

    def _spec(self, field: PublishedProperty) -> PropertySpec:
        return field.spec(self.method, NAME, self.provenance.vintage)


def _method(name: str) -> str:
    """Return the functional of a file, by its name.

    Raises:
        ConfigError: its structures do not repeat along all three vectors, or the set is unknown.
    """
    match = _FILE.fullmatch(name.rpartition("/")[2])
    assert match is not None, name
    part = match["set"]
    if part in _NOT_CRYSTALS:
        raise ConfigError(f"{name} holds {_NOT_CRYSTALS[part]} in 15 Å of vacuum, which are no crystals; leave it out")
    if part not in _METHODS:
        raise ConfigError(f"{name} belongs to a set {part!r} that this release does not know; leave it out")
    return _METHODS[part]


def _chosen(item: Item, seed: int) -> Iterator[bool]:
    """Yield for each entry of a file in turn whether it is part of the sample."""
    import numpy as np

    rng = np.random.default_rng((seed, zlib.crc32(item.key.encode())))
    while True:
        yield item.share >= 1.0 or bool(rng.random() < item.share)


def _value(data: Mapping[str, Any], field: PublishedProperty, entry: Mapping[str, Any]) -> float | None:
    """Return the value of a field; None if it is missing, no number, or not finite."""
    value = data.get(field.name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return field.value(float(value), len(entry["structure"]["sites"]))


KIND = SourceKind(prefix_of(NAME), AlexandriaSource)
"""`alexandria:FOLDER` or `alexandria:FILE`."""

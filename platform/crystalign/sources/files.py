"""Source of structure files: CIF, POSCAR, JSON and VASP output, in a folder, a zip or a tar."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from crystalign.errors import FileFormatError, InputError
from crystalign.limits import Limits
from crystalign.material import Material, Provenance
from crystalign.readers.compression import decompress, without_suffix
from crystalign.readers.structures.structure_file import GRIDS, file_kind, read_structures
from crystalign.rejects import Reject, reject_of
from crystalign.sources.archives import Entry, open_tree
from crystalign.sources.source import Item, Source, SourceKind, file_id

_PARTS_OF_A_RUN = re.compile(r"(poscar|contcar|xdatcar)$")
"""Structure files that every VASP calculation leaves beside its vasprun.xml; other names are crystals of their own."""

_BESIDE_A_RUN = {"", "json", *GRIDS}
"""Kinds of files that belong to the single calculation of their folder; JSON comes from workflow tools."""


class FilesSource(Source):
    """One material per structure, and one per folder that holds a single `vasprun.xml` or `CHGCAR`.

    What VASP writes beside them (POSCAR, INCAR, …) belongs to that calculation. In a folder of several runs each
    is a material of its own. Files that are not structures are quarantined with their name.
    """

    def __init__(
        self, location: str, provenance: Provenance, limits: Limits | None = None, accept: Collection[str] = ()
    ) -> None:
        super().__init__(limits)
        self.location = location
        self.provenance = provenance
        self.accept = frozenset(accept)
        self.tree = open_tree(location, self.limits)

    def items(self) -> list[Item]:
        """List one item per structure file or calculation, and one per file that will not be read.

        Raises:
            FileFormatError: there are no files.
        """
        entries = _first_of_each_name(self.tree.entries())
        if not entries:
            raise FileFormatError(f"{self.location} holds no files", reason="empty-archive")
        root = self.location.rstrip("/").rsplit("/", 1)[-1]
        folders: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            folders[entry.name.rpartition("/")[0]].append(entry)
        items = [item for folder, held in folders.items() for item in _items_of_folder(folder, held, root)]
        return _unique_ids(items)

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """Load the structures of one file, or the material of one calculation."""
        if item.files:
            from crystalign.sources.calculations import read_calculation

            where = replace(self.provenance, reference=item.key)
            yield from read_calculation(item.id, item.files, self._bytes, where)
            return
        kind = file_kind(item.key)
        data = self.tree.read(item.key, self.limits.bytes_of(kind))
        for suffix, reading in read_structures(data, item.key, kind=kind, limits=self.limits):
            identifier = item.id + suffix
            try:
                if isinstance(reading, InputError):
                    raise reading
                accepted = reading.accepted(self.accept)
            except InputError as error:
                yield reject_of(error, identifier, item.key)
            else:
                where = replace(self.provenance, reference=item.key)
                yield Material(identifier, accepted.crystal, where, remarks=accepted.remarks)

    def _bytes(self, name: str) -> bytes:
        """Return the decompressed content of a file, within the size limit of its kind."""
        limit = self.limits.bytes_of(file_kind(name))
        return decompress(self.tree.read(name, limit), limit=limit, name=name)


def _first_of_each_name(entries: Sequence[Entry]) -> list[Entry]:
    """Reject every entry whose name occurred before; archives may repeat names."""
    seen: set[str] = set()
    result = []
    for entry in entries:
        again = ("duplicate-name", f"the archive holds {entry.name!r} more than once; the first one is read")
        result.append(Entry(entry.name, again) if entry.name in seen and not entry.rejected else entry)
        seen.add(entry.name)
    return result


def _items_of_folder(folder: str, entries: Sequence[Entry], root: str) -> Iterator[Item]:
    """Return the items of one folder: one calculation if it holds a single run, otherwise one item per file."""
    usable = [entry for entry in entries if not entry.rejected]
    runs = [entry.name for entry in usable if file_kind(entry.name) == "vasprun"]
    grids = [entry.name for entry in usable if file_kind(entry.name) == "chgcar"]
    single = bool(runs or grids) and len(runs) <= 1 and len(grids) <= 1
    calculation: list[str] = []
    for entry in entries:
        kind = file_kind(entry.name)
        if single and not entry.rejected and (kind in _BESIDE_A_RUN or _PARTS_OF_A_RUN.match(_leaf(entry.name))):
            calculation.append(entry.name)
        elif kind in GRIDS and not entry.rejected:
            yield Item(key=entry.name, id=_run_id(entry.name), files=(entry.name,))
        elif not single and (runs or grids) and not entry.rejected and not kind:
            beside = ("part-of-a-calculation", "not a structure; it lies beside several VASP runs")
            yield Item(key=entry.name, id=file_id(entry.name), rejected=beside)
        else:
            yield _item(entry)
    if calculation:
        yield Item(key=folder or ".", id=folder or root, files=tuple(sorted(calculation)))


def _leaf(name: str) -> str:
    return without_suffix(name.rsplit("/", 1)[-1]).lower()


def _run_id(name: str) -> str:
    """`a/vasprun_mp-1.xml.gz` → `a/vasprun_mp-1`."""
    return re.sub(r"\.xml$", "", without_suffix(name)).replace("#", "_")


def _item(entry: Entry) -> Item:
    rejected = entry.rejected
    if rejected is None and not file_kind(entry.name):
        rejected = ("unsupported-file", "not a CIF, POSCAR, XYZ, JSON, vasprun.xml or CHGCAR by its name")
    return Item(key=entry.name, id=file_id(entry.name), rejected=rejected)


def _unique_ids(items: Sequence[Item]) -> list[Item]:
    """Make the ids unique: if two files have the same stem, the later one gets its full name as id."""
    taken: set[str] = set()
    result = []
    for item in items:
        identifier = item.id
        if not item.rejected:
            names = (
                identifier,
                item.key.replace("#", "_"),
                *(f"{item.key}~{n}".replace("#", "_") for n in range(2, 99)),
            )
            identifier = next((name for name in names if name not in taken), identifier)
            taken.add(identifier)
        result.append(item if identifier == item.id else item.model_copy(update={"id": identifier}))
    return result


KIND = SourceKind(
    lambda _: False,
    lambda request: FilesSource(request.location, request.provenance, request.limits, request.accept),
)
"""A folder, a zip, a tar or a file; `open_source` uses it for locations that no other kind recognises."""

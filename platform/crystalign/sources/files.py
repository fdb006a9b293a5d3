"""Crystals that are files: CIF, POSCAR and the output of VASP, in a folder, a zip or a tar."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from crystalign.errors import CrystalError
from crystalign.material import Material, Provenance
from crystalign.shards.writer import Reject
from crystalign.sources.archives import Entry, open_tree
from crystalign.sources.source import Item, Limits, Source, file_id, reject_of, without_duplicates
from crystalign.sources.structures import crystals_of_text, decode, file_kind, gunzip


class FilesSource(Source):
    """One material per structure file, and one per folder that holds a `vasprun.xml` or a `CHGCAR`.

    The other files of such a folder (POSCAR, INCAR, …) belong to the calculation. Everything else that is no
    structure is quarantined with its name.
    """

    def __init__(self, location: str, provenance: Provenance, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.location = location
        self.provenance = provenance
        self.tree = open_tree(location, self.limits)

    def items(self) -> list[Item]:
        """One per structure file or calculation, and one per file that will not be read."""
        entries = self.tree.entries()
        calculations: dict[str, list[str]] = defaultdict(list)
        for entry in entries:
            if not entry.rejected and file_kind(entry.name) in {"vasprun", "chgcar"}:
                calculations[_folder(entry.name)] = []
        items = []
        for entry in entries:
            folder = _folder(entry.name)
            if not entry.rejected and folder in calculations and file_kind(entry.name) != "cif":
                calculations[folder].append(entry.name)
            else:
                items.append(_item(entry))
        root = self.location.rstrip("/").rsplit("/", 1)[-1]
        for folder, files in calculations.items():
            items.append(Item(key=folder or ".", id=folder or root, files=tuple(sorted(files))))
        return without_duplicates(items)

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """The structures of one file, or the material of one calculation."""
        if item.files:
            from crystalign.sources.vasp import read_calculation

            where = replace(self.provenance, reference=item.key)
            yield from read_calculation(item.id, item.files, self._bytes, where)
            return
        text = decode(self._bytes(item.key), item.key)
        for suffix, crystal in crystals_of_text(text, file_kind(item.key), max_sites=self.limits.max_sites):
            if isinstance(crystal, CrystalError):
                yield reject_of(crystal, item.id + suffix, item.key)
            else:
                yield Material(item.id + suffix, crystal, replace(self.provenance, reference=item.key))

    def _bytes(self, name: str) -> bytes:
        """A file, unpacked, within the limit of its kind."""
        grid = file_kind(name) in {"vasprun", "chgcar"}
        limit = self.limits.max_grid_bytes if grid else self.limits.max_structure_bytes
        return gunzip(self.tree.read(name, limit), limit=limit, name=name)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _item(entry: Entry) -> Item:
    rejected = entry.rejected
    if rejected is None and not file_kind(entry.name):
        rejected = ("unsupported-file", "not a CIF, POSCAR, vasprun.xml or CHGCAR by its name")
    return Item(key=entry.name, id=file_id(entry.name), rejected=rejected)

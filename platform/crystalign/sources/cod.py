"""The Crystallography Open Database: its tree of files, `cif/1/00/00/1000000.cif`, and its table of publications.

The title of the publication becomes the text of a crystal. Retracted entries are refused; entries that the database
marks with errors or warnings, or as duplicates, carry a remark.

S. Gražulis et al., Nucleic Acids Res. 40, D420 (2012), doi:10.1093/nar/gkr900; the data are in the public domain
(CC0-1.0).
"""

from __future__ import annotations

import functools
import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import ConfigError, CrystalError, FileFormatError, InputError
from crystalign.limits import Limits
from crystalign.material import Material, Provenance
from crystalign.modalities.text import Text
from crystalign.readers.compression import decompress
from crystalign.readers.structures.cif import read_cif
from crystalign.readers.structures.cif_publication import Publication, plain_text, publications
from crystalign.readers.structures.decoding import decode
from crystalign.readers.structures.reading import Reading
from crystalign.rejects import Reject, reject_of
from crystalign.sources.archives import open_tree
from crystalign.sources.delimited import TextTable, read_csv, read_dump
from crystalign.sources.source import Item, Source, SourceKind, SourceRequest, prefix_of

NAME, LICENCE = "cod", "CC0-1.0"
ROWS_PER_ITEM = 512
DUMP = ("mysql/data.txt", "mysql/data.sql")
"""The table of the database and its columns, as the server offers them."""
SELECTIONS = ("COD-selection.csv", "COD-selection.txt")
"""Names of a list that a search in the database returns, if it has a line of column names."""
_FILE = re.compile(r"(?P<before>(?:.*/)?)(?P<number>[1-9]\d{6})(?P<after>\.cif(?:\.gz|\.bz2|\.xz)?)", re.DOTALL)
_SUBVERSION = re.compile(r"(?:^|/)\.svn/")
_IDS = ("file", "CODID")
_FIELDS = ("title", "authors", "journal", "year", "volume", "firstpage", "doi", "status", "duplicateof")
_COLUMN = re.compile(r"^\s*`(\w+)`\s+\w", re.MULTILINE)
_MAX_SCHEMA = 1 << 20


class CodSource(Source):
    """The CIFs of a tree, in folders or in one."""

    def __init__(self, request: SourceRequest) -> None:
        super().__init__(request.limits)
        self.location = request.place
        self.provenance = Provenance(NAME, LICENCE, request.provenance.vintage)
        self.accept: Collection[str] = request.accept
        self.opened = uuid.uuid4().hex
        self.tree = open_tree(self.location, self.limits)
        self.table = _table_of(self.location)

    def licences(self) -> tuple[str, ...]:
        """Return the licence of the database."""
        return (LICENCE,)

    def items(self) -> list[Item]:
        """List items of up to 512 CIFs of one folder, and one refused item per other file.

        Raises:
            FileFormatError: there is no CIF with the number of an entry.
        """
        folders: dict[str, list[int]] = defaultdict(list)
        seen: set[int] = set()
        items = [Item(key=f"line {n} of {self.table}", rejected=("bad-row", why)) for n, why in self._bad_lines()]
        administrative = 0
        for entry in self.tree.entries():
            match = _FILE.fullmatch(entry.name)
            if entry.rejected:
                items.append(Item(key=entry.name, rejected=entry.rejected))
            elif _SUBVERSION.search(entry.name):
                administrative += 1
            elif match is None:
                if not self._holds_publications(entry.name):
                    other = ("unsupported-file", "no CIF with the seven-digit number of an entry as its name")
                    items.append(Item(key=entry.name, rejected=other))
            elif int(match["number"]) in seen:
                again = ("duplicate-id", f"another file has the number {match['number']}")
                items.append(Item(key=entry.name, id=f"cod-{match['number']}", rejected=again))
            else:
                seen.add(int(match["number"]))
                folders[f"{match['before']}*{match['after']}"].append(int(match["number"]))
        if not seen:
            raise FileFormatError(f"{self.location} holds no CIF such as 1000000.cif", reason="empty-archive")
        if administrative:
            why = f"{administrative} files of Subversion beside the data; `svn export` leaves them out"
            items.append(Item(key=".svn", rejected=("not-data", why)))
        return items + [
            Item(key=pattern, rows=tuple(numbers[start : start + ROWS_PER_ITEM]))
            for pattern, numbers in folders.items()
            for start in range(0, len(numbers), ROWS_PER_ITEM)
        ]

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """Load the structures of some files."""
        before, _, after = item.key.rpartition("*")
        for number in item.rows:
            name = f"{before}{number}{after}"
            identifier = f"cod-{number}"
            try:
                yield from self._materials(identifier, number, name)
            except InputError as error:
                yield reject_of(error, identifier, name)

    def _materials(self, identifier: str, number: int, name: str) -> Iterator[Material | Reject]:
        """Read the structures of one file, one per data block with sites.

        Raises:
            InputError: the file cannot be read.
        """
        limit = self.limits.max_structure_bytes
        text = decode(decompress(self.tree.read(name, limit), limit=limit, name=name), name)
        published = publications(text)
        listed = self._listed(number)
        blocks = read_cif(text, max_sites=self.limits.max_sites, max_positions=self.limits.max_positions)
        for count, (block, result) in enumerate(blocks, start=1):
            suffix = f"#{count}" if count > 1 else ""
            try:
                yield self._material(identifier + suffix, number, published[block].completed(listed), result)
            except InputError as error:
                yield reject_of(error, identifier + suffix, name)

    def _material(
        self, identifier: str, number: int, publication: Publication, result: Reading | CrystalError
    ) -> Material:
        if isinstance(result, CrystalError):
            raise result
        if publication.status == "retracted":
            raise CrystalError("the database marks the entry as retracted", reason="retracted")
        reading = result.accepted(self.accept)
        remarks = list(reading.remarks)
        if publication.status in {"errors", "warnings"}:
            remarks.append(f"the database marks the entry with {publication.status}")
        if publication.duplicate_of:
            remarks.append(f"the database marks the entry as a duplicate of {publication.duplicate_of}")
        address = f"https://www.crystallography.net/cod/{number}.html"
        reference = "; ".join(filter(None, (address, publication.reference)))
        modalities = {"text": Text(publication.title)} if publication.title else {}
        provenance = replace(self.provenance, reference=reference)
        return Material(identifier, reading.crystal, provenance, modalities, remarks=tuple(remarks))

    def _holds_publications(self, name: str) -> bool:
        return self.table is not None and name in {*DUMP, *SELECTIONS}

    def _bad_lines(self) -> tuple[tuple[int, str], ...]:
        return () if self.table is None else _listed_publications(self.table, self.limits, self.opened).table.bad

    def _listed(self, number: int) -> Publication:
        """Return the publication of an entry in the table of the database."""
        if self.table is None:
            return Publication()
        return _listed_publications(self.table, self.limits, self.opened).find(number)


class _Listed(NamedTuple):
    """The table of publications, by number."""

    table: TextTable
    numbers: NDArray[np.int64]
    """(N,) numbers of the entries in ascending order."""
    order: NDArray[np.int64]
    """(N,) rows of the table in this order."""

    def find(self, number: int) -> Publication:
        """Return the publication of an entry; empty if the table does not have it."""
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self.numbers) or self.numbers[place] != number:
            return Publication()
        row = self.table.row(int(self.order[place]))
        return Publication(
            title=plain_text(row["title"])[:2000],
            authors=tuple(name.strip() for name in row["authors"].split(";") if name.strip())[:100],
            journal=row["journal"],
            year=row["year"],
            volume=row["volume"],
            page=row["firstpage"],
            doi=row["doi"],
            status="" if row["status"] == "none" else row["status"].lower(),
            duplicate_of=row["duplicateof"],
        )


@functools.lru_cache(maxsize=1)
def _listed_publications(location: str, limits: Limits, opened: str) -> _Listed:
    """Read the table, once in each process."""
    if location.endswith(DUMP[0]):
        table, key = _read_dump(location, limits, opened)
    else:
        table, key = _read_selection(location, limits, opened)
    column = table.rows.column(key).to_pylist()
    numbers = np.array([int(text) if text and text.isdecimal() and len(text) < 10 else -1 for text in column], np.int64)
    order = np.argsort(numbers, kind="stable")
    return _Listed(table, numbers[order], order)


def _read_dump(location: str, limits: Limits, opened: str) -> tuple[TextTable, str]:
    schema = storage.read_bytes(location.removesuffix(".txt") + ".sql", limit=_MAX_SCHEMA).decode("utf-8", "replace")
    header = tuple(_COLUMN.findall(schema))
    key = next((name for name in _IDS if name in header), None)
    if key is None:
        message = f"{DUMP[1]} of {location} names no column {' or '.join(_IDS)}"
        raise FileFormatError(message, reason="unreadable-table")
    return read_dump(location, header, (key, *_FIELDS), limits, opened), key


def _read_selection(location: str, limits: Limits, opened: str) -> tuple[TextTable, str]:
    try:
        return read_csv(location, (_IDS[0],), _FIELDS, limits, opened), _IDS[0]
    except FileFormatError as error:
        if error.reason != "unreadable-csv":
            raise
        return read_csv(location, (_IDS[1],), _FIELDS, limits, opened), _IDS[1]


def _table_of(location: str) -> str | None:
    """Return the place of the table of publications beside the CIFs; None if there is none.

    Raises:
        ConfigError: the table lies without its list of columns.
    """
    if location.lower().endswith((".zip", ".tar", ".tgz", ".txz", ".gz", ".xz", ".bz2")):
        return None
    dump, schema = (storage.join(location, name) for name in DUMP)
    if storage.exists(dump):
        if not storage.exists(schema):
            raise ConfigError(f"{dump} lies without {DUMP[1]}, which names its columns; download that, too")
        return dump
    return next((place for name in SELECTIONS if storage.exists(place := storage.join(location, name))), None)


KIND = SourceKind(prefix_of(NAME), CodSource)
"""`cod:FOLDER`, or an archive of the tree."""

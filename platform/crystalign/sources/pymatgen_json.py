"""Source of crystals in a JSON file from pymatgen, the Materials Project, JARVIS or OPTIMADE.

The file may be one document, a list, a mapping from id to document, one document a line, or a reply with its
documents under `data`. It is scanned entry by entry, so only its text and one slice of entries are in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from crystalign import storage
from crystalign.errors import FileFormatError, InputError
from crystalign.limits import Limits
from crystalign.material import Material, Provenance
from crystalign.readers.compression import decompress, without_suffix
from crystalign.readers.structures.decoding import decode
from crystalign.readers.structures.documents import read_document
from crystalign.readers.structures.json_entries import Entry, layout_of, scan
from crystalign.rejects import Reject, reject_of, unforeseen
from crystalign.sources.source import Item, Source, SourceKind, ends_with

ENTRIES_PER_ITEM = 256


class PymatgenJsonSource(Source):
    """Source for a `.json` or `.jsonl` file, optionally compressed."""

    def __init__(
        self, location: str, provenance: Provenance, limits: Limits | None = None, accept: Collection[str] = ()
    ) -> None:
        super().__init__(limits)
        self.location = location
        self.provenance = provenance
        self.accept = frozenset(accept)
        self.stem = location.rsplit("/", 1)[-1].partition(".")[0]
        self._text: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_text": None}

    def items(self) -> list[Item]:
        """List slices of at most 256 entries; the rest after a syntax error becomes one refused item.

        Raises:
            FileFormatError: empty, too large, or not JSON from its first character.
        """
        text = self.text()
        items: list[Item] = []
        seen: set[str] = set()
        pending: list[tuple[int, Entry]] = []
        number = -1
        try:
            for number, entry in enumerate(scan(text, layout_of(text), stem=self.stem)):
                if entry.id in seen:
                    again = ("duplicate-id", f"the id {entry.id!r} stands for an earlier entry of this file")
                    items += [Item(key=f"entry {number}", id=entry.id, rejected=again), *self._slices(pending)]
                    pending = []
                    continue
                seen.add(entry.id)
                pending.append((number, entry._replace(value=None)))
                if len(pending) == ENTRIES_PER_ITEM:
                    items += self._slices(pending)
                    pending = []
        except (ValueError, RecursionError) as error:
            reason = "too-nested" if isinstance(error, RecursionError) else "unreadable-json"
            lost = f"what follows entry {number} cannot be parsed and is lost: {str(error)[:200]}"
            items += self._slices(pending)
            items.append(Item(key=f"(after entry {number})", rejected=(reason, lost)))
            return items
        items += self._slices(pending)
        if not items:
            raise FileFormatError(f"{self.location} holds no entries", reason="empty-file")
        return items

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """Load the entries of one slice."""
        text, numbers = self.text(), set(item.rows)
        entries = scan(text, layout_of(text), stem=self.stem, start=item.start, first=item.first)
        for number, entry in enumerate(entries, start=item.first):
            if number in numbers:
                yield self._material(entry, number)
            if entry.stop >= item.stop:
                return

    def origin(self, item: Item) -> str:
        """Return the file and the entry."""
        return f"{self.location} {item.key}".strip()

    def _material(self, entry: Entry, number: int) -> Material | Reject:
        where = f"{self.location} entry {number}"
        try:
            reading = read_document(entry.value, max_sites=self.limits.max_sites).accepted(self.accept)
        except InputError as error:
            return reject_of(error, entry.id, where)
        except Exception as error:  # noqa: BLE001 (one bad entry must not stop the following ones)
            return Reject(entry.id, "read", *unforeseen(error), where)
        return Material(entry.id, reading.crystal, replace(self.provenance, reference=where), remarks=reading.remarks)

    def _slices(self, pending: list[tuple[int, Entry]]) -> list[Item]:
        if not pending:
            return []
        numbers = tuple(number for number, _ in pending)
        key = f"{self.location} entries {numbers[0]}-{numbers[-1]}"
        return [Item(key=key, start=pending[0][1].start, stop=pending[-1][1].stop, first=numbers[0], rows=numbers)]

    def text(self) -> str:
        """Read the whole text; it is cached for the following slices."""
        if self._text is None:
            limit = self.limits.max_json_bytes
            with storage.open_input(self.location) as stream:
                if stream.size() > limit:
                    message = f"{self.location} has {stream.size()} bytes; the limit for JSON is {limit}: split it"
                    raise FileFormatError(message, reason="too-large")
                data = stream.read()
            self._text = decode(decompress(data, limit=limit, name=self.location), self.location)
            if self._text.lstrip()[:1] not in ("{", "["):
                message = f"{self.location} is not JSON: it begins with {self._text.lstrip()[:20]!r}"
                raise FileFormatError(message, reason="unreadable-json")
        return self._text


KIND = SourceKind(
    lambda location: ends_with(without_suffix(location.lower()), (".json", ".jsonl", ".ndjson")),
    lambda request: PymatgenJsonSource(request.location, request.provenance, request.limits, request.accept),
)
"""A JSON file by its name, perhaps compressed."""

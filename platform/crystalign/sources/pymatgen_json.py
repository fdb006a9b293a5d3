"""pymatgen's JSON: one Structure, a list of them, or a mapping from id to Structure.

Entries of a list may also be documents that hold a `structure` and an id, as the Materials Project API returns
them. The file is scanned entry by entry, so only its text and one slice of entries are ever in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from crystalign import storage
from crystalign.errors import CrystalError, FileFormatError
from crystalign.material import Material, Provenance
from crystalign.shards.writer import Reject
from crystalign.sources.source import Item, Limits, Source, reject_of
from crystalign.sources.structures import crystal_of_dict, decode, gunzip

ENTRIES_PER_ITEM = 256
_SPACE = re.compile(r"[\s,]*")
_KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_IDS = ("material_id", "entry_id", "task_id", "id")


class PymatgenJsonSource(Source):
    """A `.json` or `.json.gz` file."""

    def __init__(self, location: str, provenance: Provenance, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.location = location
        self.provenance = provenance
        self.stem = location.rsplit("/", 1)[-1].partition(".")[0]
        self._text: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_text": None}

    def items(self) -> list[Item]:
        """Slices of at most 256 entries; what cannot be parsed ends in one refused item.

        Raises:
            FileFormatError: empty, too large, or not JSON from its first character.
        """
        text = self.text()
        if _is_single(text):
            return [Item(key=self.location, id=self.stem, start=0, stop=len(text), rows=(0,))]
        items: list[Item] = []
        seen: set[str] = set()
        pending: list[tuple[int, int, int]] = []
        number = 0
        try:
            for number, (key, value, start, stop) in enumerate(scan(text)):
                identifier = self._id(key, value, number)
                if identifier in seen:
                    again = ("duplicate-id", f"the id {identifier!r} stands for an earlier entry of this file")
                    items.append(Item(key=f"entry {number}", id=identifier, rejected=again))
                    items.extend(_slices(self.location, pending))
                    pending = []
                    continue
                seen.add(identifier)
                pending.append((number, start, stop))
                if len(pending) == ENTRIES_PER_ITEM:
                    items.extend(_slices(self.location, pending))
                    pending = []
        except (ValueError, RecursionError) as error:
            reason = "too-nested" if isinstance(error, RecursionError) else "unreadable-json"
            lost = f"what follows entry {number} cannot be parsed and is lost: {str(error)[:200]}"
            items.extend(_slices(self.location, pending))
            items.append(Item(key=f"(after entry {number})", rejected=(reason, lost)))
            return items
        return [*items, *_slices(self.location, pending)]

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """The entries of one slice."""
        text = self.text()
        if _is_single(text):
            yield self._material(self.stem, json.loads(text), 0)
            return
        bracket = text.lstrip()[0]
        part = bracket + text[item.start : item.stop] + ("]" if bracket == "[" else "}")
        wanted = set(item.rows)
        for number, (key, value, _, _) in enumerate(scan(part), start=item.first):
            if number in wanted:
                yield self._material(self._id(key, value, number), value, number)

    def origin(self, item: Item) -> str:
        """The file and the entry."""
        return f"{self.location} {item.key}".strip()

    def _id(self, key: str, value: Any, number: int) -> str:
        if key:
            return key
        named = [str(value[name]) for name in _IDS if isinstance(value, Mapping) and value.get(name)]
        return named[0] if named else f"{self.stem}-{number:06d}"

    def _material(self, identifier: str, document: Any, number: int) -> Material | Reject:
        where = f"{self.location} entry {number}"
        if isinstance(document, Mapping) and isinstance(document.get("structure"), Mapping):
            document = document["structure"]
        if not isinstance(document, Mapping):
            found = f"entry {number} is a {type(document).__name__}, not a Structure"
            return Reject(identifier, "read", "unreadable-structure", found, where)
        try:
            return Material(identifier, crystal_of_dict(document), replace(self.provenance, reference=where))
        except CrystalError as error:
            return reject_of(error, identifier, where)

    def text(self) -> str:
        """The whole text, kept for the slices that follow."""
        if self._text is None:
            limit = self.limits.max_json_bytes
            with storage.open_input(self.location) as stream:
                if stream.size() > limit:
                    message = f"{self.location} has {stream.size()} bytes; the limit for JSON is {limit}: split it"
                    raise FileFormatError(message, reason="too-large")
                data = stream.read()
            self._text = decode(gunzip(data, limit=limit, name=self.location), self.location)
            if self._text.lstrip()[:1] not in ("{", "["):
                message = f"{self.location} is not JSON: it begins with {self._text.lstrip()[:20]!r}"
                raise FileFormatError(message, reason="unreadable-json")
        return self._text


def scan(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """(key or "", value, start, stop) of each entry of the list or mapping at the top of a JSON text.

    Raises:
        ValueError: not JSON at some point; the entries before it have been yielded.
        RecursionError: nested beyond what any structure needs.
    """
    decoder = json.JSONDecoder()
    position = len(text) - len(text.lstrip())
    mapping = text[position] == "{"
    position += 1
    while True:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if text[position : position + 1] == ("}" if mapping else "]"):
            return
        start, key = position, ""
        if mapping:
            found = _KEY.match(text, position)
            if not found:
                raise ValueError(f"no key at character {position}")
            key, position = json.loads(found.group(1)), found.end()
        value, position = decoder.raw_decode(text, position)
        yield key, value, start, position


def _is_single(text: str) -> bool:
    """Whether the top is one Structure: a mapping whose first keys are those of `Structure.as_dict()`."""
    head = text.lstrip()[:200]
    first = _KEY.match(head[1:]) if head.startswith("{") else None
    return bool(first) and json.loads(first.group(1)) in {"@module", "@class", "@version", "lattice", "sites", "charge"}  # type: ignore[union-attr]


def _slices(location: str, pending: list[tuple[int, int, int]]) -> list[Item]:
    if not pending:
        return []
    numbers = tuple(number for number, _, _ in pending)
    key = f"{location} entries {numbers[0]}-{numbers[-1]}"
    return [Item(key=key, start=pending[0][1], stop=pending[-1][2], first=numbers[0], rows=numbers)]

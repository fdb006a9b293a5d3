"""The entries of a JSON file, one by one, without holding them all: a list, a mapping, lines, or one document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from crystalign.readers.structures.documents import STRUCTURE_KEYS, identifier_of

_SPACE = re.compile(r"[\s,]*")
_KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_WRAPPERS = ("data", "response", "entries")
"""Keys under which replies of the Materials Project and OPTIMADE, and files of Alexandria, hold their documents."""


class Layout(NamedTuple):
    """How a file is arranged."""

    kind: Literal["single", "list", "mapping", "lines"]
    start: int
    """Character at which the entries begin: behind the bracket, or the document itself."""


class Entry(NamedTuple):
    """One document."""

    id: str
    value: Any
    start: int
    stop: int


def layout_of(text: str) -> Layout:
    """How a JSON text is arranged, by as little of it as decides.

    Raises:
        ValueError: it is not JSON at some point before that.
    """
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[":
        return Layout("list", start + 1)
    decoder, position = json.JSONDecoder(), start + 1
    while True:
        position = _skip(text, position)
        key = _KEY.match(text, position)
        if key is None:
            break
        name = json.loads(key.group(1))
        if name in _WRAPPERS and text[key.end() : key.end() + 1] == "[":
            return Layout("list", key.end() + 1)
        if name in _WRAPPERS and text[key.end() : key.end() + 1] == "{":
            value, _ = decoder.raw_decode(text, key.end())
            if STRUCTURE_KEYS & value.keys():
                return Layout("single", key.end())
        if name in STRUCTURE_KEYS:
            return _single_or_lines(text, start)
        value, position = decoder.raw_decode(text, key.end())
        if isinstance(value, dict) and (STRUCTURE_KEYS & value.keys()):
            return Layout("mapping", start + 1)
    return _single_or_lines(text, start)


def _single_or_lines(text: str, start: int) -> Layout:
    """Return the layout of a single document, or of lines if anything follows the first one."""
    _, stop = json.JSONDecoder().raw_decode(text, start)
    return Layout("lines" if text[_skip(text, stop) :][:1] else "single", start)


def scan(text: str, layout: Layout, *, stem: str, start: int | None = None, first: int = 0) -> Iterator[Entry]:
    """The entries from a character on.

    Args:
        text: the file.
        layout: how it is arranged.
        stem: begins the ids of entries without one.
        start: character to begin at; the first entry by default.
        first: the number of the entry there.

    Raises:
        ValueError: not JSON at some point; the entries before it have been yielded.
        RecursionError: nested beyond what any structure needs.
    """
    decoder = json.JSONDecoder()
    position, number = layout.start if start is None else start, first
    closing = {"list": "]", "mapping": "}"}.get(layout.kind, "")
    while True:
        position = _skip(text, position)
        if position >= len(text):
            if closing:
                raise ValueError(f"the file ends within the {layout.kind}")
            return
        if closing and text[position] == closing:
            _nothing_more(text, position + 1, whole=layout.start <= 1 + len(text) - len(text.lstrip()))
            return
        begin, key = position, ""
        if layout.kind == "mapping":
            match = _KEY.match(text, position)
            if not match:
                raise ValueError(f"no key at character {position}")
            key, position = json.loads(match.group(1)), match.end()
        value, position = decoder.raw_decode(text, position)
        own = identifier_of(value)
        name = stem if layout.kind == "single" else f"{stem}-{number:06d}"
        yield Entry(key or own or name, value, begin, position)
        number += 1
        if layout.kind == "single":
            return


def _nothing_more(text: str, position: int, *, whole: bool) -> None:
    """Refuse text after the end of a list or mapping that is the whole file."""
    rest = text[position : position + 1000].strip()
    if whole and rest:
        raise ValueError(f"{rest[:30]!r} follows the end of the file's list or mapping")


def _skip(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]

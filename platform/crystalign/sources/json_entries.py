"""The entries of a JSON file, one by one, without holding them all: a list, a mapping, lines, or one document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from crystalign.sources.documents import STRUCTURE_KEYS, identifier_of

_SPACE = re.compile(r"[\s,]*")
_KEY = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_WRAPPERS = ("data", "response")
"""Keys under which a reply of the Materials Project or of OPTIMADE holds its documents."""


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
        if name in STRUCTURE_KEYS:
            return _single_or_lines(text, start)
        value, position = decoder.raw_decode(text, key.end())
        if isinstance(value, dict) and (STRUCTURE_KEYS & value.keys()):
            return Layout("mapping", start + 1)
    return _single_or_lines(text, start)


def _single_or_lines(text: str, start: int) -> Layout:
    """One document, unless another follows it."""
    _, stop = json.JSONDecoder().raw_decode(text, start)
    return Layout("lines" if text[_skip(text, stop) :][:1] == "{" else "single", start)


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
    while True:
        position = _skip(text, position)
        if position >= len(text) or text[position] in "]}":
            if position >= len(text) and layout.kind in {"list", "mapping"}:
                raise ValueError(f"the file ends within the {layout.kind}")
            return
        begin, key = position, ""
        if layout.kind == "mapping":
            found = _KEY.match(text, position)
            if not found:
                raise ValueError(f"no key at character {position}")
            key, position = json.loads(found.group(1)), found.end()
        value, position = decoder.raw_decode(text, position)
        own = identifier_of(value)
        name = stem if layout.kind == "single" else f"{stem}-{number:06d}"
        yield Entry(key or own or name, value, begin, position)
        number += 1
        if layout.kind == "single":
            return


def _skip(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()  # type: ignore[union-attr]

"""The entries of one long JSON list, one by one, from a stream: neither the text nor the list is in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from crystalign.errors import FileFormatError

HEAD = 1 << 16
"""Characters within which the list must begin."""
_SEPARATOR = re.compile(r"[\s,]*")


def list_entries(pieces: Iterator[bytes], key: str, *, limit: int, name: str) -> Iterator[Any]:
    """Yield the entries of a list that is the document itself, or stands under a key of it.

    `NaN` and `Infinity`, which Python writes though JSON has no such numbers, are read as numbers.

    Args:
        pieces: the file in pieces of any size, UTF-8.
        key: key of the list at the top of the document, e.g. `entries`.
        limit: largest number of characters of one entry.
        name: name of the file, for messages.

    Raises:
        FileFormatError: there is no such list, or what follows an entry is not JSON or too long. The entries before
            have been yielded. Errors of `pieces` are passed on when all entries before them have been yielded.
    """
    text = _Window(pieces)
    text.skip_to_list(key, name)
    decoder = json.JSONDecoder()
    number = 0
    while True:
        text.skip_separators()
        if text.text[text.position : text.position + 1] == "]":
            return
        yield _next_entry(text, decoder, number, limit, name)
        number += 1


def _next_entry(text: _Window, decoder: json.JSONDecoder, number: int, limit: int, name: str) -> Any:
    """Read one entry and move behind it; more of the text is read until the entry is complete."""
    size = HEAD
    while True:
        try:
            value, stop = decoder.raw_decode(text.text, text.position)
        except (ValueError, RecursionError) as error:
            held = len(text.text) - text.position
            if held < limit and not isinstance(error, RecursionError) and text.more(size):
                size *= 2  # so that a long entry is not parsed too often
                continue
            raise text.damage or _unreadable(error, held, number, limit, name) from error
        if stop == len(text.text) and not isinstance(value, dict | list) and text.more(size):
            continue  # a number may go on in the next piece
        text.position = stop
        return value


class _Window:
    """The part of a text that is being read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self.text = ""
        self.position = 0
        self.damage: FileFormatError | None = None
        """The error at which the pieces ended."""

    def more(self, characters: int) -> bool:
        """Drop the text that was parsed and append at least this many characters; False at the end of the file."""
        parts = [self.text[self.position :]]
        added = 0
        while added < characters:
            try:
                piece = next(self._pieces, None)
            except FileFormatError as error:
                self.damage, piece = error, None
            if piece is None:
                break
            parts.append(self._decoder.decode(piece))
            added += len(parts[-1])
        self.text, self.position = "".join(parts), 0
        return added > 0

    def skip_separators(self) -> None:
        """Move to the next character that is no space and no comma."""
        while True:
            self.position = _SEPARATOR.match(self.text, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self.text) or not self.more(HEAD):
                return

    def skip_to_list(self, key: str, name: str) -> None:
        """Move behind the bracket that begins the list.

        Raises:
            FileFormatError: there is none near the start.
        """
        if not self.more(HEAD) and self.damage is not None:
            raise self.damage
        match = re.match(rf'\s*(?:\[|\{{(?s:.*?)"{re.escape(key)}"\s*:\s*\[)', self.text[:HEAD])
        if match is None:
            begins = " ".join(self.text[:60].split())
            message = f"{name} has no list {key!r} near its start; it begins with {begins!r}"
            raise FileFormatError(message, reason="unreadable-json")
        self.position = match.end()


def _unreadable(error: Exception, held: int, number: int, limit: int, name: str) -> FileFormatError:
    if isinstance(error, RecursionError):
        return FileFormatError(f"entry {number} of {name} is nested too deeply", reason="too-nested")
    if held >= limit:
        message = f"entry {number} of {name} has {held} characters or more, or is not JSON; the limit is {limit}"
        return FileFormatError(message, reason="too-large")
    if not held:
        return FileFormatError(f"{name} ends within its list, after {number} entries", reason="truncated")
    message = f"what follows entry {number - 1} of {name} cannot be parsed and is lost: {str(error)[:200]}"
    return FileFormatError(message, reason="unreadable-json")

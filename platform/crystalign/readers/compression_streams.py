"""Read compressed files of any size piece by piece, bounded in memory and in the number of bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from crystalign.errors import FileFormatError, StorageError

PIECE = 1 << 20
"""Bytes of one piece."""
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
}
"""First bytes of a compressed file → what opens it."""


def unpacked(source: Any, *, limit: int, name: str) -> Iterator[bytes]:
    """Yield the content of a gzip or bzip2 file, or of an uncompressed one, in pieces of at most 1 MiB.

    Args:
        source: an open file, e.g. of `storage.open_input`.
        limit: largest number of bytes, unpacked.
        name: name of the file, for messages.

    Raises:
        FileFormatError: the file is truncated or damaged, or unpacks to more than `limit` bytes. Everything before has
            been yielded.
        StorageError: the file can no longer be read.
    """
    start = bytes(source.read(4))
    source.seek(0)
    raw = cast("BinaryIO", io.BufferedReader(_Reporting(source, name), PIECE))
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    stream: Any = raw if opener is None else opener(raw)
    total = 0
    while True:
        try:
            piece = stream.read1(PIECE)
        except StorageError:
            raise
        except (EOFError, OSError, zlib.error) as error:
            reason = "truncated" if isinstance(error, EOFError) else "damaged"
            raise FileFormatError(f"{name} breaks after {total} bytes: {error}", reason=reason) from error
        if not piece:
            return
        total += len(piece)
        if total > limit:
            raise FileFormatError(f"{name} unpacks to more than {limit} bytes, the limit", reason="too-large")
        yield piece


class _Reporting(io.RawIOBase):
    """A file whose failures are storage errors, which are not mistaken for damage of its content."""

    def __init__(self, source: Any, name: str) -> None:
        self._source, self._name = source, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(len(buffer))
        except OSError as error:
            raise StorageError(f"{self._name} can no longer be read: {error}") from error
        buffer[: len(data)] = data
        return len(data)

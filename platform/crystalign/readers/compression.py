"""gzip, bzip2 and xz, never unpacked beyond a limit."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Any

from crystalign.errors import FileFormatError

SUFFIXES = (".gz", ".bz2", ".xz")
MAX_XZ_MEMORY = 256 * 2**20
"""Bytes that an xz stream may claim for its dictionary."""


def without_suffix(name: str) -> str:
    """A file's name without the ending of a compression."""
    lower = name.lower()
    return next((name[: -len(suffix)] for suffix in SUFFIXES if lower.endswith(suffix)), name)


def decompress(data: bytes, *, limit: int, name: str) -> bytes:
    """What a compressed file holds, at most `limit` bytes; what is not compressed comes back as it is.

    Raises:
        FileFormatError: more than `limit` bytes, truncated, or damaged inside.
    """
    kind, engine = _engine(data)
    if engine is None:
        return data
    parts: list[bytes] = []
    size, rest = 0, data
    while True:
        try:
            part = engine.decompress(rest, limit - size + 1)
        except (zlib.error, OSError, EOFError, lzma.LZMAError, MemoryError) as error:
            message = f"{name} is not readable {kind}: {error}"
            raise FileFormatError(message, reason=f"unreadable-{kind}") from error
        parts.append(part)
        size += len(part)
        if size > limit:
            message = f"{name} unpacks to more than {limit} bytes, the limit for its kind"
            raise FileFormatError(message, reason="too-large")
        if not engine.eof:
            message = f"{name} ends in the middle of its {kind} stream"
            raise FileFormatError(message, reason="truncated")
        rest = engine.unused_data.lstrip(b"\x00")
        following, engine = _engine(rest)
        if engine is None or following != kind:
            return b"".join(parts)  # data after a stream that is no stream itself is padding


def _engine(data: bytes) -> tuple[str, Any]:
    if data.startswith(b"\x1f\x8b"):
        return "gzip", zlib.decompressobj(wbits=31)
    if data.startswith(b"BZh"):
        return "bzip2", bz2.BZ2Decompressor()
    if data.startswith(b"\xfd7zXZ\x00"):
        return "xz", lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)
    return "", None

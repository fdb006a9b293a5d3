"""Decode the text of a structure file, whose encoding is not stated."""

from __future__ import annotations

from crystalign.errors import FileFormatError


def decode(data: bytes, name: str) -> str:
    """The text of a file; old CIFs are Latin-1.

    Raises:
        FileFormatError: empty, or binary.
    """
    if not data.strip():
        message = f"{name} is empty"
        raise FileFormatError(message, reason="empty-file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if b"\x00" in data:
        message = f"{name} holds NUL bytes: it is not text"
        raise FileFormatError(message, reason="not-text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")

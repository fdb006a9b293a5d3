"""Size and SHA-256 of a content, and the comparison with recorded values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Self


class Fingerprint(NamedTuple):
    """Size and checksum of a content."""

    size: int
    """Size in bytes."""
    sha256: str
    """SHA-256 of the content, hexadecimal."""

    @classmethod
    def of(cls, content: bytes | Iterable[bytes]) -> Self:
        """The fingerprint of a content, given as a whole or in parts."""
        digest, size = hashlib.sha256(), 0
        for part in [content] if isinstance(content, bytes) else content:
            digest.update(part)
            size += len(part)
        return cls(size, digest.hexdigest())

    def difference(self, sha256: str, size: int | None = None) -> str:
        """How this content differs from the recorded one, as text for a message; empty if it does not.

        Args:
            sha256: the recorded checksum.
            size: the recorded size in bytes; None if it was not recorded.
        """
        if self.sha256 == sha256 and size in {None, self.size}:
            return ""
        recorded = "" if size is None else f"{size} bytes with "
        return f"has {self.size} bytes with sha256 {self.sha256[:16]}…, expected {recorded}sha256 {sha256[:16]}…"

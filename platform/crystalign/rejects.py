"""`Reject`: an entry that could not become a row, with the reason. One bad entry must not stop the others."""

from __future__ import annotations

from typing import NamedTuple

from crystalign.errors import Error, InputError


class Reject(NamedTuple):
    """An entry that could not become a row, with the reason."""

    id: str
    """Id of the material, or name of its file."""
    stage: str
    """Stage at which it failed: `read`, `check`, `derive`, …"""
    reason: str
    """Short, stable word by which rejects are grouped."""
    message: str
    """Explanation for people."""
    origin: str
    """The file or archive member."""


def reject_of(error: Error, identifier: str, origin: str) -> Reject:
    """The reject for an entry whose reading raised one of our errors."""
    reason = error.reason if isinstance(error, InputError) else type(error).__name__
    return Reject(identifier, "read", reason, str(error), origin)


def unforeseen(error: Exception) -> tuple[str, str]:
    """(reason, message) of an unexpected exception, so that its entry is rejected and not lost silently."""
    kind = type(error).__name__
    reason = "too-nested" if isinstance(error, RecursionError) else f"unforeseen-{kind}"
    return reason, f"{kind}: {str(error)[:300]}"

"""Memory that is given back: what a process keeps of the large blocks that requests needed for a moment."""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD = 256 * 1024
"""Bytes; larger blocks are mapped one by one, and unmapped when they are freed."""
ARENAS = 2
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def give_back_memory() -> bool:
    """Have glibc give large blocks back to the machine when they are freed; whether it will.

    By itself it raises the threshold to the largest block that was freed, up to 32 MB, and each thread
    keeps an arena of its own: bodies of 8 MB then stay in the process for good. Without glibc nothing
    changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(mallopt(_M_ARENA_MAX, ARENAS))

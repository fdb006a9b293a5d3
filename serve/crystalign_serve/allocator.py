"""glibc allocator settings that return the memory of large, short-lived blocks to the operating system."""

from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD = 256 * 1024
"""Blocks above this size (bytes) are allocated with mmap and unmapped when they are freed."""
ARENAS = 2
"""Number of malloc arenas, shared by all threads."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def give_back_memory() -> bool:
    """Make glibc return large blocks to the operating system when they are freed.

    By default glibc raises the mmap threshold to the largest block freed so far (up to 32 MB) and gives
    each thread its own arena, so request bodies of 8 MB stay in the process. Without glibc this does nothing.

    Returns:
        Whether both settings were accepted.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(mallopt(_M_ARENA_MAX, ARENAS))

"""`Limits` on the size of untrusted files, and `time_limit`, which stops a reader that takes too long."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from crystalign.config import Config
from crystalign.errors import FileFormatError

MIB = 1 << 20


class Limits(Config):
    """Limits for reading untrusted files; every size that the author of a file controls is bounded."""

    max_sites: int = 1000
    """Largest number of sites of a crystal."""
    min_distance: float = 0.5
    """Å; fully occupied sites closer than this overlap."""
    max_positions: int = 200_000
    """Largest number of sites of a CIF times its number of symmetry operations."""
    max_structure_bytes: int = 16 * MIB
    """Largest size of a CIF or POSCAR, uncompressed."""
    max_json_bytes: int = 1024 * MIB
    """Largest size of a JSON file, uncompressed."""
    max_grid_bytes: int = 2048 * MIB
    """Largest size of a `vasprun.xml` or `CHGCAR`, uncompressed."""
    max_members: int = 1_000_000
    """Largest number of entries of an archive, or of files in a folder."""
    max_total_bytes: int = 256 * 1024 * MIB
    """Largest total size of the members of an archive, uncompressed."""
    max_compression_ratio: float = 200.0
    """Largest compression ratio of a member above 1 MiB; structure files reach 3 to 20, a zip bomb 1000."""
    max_seconds: float = 60.0
    """Longest time for reading one file."""

    def bytes_of(self, kind: str) -> int:
        """How many bytes a file may have, uncompressed, by its kind: one of `structure_file.KINDS`."""
        return {"vasprun": self.max_grid_bytes, "chgcar": self.max_grid_bytes, "json": self.max_json_bytes}.get(
            kind, self.max_structure_bytes
        )


class _Overtime(BaseException):
    """The time is up. Not an `Exception`, so that no `except Exception` of a parser catches it."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Stop Python code after a time; compiled code stops only when it returns to Python.

    This uses a signal and works only in the main thread, where Ray runs its tasks. In other threads there is no limit.

    Args:
        seconds: the time limit.
        what: what is being read, for the message.

    Raises:
        FileFormatError: reason `too-slow`, if the time is up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _Overtime

    began = time.monotonic()
    previous = signal.signal(signal.SIGALRM, stop)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Overtime:
        raise FileFormatError(
            f"{what} was not read within {seconds:g} s; it is malformed, or too large for this limit",
            reason="too-slow",
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if outer:  # restore the timer of an outer limit; it fires at once if its time is up meanwhile
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), 1e-3))

"""What a job will need: rows, time and disk space, printed before it starts, and refused if a local disk is too small.

The bytes of crystals, powder patterns, texts and compositions were measured on crystals of the Materials Project; the
other sizes and all times are rough guesses, and the progress display shows the real rate. The free space is checked on
local disks only, because an object store does not report its free space.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crystalign.errors import ConfigError
from crystalign.storage_uri import parse

MARGIN = 1.2
"""Factor on the estimated bytes, so that a job does not end with a full disk."""
RESERVE = 64 * 2**20
"""Bytes that stay free on a local disk."""
BYTES_OF_ROW = 700
"""Bytes of a row with a crystal and its description, compressed."""
BYTES_OF_MODALITY = {"xrd": 5700, "text": 250, "composition": 20, "charge_density": 60_000, "image": 6000}
"""Bytes of a modality, compressed; all others are taken as `OTHER`."""
OTHER = 1500
IGNORE = "CRYSTALIGN_IGNORE_DISK_SPACE"
"""Environment variable that turns the refusal into a warning."""


class Estimate(NamedTuple):
    """What a job is expected to need."""

    rows: int
    """Rows to process."""
    new_bytes: int
    """Bytes of the new files, which lie beside the old ones until the job ends."""
    seconds_of_row: float
    """Time of one row on one core."""

    def __str__(self) -> str:
        """One line for people."""
        cores = os.cpu_count() or 1
        time = _duration(self.rows * self.seconds_of_row / cores)
        return f"{self.rows:,} rows, about {_size(self.new_bytes)} of new files and {time} on {cores} cores"


def bytes_of(modalities: Iterable[str]) -> int:
    """Typical bytes that modalities add to a row."""
    return sum(BYTES_OF_MODALITY.get(name, OTHER) for name in modalities)


def announce(estimate: Estimate, target: str) -> None:
    """Print an estimate, and stop if the disk of the result cannot hold it.

    Args:
        estimate: what the job will need.
        target: URI of the result.

    Raises:
        ConfigError: the target is on a local disk with too little free space.
    """
    print(f"estimate: {estimate}")
    free = free_bytes(target)
    needed = int(estimate.new_bytes * MARGIN) + RESERVE
    if free is None or free >= needed:
        return
    lacking = f"{_size(free)} are free where {target} lies, and the job needs about {_size(needed)}"
    if not os.environ.get(IGNORE):
        raise ConfigError(f"{lacking}: free some space or choose another place. {IGNORE}=1 starts it all the same")
    print(f"warning: {lacking}")


def free_bytes(uri: str) -> int | None:
    """Free bytes on the disk of a path, whose folders may not exist yet; None for an object store."""
    place = parse(uri)
    if place.scheme != "file":
        return None
    folder = Path(place.path)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

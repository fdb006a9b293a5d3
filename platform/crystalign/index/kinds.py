"""The choice of a vector store: `crystalign index --kind auto`."""

from __future__ import annotations

from typing import NamedTuple

AUTO = "auto"
"""Name that stands for the kind that `choose_kind` returns."""
EXACT_ROWS = 10_000_000
"""Up to so many rows, exact search is fast enough, and it cannot miss anything."""
PART = 0.8
"""Part of the memory that the vectors may take."""
_BYTES = {"ivf-fp16": (2.0, 8.0), "ivf-sq8": (1.0, 8.0), "ivf-rabitq": (0.125, 16.0)}


class Choice(NamedTuple):
    """A kind of vector store, and why."""

    kind: str
    """Name of the kind."""
    reason: str
    """One sentence."""


def choose_kind(rows: int, dimension: int, memory: int, target: float) -> Choice:
    """Choose a kind from the number of rows, the memory and the recall to reach.

    Args:
        rows: number of rows n.
        dimension: dimension D of the vectors.
        memory: memory of all processes that will hold the index together (bytes).
        target: recall that searches are to reach.
    """
    exact, usable = 2 * rows * dimension, PART * memory
    what = f"{rows:,} rows of {dimension} dimensions take {_gb(exact)} in half precision"
    if target >= 1.0:
        return Choice("exact-fp16", f"a recall of 1 needs exact search; {what}")
    if rows <= EXACT_ROWS and exact <= usable:
        return Choice("exact-fp16", f"{what}, which fit {_gb(memory)} and are searched exactly in time")
    sizes = {kind: int(rows * (per * dimension + more)) for kind, (per, more) in _BYTES.items()}
    for kind, size in sizes.items():
        if size <= usable:
            why = "too many for exact search" if exact <= usable else f"more than {PART:.0%} of {_gb(memory)}"
            return Choice(kind, f"{what}, {why}; the lists of {kind} take {_gb(size)}")
    kind, size = min(sizes.items(), key=lambda pair: pair[1])
    return Choice(kind, f"{what}; even the lists of {kind} take {_gb(size)}, so that {_gb(memory)} will not hold them")


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"

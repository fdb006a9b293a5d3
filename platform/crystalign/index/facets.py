"""Facets: how many rows of a selection have each element, crystal system, number of elements and source."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.index.columns import FilterColumns

CRYSTAL_SYSTEMS = {
    "triclinic": 2,
    "monoclinic": 15,
    "orthorhombic": 74,
    "tetragonal": 142,
    "trigonal": 167,
    "hexagonal": 194,
    "cubic": 230,
}
"""Crystal system → the last of its space group numbers (International Tables for Crystallography A)."""


class Facets(NamedTuple):
    """Numbers of rows by value. Rows without a value are counted in none; values without rows are left out."""

    elements: dict[str, int]
    """Symbol → number of rows that contain the element."""
    crystal_systems: dict[str, int]
    """Crystal system → number of rows."""
    n_elements: dict[int, int]
    """Number of elements → number of rows."""
    sources: dict[str, int]
    """Source → number of rows."""


def count_facets(columns: FilterColumns, bits: NDArray[np.uint8]) -> Facets:
    """Count the rows of a bitmap by value."""
    systems: Counter[str] = Counter()
    names, last = list(CRYSTAL_SYSTEMS), list(CRYSTAL_SYSTEMS.values())
    for number, count in columns.count_values("spacegroup_number", bits).items():
        systems[names[bisect.bisect_left(last, number)]] += count
    return Facets(
        elements=columns.count_elements(bits),
        crystal_systems=dict(systems),
        n_elements=columns.count_values("nelements", bits),
        sources=columns.count_values("source", bits),
    )


def add_facets(parts: Iterable[Facets]) -> Facets:
    """The facets of several segments together."""
    totals: list[Counter[Any]] = [Counter() for _ in Facets._fields]
    every: list[Any] = list(parts)
    for part in every:
        for total, counts in zip(totals, part, strict=True):
            total.update(counts)
    return Facets(*(dict(total) for total in totals))

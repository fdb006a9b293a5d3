"""Generate all sites of a cell from the asymmetric unit and the symmetry operations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import CrystalError
from crystalign.readers.structures.cif_symmetry import Operations

Array = NDArray[np.float64]

LEAST_TOLERANCE, MOST_TOLERANCE = 0.01, 0.1
"""Å; bounds of the tolerance within which images of a site coincide, 4 × `rounding` × the longest lattice vector."""
MAX_PAIRS = 64
"""Largest average number of sites per position; more cannot be mixed occupancy."""
SHARED = 0.05
"""Å; different elements this near share a site, and so do parts of one element that add up to at most one."""


class Site(NamedTuple):
    """One row of an asymmetric unit."""

    frac_coords: Array
    """(3,)."""
    occupancy: float
    """0 to 1."""
    rounding: float
    """Half a unit of the last digit of its least exact coordinate: 0.00005 for four digits."""


def images(site: Site, operations: Operations, lattice: Array) -> Array:
    """(m, 3) the distinct images of a site in the cell; m is its multiplicity.

    If some operations move a site by no more than the rounding of its coordinates, the site lies on a special position.
    It is moved there exactly, to x̄ = mean of R x + t over these operations, so that 0.3333 becomes 1/3 and the images
    of x̄ coincide. Coordinates within their rounding of a multiple of 1/6, such as 0.33 in a large cell, are replaced
    by it if that gives fewer images.
    """
    length = np.linalg.norm(lattice, axis=1).max()
    tolerance = float(np.clip(4.0 * site.rounding * length, LEAST_TOLERANCE, MOST_TOLERANCE))
    orbit = _orbit(site.frac_coords, operations, lattice, tolerance)
    sixths = np.rint(site.frac_coords * 6.0) / 6.0
    exact = np.where(np.abs(sixths - site.frac_coords) <= site.rounding, sixths, site.frac_coords)
    if (exact != site.frac_coords).any():
        special = _orbit(exact, operations, lattice, tolerance)
        if len(special) < len(orbit):
            return special
    return orbit


def _orbit(point: Array, operations: Operations, lattice: Array, tolerance: float) -> Array:
    rotations = operations.rotations.astype(np.float64)
    step = np.einsum("mij,j->mi", rotations, point) + operations.translations - point
    step -= np.rint(step)
    fixed = np.linalg.norm(step @ lattice, axis=1) <= tolerance
    exact = point + step[fixed].mean(axis=0)
    moved = np.einsum("mij,j->mi", rotations, exact) + operations.translations
    moved -= np.floor(moved)
    apart = moved[:, None] - moved[None]
    apart -= np.rint(apart)
    same = np.linalg.norm(apart @ lattice, axis=2) <= tolerance
    return np.asarray(moved[same.argmax(axis=1) == np.arange(len(moved))])


class Shared(NamedTuple):
    """Which sites coincide."""

    owner: NDArray[np.int64]
    """(N,) index of the first site at the position of each site."""
    repeated: NDArray[np.bool_]
    """(N,) whether a site only repeats its owner: the same element, fully occupied, listed twice."""


def shared_sites(coords: Array, lattice: Array, occupancies: Array, numbers: NDArray[np.int64]) -> Shared:
    """Sites at one place: a mixed site, or a repetition where an atom is listed twice.

    Args:
        coords: (N, 3) fractional.
        lattice: (3, 3) Å.
        occupancies: (N,).
        numbers: (N,) atomic numbers.
    """
    owner, repeated = np.arange(len(coords)), np.zeros(len(coords), bool)
    total = occupancies.copy()
    for first, second in _near_pairs(coords - np.floor(coords), lattice):
        a = int(owner[first])
        if owner[second] != second or a == second:
            continue
        if numbers[a] != numbers[second] or total[a] + occupancies[second] <= 1.05:
            owner[second] = a
            total[a] += occupancies[second]
        elif min(occupancies[a], occupancies[second]) > 0.99:
            owner[second], repeated[second] = a, True
    return Shared(owner, repeated)


def _near_pairs(frac: Array, lattice: Array) -> list[tuple[int, int]]:
    """Pairs (i < j) closer than `SHARED`, images across the faces of the cell included."""
    from scipy.spatial import cKDTree

    margin = (
        SHARED
        / np.abs(np.linalg.det(lattice))
        * np.array([np.linalg.norm(np.cross(lattice[(i + 1) % 3], lattice[(i + 2) % 3])) for i in range(3)])
    )
    points, index = [frac], [np.arange(len(frac))]
    for axis in range(3):
        stacked, numbers = np.concatenate(points), np.concatenate(index)
        low = stacked[:, axis] < margin[axis]
        shift = np.zeros(3)
        shift[axis] = 1.0
        points.append(stacked[low] + shift)
        index.append(numbers[low])
    numbers = np.concatenate(index)
    tree = cKDTree(np.concatenate(points) @ lattice)
    if tree.count_neighbors(tree, SHARED) > MAX_PAIRS * len(numbers):
        message = f"more than {MAX_PAIRS} sites stand on one place"
        raise CrystalError(message, reason="bad-sites")
    pairs = tree.query_pairs(SHARED, output_type="ndarray")
    distinct = {(min(a, b), max(a, b)) for a, b in numbers[pairs].tolist() if a != b}
    return sorted(distinct)

"""Names of coordination polyhedra."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 15.0
"""Degrees; largest root-mean-square deviation of the angles from those of the ideal polyhedron."""
STRAIGHT = 165.0
"""Degrees; two neighbours are `linear` above this angle."""


def shape(vectors: Array, tolerance: float = TOLERANCE) -> str:
    """The name of the coordination polyhedron.

    The sorted angles between all pairs of neighbours are compared with those of each ideal polyhedron; the one with
    the smallest root-mean-square deviation is chosen.

    Args:
        vectors: (n, 3) from the centre to its neighbours, any length.
        tolerance: degrees, the largest root-mean-square deviation of the angles.

    Returns:
        A name such as `octahedral`; `n-fold` if no polyhedron with n corners fits. Two neighbours are `linear`
        above 165° and `bent` otherwise; one is `terminal`.
    """
    n = len(vectors)
    if n == 1:
        return "terminal"
    if n == 2:
        return "linear" if pair_angles(vectors)[0] > STRAIGHT else "bent"
    distance = _deviations(vectors)
    if not distance:
        return f"{n}-fold"
    best = min(distance, key=lambda name: (distance[name], name))
    return best if distance[best] < tolerance else f"{n}-fold"


def fits(vectors: Array, name: str, tolerance: float) -> bool:
    """Whether an arrangement fits the named polyhedron within a tolerance, even if another fits better.

    Args:
        vectors: (n, 3) from the centre to its neighbours.
        name: a name that `shape` returns.
        tolerance: degrees, the largest root-mean-square deviation of the angles.
    """
    deviations = _deviations(vectors)
    return deviations[name] < tolerance if name in deviations else shape(vectors, tolerance) == name


def _deviations(vectors: Array) -> dict[str, float]:
    """Name → root-mean-square deviation in degrees, for every polyhedron with as many corners."""
    n = len(vectors)
    if n < 3:
        return {}
    actual = pair_angles(vectors)
    return {name: float(np.sqrt(np.mean((actual - angles) ** 2))) for name, angles in _ideal_angles(n).items()}


def pair_angles(vectors: Array) -> Array:
    """(n (n − 1)/2,) angles between all pairs of vectors, degrees, ascending."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = _pairs(len(unit))
    cosines = (unit[first] * unit[second]).sum(axis=1)
    return np.sort(np.degrees(np.arccos(cosines.clip(-1.0, 1.0))))


@functools.lru_cache(maxsize=256)
def _pairs(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of n vectors."""
    first, second = np.triu_indices(n, 1)
    return first, second


@functools.cache
def _ideal_angles(n: int) -> dict[str, Array]:
    """Name → angles, for the polyhedra with n corners."""
    return {name: pair_angles(corners) for name, corners in _corners().items() if len(corners) == n}


@functools.cache
def _corners() -> dict[str, Array]:
    """(n, 3) corners of each polyhedron; the angles of the trigonal pyramid are 97°."""
    poles = np.array([[0, 0, 1], [0, 0, -1]])
    cube = np.array(list(itertools.product((-1, 1), repeat=3)))
    edges = np.array([v for v in itertools.product((-1, 0, 1), repeat=3) if np.abs(v).sum() == 2])
    golden = (1 + np.sqrt(5)) / 2
    icosahedron = [np.roll([0, i, j * golden], k) for i in (-1, 1) for j in (-1, 1) for k in range(3)]
    prism, caps = _prism(3, 1 / np.sqrt(3), 0.5), _ring(3, turn=60)
    triangle, wide = _ring(3, 1 / np.sqrt(3), np.sqrt(2 / 3)), _ring(6)
    return {
        "trigonal planar": _ring(3),
        "trigonal pyramidal": _ring(3, 1.0, 0.55),
        "T-shaped": np.vstack([poles, [[1, 0, 0]]]),
        "tetrahedral": cube[[0, 3, 5, 6]],
        "square-planar": _ring(4),
        "see-saw": np.vstack([poles, _ring(3)[:2]]),
        "trigonal bipyramidal": np.vstack([poles, _ring(3)]),
        "square-pyramidal": np.vstack([poles[:1], _ring(4)]),
        "octahedral": np.vstack([poles, _ring(4)]),
        "trigonal prismatic": prism,
        "pentagonal bipyramidal": np.vstack([poles, _ring(5)]),
        "capped trigonal prismatic": np.vstack([prism, caps[:1]]),
        "hexahedral": cube,
        "square antiprismatic": _antiprism(4),
        "hexagonal bipyramidal": np.vstack([poles, wide]),
        "tricapped trigonal prismatic": np.vstack([prism, caps]),
        "cuboctahedral": edges,
        "anticuboctahedral": np.vstack([triangle, triangle * [1, 1, -1], _ring(6, turn=30)]),
        "icosahedral": np.array(icosahedron),
    }


def _ring(n: int, radius: float = 1.0, height: float = 0.0, turn: float = 0.0) -> Array:
    """(n, 3) corners of a regular polygon around z, the first at `turn` degrees from x."""
    angle = np.radians(turn) + 2 * np.pi * np.arange(n) / n
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, height)], axis=1)


def _prism(n: int, radius: float, height: float) -> Array:
    return np.vstack([_ring(n, radius, height), _ring(n, radius, -height)])


def _antiprism(n: int) -> Array:
    """(2n, 3) corners of the antiprism whose edges are all equal."""
    height = 0.5 * np.sqrt((np.cos(np.pi / n) - np.cos(2 * np.pi / n)) * 2)
    return np.vstack([_ring(n, 1.0, height), _ring(n, 1.0, -height, 180 / n)])

"""Connectivity of coordination polyhedra: which octahedra and tetrahedra share corners, edges or faces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from crystalign.config import Config
from crystalign.crystal import SYMBOLS, Crystal
from crystalign.physics.compound_classes import NONMETALS, H
from crystalign.physics.contacts import electronegativities
from crystalign.physics.coordination import Bonds

Sharing = Literal["corner", "edge", "face"]
SHARING: tuple[Sharing, ...] = ("corner", "edge", "face")
"""Number of common corners, minus one → what two polyhedra share; three or more corners are a face."""
SHAPES = ("octahedral", "tetrahedral")
"""Shapes whose connectivity is described."""
MAX_KINDS = 6
"""Largest number of kinds of polyhedra; a crystal with more is described by the first, in alphabetical order."""


class Linkage(Config):
    """What the polyhedra of one kind share with each other, or with those of another kind."""

    one: str
    """Formula of a polyhedron: `TiO6`."""
    one_shape: str
    """`octahedral` or `tetrahedral`."""
    other: str
    """Formula of the other polyhedron; equal to `one` if they are of one kind."""
    other_shape: str
    """Its shape."""
    shared: tuple[Sharing, ...]
    """Everything that two such polyhedra share somewhere, in the order corner, edge, face; empty if they share nothing,
    which is said of one kind only."""


def linkages(crystal: Crystal, bonding: Bonds, shapes: Sequence[str]) -> tuple[Linkage, ...]:
    """How the octahedra and tetrahedra of anions around cations are connected.

    A cation is less electronegative (Pauling) than all atoms bonded to it, which are nonmetals; hydrogen does not
    count. Two polyhedra share a corner if one atom is bonded to both centres, an edge for two atoms and a face for
    more. Images of an atom are different atoms, so the result does not depend on the choice of cell.

    Args:
        crystal: the structure.
        bonding: its bonds.
        shapes: the shape of the surroundings of every site, as `polyhedra.shape` gives it.
    """
    kinds = _kinds(crystal, bonding, shapes)
    centres: dict[int, list[tuple[int, tuple[int, int, int]]]] = defaultdict(list)  # corner → centres around it
    bonded = np.flatnonzero(bonding.bonded)
    near = bonding.near
    ends = near.receivers[bonded].tolist(), near.senders[bonded].tolist(), near.images[bonded].tolist()
    for centre, corner, (x, y, z) in zip(*ends, strict=True):
        if centre in kinds:
            centres[corner].append((centre, (-x, -y, -z)))
    common: Counter[tuple[int, int, int, int, int]] = Counter()
    for around in centres.values():
        for (a, (ax, ay, az)), (b, (bx, by, bz)) in combinations(around, 2):
            common[a, b, bx - ax, by - ay, bz - az] += 1
            common[b, a, ax - bx, ay - by, az - bz] += 1
    shared: dict[tuple[tuple[str, str], tuple[str, str]], set[int]] = defaultdict(set)
    for (a, b, *_), corners in common.items():
        shared[kinds[a], kinds[b]].add(min(corners, 3) - 1)
    names = sorted(set(kinds.values()))[:MAX_KINDS]
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i:]]
    return tuple(
        Linkage(
            one=one[0],
            one_shape=one[1],
            other=other[0],
            other_shape=other[1],
            shared=tuple(SHARING[n] for n in sorted(shared[one, other])),
        )
        for one, other in pairs
        if one == other or shared[one, other]
    )


def _kinds(crystal: Crystal, bonding: Bonds, shapes: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Site of a cation → formula and shape of its polyhedron."""
    z, chi = crystal.atomic_numbers, electronegativities()
    bounds = np.searchsorted(bonding.near.receivers, np.arange(len(crystal) + 1))
    kinds = {}
    for site in [site for site, form in enumerate(shapes) if form in SHAPES and z[site] != H]:
        edges = np.arange(bounds[site], bounds[site + 1])
        corners = z[bonding.near.senders[edges[bonding.bonded[edges]]]]
        if NONMETALS.issuperset(corners.tolist()) and bool((chi[corners] > chi[z[site]]).all()):
            numbers, counts = np.unique(corners, return_counts=True)
            parts = [f"{SYMBOLS[n]}{count if count > 1 else ''}" for n, count in zip(numbers, counts, strict=True)]
            kinds[site] = (f"{SYMBOLS[z[site]]}{''.join(parts)}", shapes[site])
    return kinds

"""Dimensionality of a crystal: in how many directions its bonded network extends."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.physics.compound_classes import INERT, NONMETALS, atomic_numbers
from crystalign.physics.coordination import Bonds
from crystalign.physics.picture import covalent_radii

Dimensionality = Literal["molecular", "chains", "layered", "framework"]
NAMES: tuple[Dimensionality, ...] = ("molecular", "chains", "layered", "framework")
"""Number of directions → name."""
BETWEEN_LAYERS = frozenset(atomic_numbers("Li Na K Rb Cs Fr Ca Sr Ba Ra"))
"""Ions that can stand between layers: alkali metals and the heavier alkaline earths."""
LOCALISING = frozenset(atomic_numbers("H N O F S Cl Se Br Te I At"))
"""Elements that bind the electrons of metals; in compounds without them, metal atoms in contact are bonded."""
METALS = frozenset(range(1, 119)) - NONMETALS - INERT - {83}
"""Without bismuth, whose layers are like those of arsenic and antimony."""
CONTACT = 1.2
"""Largest distance of two metal atoms in contact, in units of the sum of their covalent radii."""


def dimensionality(crystal: Crystal, bonding: Bonds) -> Dimensionality:
    """The largest number of directions in which a cluster of bonded atoms repeats, as a word.

    A cluster repeats along a lattice vector if a path of bonds leads from an atom to its image there. The number of
    directions is the rank of these vectors (Larsen, Pandey, Strange & Jacobsen, Phys. Rev. Mater. 3, 034003 (2019)).
    The structures that chemists call layered include those with ions between the layers: a network in three
    directions is `layered`, too, if the rest without alkali metals, calcium, strontium and barium extends in two,
    as the CoO2 layers of LiCoO2 and the NiF4 layers of K2NiF4 do.

    Args:
        crystal: the structure.
        bonding: its bonds.
    """
    within = network(crystal, bonding)
    edges = np.column_stack([bonding.near.receivers, bonding.near.senders])[within]  # (E, 2)
    images = bonding.near.images[within]  # (E, 3)
    rank = _rank(len(crystal), edges, images)
    if rank == 3:
        between = np.isin(crystal.atomic_numbers, list(BETWEEN_LAYERS))
        rest = ~between[edges].any(axis=1)
        if between.any() and _rank(len(crystal), edges[rest], images[rest]) == 2:
            rank = 2
    return NAMES[rank]


def network(crystal: Crystal, bonding: Bonds) -> NDArray[np.bool_]:
    """(E,) which edges connect the network: bonds, and contacts of metal atoms in a metallic compound.

    The algorithm behind `bonds` keeps the strongest bonds only. In Al12W these are W-Al, and the network would be a
    molecule; in FeB they are Fe-B. There the contacts between metal atoms count, unless `LOCALISING` elements make
    the compound a salt or a semiconductor.
    """
    if not LOCALISING.isdisjoint(crystal.composition):
        return bonding.bonded
    one, other = (crystal.atomic_numbers[ends] for ends in (bonding.near.receivers, bonding.near.senders))
    metals, radius = list(METALS), covalent_radii()
    touching = bonding.near.distances <= CONTACT * (radius[one] + radius[other])
    connected: NDArray[np.bool_] = bonding.bonded | (touching & np.isin(one, metals) & np.isin(other, metals))
    return connected


def _rank(n_atoms: int, edges: NDArray[np.int64], images: NDArray[np.int64]) -> int:
    """The largest rank of the lattice vectors that close a path of bonds within a cluster.

    Every atom gets the translation at which a spanning tree of its cluster reaches it. A bond from a to b in the cell
    n closes a path with the vector t_a + n − t_b, and these vectors span the lattice of the cluster.
    """
    neighbours: list[list[tuple[int, NDArray[np.int64]]]] = [[] for _ in range(n_atoms)]
    for (a, b), image in zip(edges.tolist(), images, strict=True):
        neighbours[a].append((b, image))
    translation: dict[int, NDArray[np.int64]] = {}
    largest = 0
    for start in range(n_atoms):
        if start in translation:
            continue
        translation[start], waiting, closing = np.zeros(3, np.int64), [start], set()
        while waiting:
            atom = waiting.pop()
            for other, image in neighbours[atom]:
                reached = translation[atom] + image
                if other not in translation:
                    translation[other] = reached
                    waiting.append(other)
                else:
                    closing.add(tuple((reached - translation[other]).tolist()))
        closing.discard((0, 0, 0))
        if closing:
            largest = max(largest, int(np.linalg.matrix_rank(np.array(sorted(closing), float))))
    return largest

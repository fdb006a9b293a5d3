"""Dimensionality of a crystal: in how many directions its bonded network extends."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.physics.compound_classes import INERT, NONMETALS, H, N, atomic_numbers
from crystalign.physics.coordination import Bonds
from crystalign.physics.picture import covalent_radii

Dimensionality = Literal["molecular", "chains", "layered", "framework"]
NAMES: tuple[Dimensionality, ...] = ("molecular", "chains", "layered", "framework")
"""Number of directions → name."""
BETWEEN_LAYERS = frozenset(atomic_numbers("Li Na K Rb Cs Fr Ca Sr Ba Ra"))
"""Ions that can stand between layers: alkali metals and the heavier alkaline earths."""
DIVALENT = frozenset(atomic_numbers("Eu"))
"""Others that can in a compound with a nonmetal, such as EuFe2As2."""
TRIVALENT = frozenset({*range(57, 72), *atomic_numbers("Y Bi")})
"""Others that can in an oxide, nitride or fluoride: lanthanides, yttrium and bismuth."""
SMALL_ANIONS = frozenset(atomic_numbers("N O F"))
"""Anions of such compounds."""
LARGE_ANIONS = frozenset(atomic_numbers("P S Cl As Se Br Sb Te I"))
"""Anions that can stand between layers of metal atoms and small anions."""
LOCALISING = frozenset(atomic_numbers("H N O F S Cl Se Br Te I At"))
"""Elements that bind the electrons of metals; in compounds without them, metal atoms in contact are bonded."""
METALS = frozenset(range(1, 119)) - NONMETALS - INERT - {83}
"""Without bismuth, whose layers are like those of arsenic and antimony."""
SMALL_METAL = 6
"""Largest number of nonmetals around a metal atom in the layers between trivalent ions."""
CONTACT = 1.2
"""Largest distance of two metal atoms in contact, in units of the sum of their covalent radii."""


def dimensionality(crystal: Crystal, bonding: Bonds) -> Dimensionality:
    """The largest number of directions in which a cluster of bonded atoms repeats, as a word.

    A cluster repeats along a lattice vector if a path of bonds leads from an atom to its image there. The number of
    directions is the rank of these vectors (Larsen, Pandey, Strange & Jacobsen, Phys. Rev. Mater. 3, 034003 (2019)).
    The structures that chemists call layered include those with ions between the layers. So a network in three
    directions is `layered`, too, if what is left of it without these ions extends in two, and an ammonium salt is a
    framework or layered as a potassium salt is.

    Args:
        crystal: the structure.
        bonding: its bonds.
    """
    within = network(crystal, bonding)
    edges = np.column_stack([bonding.near.receivers, bonding.near.senders])[within]  # (E, 2)
    images = bonding.near.images[within]  # (E, 3)
    rank = int(ranks(len(crystal), edges, images).max())
    if rank == 3:
        return "layered" if _is_stacked(crystal, edges, images) else "framework"
    return "framework" if rank < 2 and _has_ammonium(crystal, edges) else NAMES[rank]


def _is_stacked(crystal: Crystal, edges: NDArray[np.int64], images: NDArray[np.int64]) -> bool:
    """Whether a network in three directions consists of layers and ions between them.

    It does if

    - the rest without `BETWEEN_LAYERS` extends in two directions: the CoO2 layers of LiCoO2, the NiF4 layers of K2NiF4;
    - in a compound with a nonmetal, that without `DIVALENT` ions does, too: the FeAs layers of EuFe2As2;
    - in an oxide, nitride or fluoride without complex anions, that without `TRIVALENT` ions does, too: the CuO4 layers
      of La2CuO4, the FeAs layers of LaFeAsO. The rest of the perovskite LaFeO3 extends in three, that of La2O3 in none.
      Its metal atoms have at most six neighbours: metals as large as the trivalent ions are merely ordered with them,
      as in yttria-stabilised zirconia;
    - in such a compound, every metal atom belongs to a layer without `LARGE_ANIONS`: the Bi2O2 layers of Bi2O2Se, the
      PbF layers of PbClF.

    Complex anions are nonmetals bonded to another nonmetal, except hydrogen: in phosphates, silicates or borates, what
    remains without the trivalent ions is often a layer that nobody calls so.
    """
    z = crystal.atomic_numbers

    def without(removed: NDArray[np.bool_]) -> NDArray[np.int64]:
        kept = ~removed[edges].any(axis=1)
        return ranks(len(crystal), edges[kept], images[kept])

    nonmetal = np.isin(z, list(NONMETALS))
    complexes = nonmetal[edges].all(axis=1) & (z[edges] != H).all(axis=1) & (z[edges[:, 0]] != z[edges[:, 1]])
    simple = not SMALL_ANIONS.isdisjoint(crystal.composition) and not complexes.any()
    neighbours = np.bincount(edges[:, 0], nonmetal[edges[:, 1]], minlength=len(z))
    small = (neighbours <= SMALL_METAL) | nonmetal | np.isin(z, list(BETWEEN_LAYERS | DIVALENT | TRIVALENT))
    between = np.zeros(len(z), bool)
    for ions, possible in (
        (BETWEEN_LAYERS, True),
        (DIVALENT, bool(nonmetal.any())),
        (TRIVALENT, simple and bool(small.all())),
    ):
        among = np.isin(z, list(ions))
        if possible and among.any():
            between |= among
            if without(between).max() == 2:
                return True
    large = np.isin(z, list(LARGE_ANIONS))
    return simple and bool(large.any() and (without(large)[~nonmetal] == 2).all())


def _has_ammonium(crystal: Crystal, edges: NDArray[np.int64]) -> bool:
    """Whether there are ammonium ions: like potassium ions, they hold chains and molecular anions together."""
    z = crystal.atomic_numbers
    degree = np.bincount(edges[:, 0], minlength=len(z))
    hydrogen = np.bincount(edges[:, 0], z[edges[:, 1]] == H, minlength=len(z))
    return bool(((z == N) & (degree == 4) & (hydrogen == 4)).any())


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


def ranks(n_atoms: int, edges: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) the number of directions in which the cluster of each atom repeats: the rank of its closing vectors.

    Every atom gets the translation at which a spanning tree of its cluster reaches it. A bond from a to b in the cell
    n closes a path with the vector t_a + n − t_b, and these vectors span the lattice of the cluster.

    Args:
        n_atoms: number of atoms N.
        edges: (E, 2) bonded atoms; each bond in both directions.
        images: (E, 3) cell of the second atom.
    """
    neighbours: list[list[tuple[int, NDArray[np.int64]]]] = [[] for _ in range(n_atoms)]
    for (a, b), image in zip(edges.tolist(), images, strict=True):
        neighbours[a].append((b, image))
    translation: dict[int, NDArray[np.int64]] = {}
    ranks = np.zeros(n_atoms, np.int64)
    for start in range(n_atoms):
        if start in translation:
            continue
        translation[start], waiting, cluster, closing = np.zeros(3, np.int64), [start], [start], set()
        while waiting:
            atom = waiting.pop()
            for other, image in neighbours[atom]:
                reached = translation[atom] + image
                if other not in translation:
                    translation[other] = reached
                    waiting.append(other)
                    cluster.append(other)
                else:
                    closing.add(tuple((reached - translation[other]).tolist()))
        closing.discard((0, 0, 0))
        if closing:
            ranks[cluster] = np.linalg.matrix_rank(np.array(sorted(closing), float))
    return ranks

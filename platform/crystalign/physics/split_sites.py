"""Split sites: positions of one atom that are never occupied at the same time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal, Occupancy
from crystalign.physics.compound_classes import NONMETALS
from crystalign.physics.neighbour_list import within
from crystalign.physics.picture import covalent_radii

HYDROGEN = 1
OVERLAP = 0.6
"""Two partly occupied sites nearer than this times the sum of the covalent radii are positions of one atom."""
TOUCHING = 1.2
"""The same for two positions of one element, which may lie as far apart as bonded atoms; and up to which two partly
occupied nonmetals may or may not be bonded."""
SLACK = 0.05
"""What the occupancies of alternatives may exceed 1 by, as `Crystal.check` allows."""


def one_of_each(crystal: Crystal) -> Crystal:
    """The crystal with one position of each split site: the most occupied, of equals that of the lightest species.

    A structure refined with split sites lists positions of one atom beside each other, with occupancies that add up to
    at most one. Its bonds are those of one position, not between the positions.

    Args:
        crystal: any; an ordered one comes back as it is.
    """
    if crystal.occupancies is None:
        return crystal
    share, one, other, relative = _alternatives(crystal.occupancies, crystal)
    alike = (crystal.atomic_numbers[one] == crystal.atomic_numbers[other]) & (crystal.atomic_numbers[one] != HYDROGEN)
    overlap = relative < np.where(alike, TOUCHING, OVERLAP)
    rivals: dict[int, set[int]] = {}
    for a, b in zip(one[overlap].tolist(), other[overlap].tolist(), strict=True):
        rivals.setdefault(a, set()).add(b)
    kept: set[int] = set()
    for site in np.lexsort((np.arange(len(share)), crystal.atomic_numbers, -share)).tolist():
        if not rivals.get(site, set()) & kept:
            kept.add(site)
    chosen = sorted(kept)
    occupancies = tuple(crystal.occupancies[site] for site in chosen)
    return Crystal(crystal.lattice, crystal.frac_coords[chosen], crystal.atomic_numbers[chosen], occupancies)


def has_doubtful_bonds(crystal: Crystal) -> bool:
    """Whether nonmetals that may never be there at the same time are as near as bonded ones.

    The oxygen atoms of hematite, refined at two positions 1.47 Å apart, are no peroxide; the two orientations of a
    peroxide may be written in the same way. Which it is cannot be told from the sites.
    """
    if crystal.occupancies is None:
        return False
    _, one, other, relative = _alternatives(crystal.occupancies, crystal)
    nonmetal = np.isin(crystal.atomic_numbers, list(NONMETALS - {HYDROGEN}))
    return bool(((relative >= OVERLAP) & nonmetal[one] & nonmetal[other]).any())


class _Alternatives(NamedTuple):
    """Pairs of sites that are never both occupied and are as near as bonded atoms."""

    share: NDArray[np.float64]
    """(N,) occupancy of every site."""
    one: NDArray[np.int64]
    """(P,) a site of each pair; each pair stands in both orders."""
    other: NDArray[np.int64]
    """(P,) the other."""
    relative: NDArray[np.float64]
    """(P,) their distance over the sum of the covalent radii, below `TOUCHING`."""


def _alternatives(occupancies: tuple[Occupancy, ...], crystal: Crystal) -> _Alternatives:
    share = np.array([sum(x for _, x in site) for site in occupancies])
    radius = covalent_radii()[crystal.atomic_numbers]
    near = within(crystal, 2.0 * TOUCHING * float(radius.max()))
    relative = near.distances / (radius[near.receivers] + radius[near.senders])
    pairs = (relative < TOUCHING) & (share[near.receivers] + share[near.senders] <= 1.0 + SLACK)
    return _Alternatives(share, near.receivers[pairs], near.senders[pairs], relative[pairs])

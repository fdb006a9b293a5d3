"""Split sites: alternative positions of one atom, of which only one is occupied at a time."""

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
"""The same limit for two positions of one element, whose distance can be that of bonded atoms. Also the distance up to
which two partly occupied nonmetal sites may or may not be bonded."""
SLACK = 0.05
"""The sum of the occupancies of alternatives may exceed 1 by this, as in `Crystal.check`."""


def one_of_each(crystal: Crystal) -> Crystal:
    """The crystal with one position of each split site: the most occupied one, and of equals the lightest species.

    A structure refined with split sites lists alternative positions of one atom with occupancies that add up to at
    most one. There are no bonds between such positions.

    Args:
        crystal: any crystal; an ordered one is returned unchanged.
    """
    if crystal.occupancies is None:
        return crystal
    share, one, other, relative = _alternatives(crystal.occupancies, crystal)
    alike = (crystal.atomic_numbers[one] == crystal.atomic_numbers[other]) & (crystal.atomic_numbers[one] != HYDROGEN)
    overlap = relative < np.where(alike, TOUCHING, OVERLAP)
    rivals: dict[int, set[int]] = {}
    for a, b in zip(one[overlap].tolist(), other[overlap].tolist(), strict=True):
        rivals.setdefault(a, set()).add(b)
    selected: set[int] = set()
    for site in np.lexsort((np.arange(len(share)), crystal.atomic_numbers, -share)).tolist():
        if not rivals.get(site, set()) & selected:
            selected.add(site)
    chosen = sorted(selected)
    occupancies = tuple(crystal.occupancies[site] for site in chosen)
    return Crystal(crystal.lattice, crystal.frac_coords[chosen], crystal.atomic_numbers[chosen], occupancies)


def has_doubtful_bonds(crystal: Crystal) -> bool:
    """Whether two partly occupied nonmetal sites are either bonded or alternatives, which the sites do not say.

    Hematite with each oxygen atom refined at two positions 1.47 Å apart is not a peroxide, but a peroxide with two
    orientations may be listed in the same way.
    """
    if crystal.occupancies is None:
        return False
    _, one, other, relative = _alternatives(crystal.occupancies, crystal)
    nonmetal = np.isin(crystal.atomic_numbers, list(NONMETALS - {HYDROGEN}))
    return bool(((relative >= OVERLAP) & nonmetal[one] & nonmetal[other]).any())


class _Alternatives(NamedTuple):
    """Pairs of sites that may be alternatives: occupancies that add up to at most one, at the distance of a bond."""

    share: NDArray[np.float64]
    """(N,) total occupancy of every site."""
    one: NDArray[np.int64]
    """(P,) the first site of each pair; each pair is listed in both orders."""
    other: NDArray[np.int64]
    """(P,) the second site."""
    relative: NDArray[np.float64]
    """(P,) distance in units of the sum of the covalent radii, below `TOUCHING`."""


def _alternatives(occupancies: tuple[Occupancy, ...], crystal: Crystal) -> _Alternatives:
    share = np.array([sum(x for _, x in site) for site in occupancies])
    radius = covalent_radii()[crystal.atomic_numbers]
    near = within(crystal, 2.0 * TOUCHING * float(radius.max()))
    relative = near.distances / (radius[near.receivers] + radius[near.senders])
    pairs = (relative < TOUCHING) & (share[near.receivers] + share[near.senders] <= 1.0 + SLACK)
    return _Alternatives(share, near.receivers[pairs], near.senders[pairs], relative[pairs])

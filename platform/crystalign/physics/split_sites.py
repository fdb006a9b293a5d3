"""Split sites: positions of one atom that are never occupied at the same time."""

from __future__ import annotations

import numpy as np

from crystalign.crystal import Crystal
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
    share = np.array([sum(x for _, x in site) for site in crystal.occupancies])
    radius = covalent_radii()[crystal.atomic_numbers]
    near = within(crystal, 2.0 * TOUCHING * float(radius.max()))
    one, other = near.receivers, near.senders
    alike = (crystal.atomic_numbers[one] == crystal.atomic_numbers[other]) & (crystal.atomic_numbers[one] != HYDROGEN)
    reach = np.where(alike, TOUCHING, OVERLAP) * (radius[one] + radius[other])
    overlap = (near.distances < reach) & (share[one] + share[other] <= 1.0 + SLACK)
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
    share = np.array([sum(x for _, x in site) for site in crystal.occupancies])
    radius = covalent_radii()[crystal.atomic_numbers]
    near = within(crystal, 2.0 * TOUCHING * float(radius.max()))
    one, other = near.receivers, near.senders
    nonmetal = np.isin(crystal.atomic_numbers, list(NONMETALS - {HYDROGEN}))
    relative = near.distances / (radius[one] + radius[other])
    doubtful = (relative >= OVERLAP) & (relative < TOUCHING) & (share[one] + share[other] <= 1.0 + SLACK)
    return bool((doubtful & nonmetal[one] & nonmetal[other]).any())

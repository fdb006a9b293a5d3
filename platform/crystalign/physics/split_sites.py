"""Split sites: positions of one atom that are never occupied at the same time."""

from __future__ import annotations

import numpy as np

from crystalign.crystal import Crystal
from crystalign.physics.neighbour_list import within
from crystalign.physics.picture import covalent_radii

OVERLAP = 0.6
"""Two partly occupied sites that are nearer than this times the sum of the covalent radii are positions of one atom."""
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
    near = within(crystal, 2.0 * OVERLAP * float(radius.max()))
    one, other = near.receivers, near.senders
    overlap = (near.distances < OVERLAP * (radius[one] + radius[other])) & (share[one] + share[other] <= 1.0 + SLACK)
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

"""Contacts between nonmetals that are no bonds: hydrogen bonds, and contacts between molecules, chains and layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.periodic import Neighbours
from crystalign.physics.compound_classes import NONMETALS, H, atomic_numbers
from crystalign.physics.picture import covalent_radii

Mask = NDArray[np.bool_]

PAIRED = frozenset(atomic_numbers("N P As Sb Bi O S Se Te F Cl Br I At"))
"""Groups 15 to 17: by the 8 − N rule an atom has three, two or one bond to atoms of its own element."""
LONG, LONGER = 1.15, 1.12
"""A contact of two such atoms is no bond if it is longer than 1.15 times the sum of the covalent radii and 1.12 times
as long as the shortest bond that one of them has to its own element. Two limits: 3.36 Å against 2.91 Å in antimony,
where the contacts join the layers, and 2.98 Å against 2.85 Å in CoSb3, where both are bonds of a ring."""
HYDROGEN_BOND = 1.2
"""A hydrogen atom is hydrogen-bonded, not bonded, to a nonmetal whose distance in units of the sum of the covalent
radii is larger by this factor than that of its nearest nonmetal. A proton half way between two atoms has two bonds."""


def weak_contacts(crystal: Crystal, near: Neighbours, bonded: Mask) -> Mask:
    """(E,) which bonds between nonmetals are mere contacts; the same in both directions of an edge.

    With x = d/R the distance of two nonmetals in units of the sum of their covalent radii, a contact is weak if

    - one of the atoms is hydrogen, and x is more than 1.2 times as large as for its nearest nonmetal: a hydrogen bond
      (E. Arunan et al., Pure Appl. Chem. 83, 1637 (2011)), or a contact between hydrogen atoms, or
    - both are of one element of groups 15 to 17, x > 1.15, and one of them has a bond to that element that is more than
      1.12 times shorter: a secondary bond (N. W. Alcock, Adv. Inorg. Chem. Radiochem. 15, 1 (1972)), such as those
      between the molecules of iodine and the layers of arsenic, antimony and bismuth.

    Args:
        crystal: the structure.
        near: all neighbours up to a distance.
        bonded: (E,) which of these edges are bonds so far; the edge in the opposite direction is marked as well.
    """
    z, radius = crystal.atomic_numbers, covalent_radii()
    one, other = near.receivers, near.senders
    nonmetal = np.isin(z, list(NONMETALS))
    x = near.distances / (radius[z[one]] + radius[z[other]])
    among = bonded & nonmetal[one] & nonmetal[other]
    nearest = _smallest(x, one, nonmetal[one] & nonmetal[other], len(crystal))
    reach = np.where(z == H, HYDROGEN_BOND * nearest, np.inf)  # (N,)
    hydrogen_bond = x > np.minimum(reach[one], reach[other])
    alike = bonded & (z[one] == z[other]) & np.isin(z[one], list(PAIRED))
    shortest = _smallest(x, one, alike, len(crystal))
    secondary = alike & (x > LONG) & (x > LONGER * np.minimum(shortest[one], shortest[other]))
    weak: Mask = (among & hydrogen_bond) | secondary
    return weak


def _smallest(values: NDArray[np.float64], owner: NDArray[np.int64], chosen: Mask, n: int) -> NDArray[np.float64]:
    """(n,) the smallest chosen value of each owner; infinite if there is none."""
    smallest = np.full(n, np.inf)
    np.minimum.at(smallest, owner[chosen], values[chosen])
    return smallest

"""How closely the atoms of a crystal are packed, and how unlike those are that touch."""

from __future__ import annotations

import functools
import warnings

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.physics.ewald import lattice_sums
from crystalign.physics.neighbour_list import within
from crystalign.physics.picture import covalent_radii

Array = NDArray[np.float64]

TOUCHING, APART = 1.1, 1.45
"""Distances in units of the sum of the covalent radii up to which two atoms touch, and from which they do not."""
SOFTNESS = 0.37
"""Å; over this length the strength of a bond falls by e (I. D. Brown & D. Altermatt, Acta Cryst. B 41, 244 (1985))."""
MAX_IONS = 400
"""Sites up to which the electrostatic energy is summed, whose cost grows with their square."""
NAMES = (
    "mean_contacts",
    "deviation_contacts",
    "minimum_contacts",
    "maximum_contacts",
    "mean_strength",
    "deviation_strength",
    "ionic_energy",
    "mean_contact_length",
    "mean_contact_ratio",
    "minimum_contact_ratio",
    "mean_contact_polarity",
    "log_stiffness",
    "electrostatic_energy",
)
"""Of each number, in order."""


def contact_statistics(crystal: Crystal) -> Array:
    """The numbers that `NAMES` lists; they do not depend on the choice of the cell.

    With d_ij the distance of two atoms, R_ij the sum of their covalent radii, x_ij = d_ij/R_ij, and Δχ_ij the
    difference of their Pauling electronegativities, a contact counts w_ij = 1 up to x = 1.1, falls as cos², and counts
    0 from x = 1.45; images are atoms of their own. With ⟨·⟩ the mean over the N atoms and ⟨·⟩_w that over contacts:

    - contacts c_i = Σ_j w_ij: ⟨c⟩, ⟨|c − ⟨c⟩|⟩, min c, max c
    - strength s_i = Σ_j w_ij exp((R_ij − d_ij)/0.37 Å), Brown's valence sum with covalent radii: ⟨s⟩, ⟨|s − ⟨s⟩|⟩
    - Σ_ij w_ij Δχ²_ij / 2N, eV/atom, after Pauling's ionic energy Δχ² of a bond (J. Am. Chem. Soc. 54, 3570 (1932))
    - ⟨d⟩_w in Å, ⟨x⟩_w, min x, ⟨|Δχ|⟩_w
    - ln Σ_ij w_ij d_ij^(−7/2) / N, to which the bulk modulus of tetrahedral crystals is proportional (M. L. Cohen,
      Phys. Rev. B 32, 7988 (1985))
    - Σ_ij q_i q_j S_ij / 2N, 1/Å, the Coulomb energy of the charges q_i = ⟨χ⟩ − χ_i, with S_ij of `lattice_sums`

    On a mixed site the most abundant species counts.

    Returns:
        (13,); NaN where nothing touches or an electronegativity is not known; the last also of a cell of more than 400
        sites.
    """
    z = crystal.atomic_numbers
    n, radius, chi = len(crystal), covalent_radii()[z], electronegativities()[z]
    found = within(crystal, 2.0 * APART * float(radius.max()))
    touching = found.distances < APART * (radius[found.receivers] + radius[found.senders])
    i, j, d = found.receivers[touching], found.senders[touching], found.distances[touching]
    total = radius[i] + radius[j]
    x = d / total
    share = np.maximum((x - TOUCHING) / (APART - TOUCHING), 0.0)
    w = np.cos(0.5 * np.pi * share) ** 2
    contacts = np.bincount(i, w, n)
    strength = np.bincount(i, w * np.exp((total - d) / SOFTNESS), n)
    polarity = np.abs(chi[i] - chi[j])
    every = w.sum() if len(w) else np.nan
    return np.array(
        [
            contacts.mean(),
            np.abs(contacts - contacts.mean()).mean(),
            contacts.min(),
            contacts.max(),
            strength.mean(),
            np.abs(strength - strength.mean()).mean(),
            w @ polarity**2 / (2.0 * n),
            w @ d / every,
            w @ x / every,
            x.min() if len(w) else np.nan,
            w @ polarity / every,
            np.log(w @ d**-3.5 / n) if len(w) else np.nan,
            _electrostatic_energy(crystal, chi.mean() - chi),
        ]
    )


def _electrostatic_energy(crystal: Crystal, charges: Array) -> float:
    """½ Σ q_i q_j S_ij per atom; of one element, whose charges are zero, 0."""
    if len(crystal) > MAX_IONS or not np.isfinite(charges).all():
        return float("nan")
    sums = lattice_sums(crystal.lattice, crystal.frac_coords)[..., 0]
    return float(charges @ sums @ charges) / (2.0 * len(crystal))


@functools.cache
def electronegativities() -> Array:
    """(119,) Pauling's, as pymatgen knows them; NaN where not known."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of what it does not know
        return np.array([np.nan, *(Element.from_Z(z).X for z in range(1, 119))])

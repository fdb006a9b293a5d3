"""Statistics of interatomic contacts: coordination, bond strength, polarity and electrostatic energy."""

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
"""In units of the sum of the covalent radii: below the first distance a contact counts fully, beyond the second not."""
SOFTNESS = 0.37
"""Å; the bond strength falls by a factor e over this length (I. D. Brown & D. Altermatt, Acta Cryst. B 41, 244
(1985))."""
MAX_IONS = 400
"""Largest number of sites for which the electrostatic energy is computed; its cost grows with the square."""
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
"""Names of the statistics, in order."""


def contact_statistics(crystal: Crystal) -> Array:
    """The statistics listed in `NAMES`; they do not depend on the choice of cell.

    Let d_ij be the distance of two atoms, R_ij the sum of their covalent radii, x_ij = d_ij/R_ij, and Δχ_ij the
    difference of their Pauling electronegativities. A contact has the weight w_ij = 1 up to x = 1.1, which falls as
    cos² to 0 at x = 1.45. Each periodic image is a contact of its own. With ⟨·⟩ the mean over the N atoms and ⟨·⟩_w
    the weighted mean over contacts:

    - contacts c_i = Σ_j w_ij: ⟨c⟩, ⟨|c − ⟨c⟩|⟩, min c, max c
    - strength s_i = Σ_j w_ij exp((R_ij − d_ij)/0.37 Å), Brown's valence sum with covalent radii: ⟨s⟩, ⟨|s − ⟨s⟩|⟩
    - Σ_ij w_ij Δχ²_ij / 2N, eV/atom, after Pauling's ionic energy Δχ² of a bond (J. Am. Chem. Soc. 54, 3570 (1932))
    - ⟨d⟩_w in Å, ⟨x⟩_w, min x, ⟨|Δχ|⟩_w
    - ln Σ_ij w_ij d_ij^(−7/2) / N, to which the bulk modulus of tetrahedral crystals is proportional (M. L. Cohen,
      Phys. Rev. B 32, 7988 (1985))
    - Σ_ij q_i q_j S_ij / 2N, 1/Å, the Coulomb energy of the charges q_i = ⟨χ⟩ − χ_i, with S_ij of `lattice_sums`

    On a mixed site the most abundant species counts.

    Returns:
        (13,); NaN for values that need contacts if there are none, or an electronegativity that is unknown. The last
        is NaN also for cells of more than 400 sites.
    """
    z = crystal.atomic_numbers
    n, radius, chi = len(crystal), covalent_radii()[z], electronegativities()[z]
    near = within(crystal, 2.0 * APART * float(radius.max()))
    touching = near.distances < APART * (radius[near.receivers] + radius[near.senders])
    i, j, d = near.receivers[touching], near.senders[touching], near.distances[touching]
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
    """½ Σ q_i q_j S_ij per atom, 1/Å; zero for an elemental crystal, whose charges vanish."""
    if len(crystal) > MAX_IONS or not np.isfinite(charges).all():
        return float("nan")
    sums = lattice_sums(crystal.lattice, crystal.frac_coords)[..., 0]
    return float(charges @ sums @ charges) / (2.0 * len(crystal))


@functools.cache
def electronegativities() -> Array:
    """(119,) Pauling electronegativities by atomic number, from pymatgen; NaN if unknown."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of missing values
        return np.array([np.nan, *(Element.from_Z(z).X for z in range(1, 119))])

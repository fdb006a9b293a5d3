"""A descriptor vector of fixed length: element statistics, stoichiometry, density and contact statistics."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal
from crystalign.physics import contacts

Array = NDArray[np.float64]

PROPERTIES = (
    "atomic_number",
    "mendeleev_number",
    "atomic_mass",
    "melting_point",
    "group",
    "period",
    "covalent_radius",
    "electronegativity",
    "s_valence",
    "p_valence",
    "d_valence",
    "f_valence",
    "valence_electrons",
    "ionisation_energy",
    "electron_affinity",
    "molar_volume",
    "oxidation_state",
    "lowest_oxidation_state",
    "highest_oxidation_state",
)
"""Properties of an element, standardised over the elements up to Pu. `oxidation_state` is the mean of the common
oxidation states."""
STATISTICS = ("minimum", "maximum", "range", "mean", "deviation", "mode")
"""Statistics of each property over the atoms of a crystal."""
STRUCTURE = ("n_elements", "norm_2", "norm_3", "log_volume_per_atom", "log_density", "log_packing")
"""Number of elements; p-norms of the atomic fractions; logarithms of volume per atom (Å³), density (g/cm³), and the
volume of covalent spheres relative to that of the cell."""
NAMES = (*(f"{s}_{p}" for p in PROPERTIES for s in STATISTICS), *STRUCTURE, *contacts.NAMES)
"""Names of the descriptors, in order."""
WIDTH = len(NAMES)
"""Number of descriptors, 133."""
AMU_PER_CUBIC_ANGSTROM = 1.66053907
"""1 amu/Å³ in g/cm³ (CODATA 2018)."""


def descriptors(crystal: Crystal) -> NDArray[np.float32]:
    """The descriptors listed in `NAMES`, after Magpie (Ward et al., npj Comput. Mater. 2, 16028 (2016)).

    With atomic fractions x_i and a property p_i of element i, the statistics are min p, max p, max p − min p,
    p̄ = Σ x_i p_i, Σ x_i |p_i − p̄|, and p of the most abundant element (the mean if there are several).
    The last 13 are `contact_statistics`. No descriptor depends on the choice of cell.

    Returns:
        (133,); NaN if a property of one of the elements is unknown.
    """
    amounts = {z: x for z, x in crystal.composition.items() if x > 1e-6}
    z, count = np.array(list(amounts)), np.array(list(amounts.values()))
    x = count / count.sum()
    p = element_table()[z]  # (M, P)
    mean = x @ p
    abundant = p[x > x.max() - 1e-6].mean(axis=0)
    low, high = p.min(axis=0), p.max(axis=0)
    statistics = np.stack([low, high, high - low, mean, x @ np.abs(p - mean), abundant], axis=1)  # (P, 6)
    mass, radius = _raw_table()[z][:, [2, 6]].T
    volume, spheres = crystal.volume, 4.0 / 3.0 * np.pi * radius**3
    structure = [
        len(z),
        np.linalg.norm(x),
        np.linalg.norm(x, 3),
        np.log(volume / count.sum()),
        np.log(count @ mass / volume * AMU_PER_CUBIC_ANGSTROM),
        np.log(count @ spheres / volume),
    ]
    touching = contacts.contact_statistics(crystal)
    return np.concatenate([statistics.ravel(), structure, touching]).astype(np.float32)


@functools.cache
def element_table() -> Array:
    """(119, 19) `PROPERTIES` by atomic number, standardised over the elements 1 to 94; NaN if unknown."""
    raw = _raw_table()
    reference = raw[1:95]
    table: Array = (raw - np.nanmean(reference, axis=0)) / np.nanstd(reference, axis=0)
    return table


@functools.cache
def _raw_table() -> Array:
    """`PROPERTIES` from pymatgen, in amu, K, Å, Pauling units, eV and cm³/mol."""
    from pymatgen.core import Element

    from crystalign.physics.picture import covalent_radii

    table = np.full((MAX_ATOMIC_NUMBER + 1, len(PROPERTIES)), np.nan)
    table[1:, 6] = covalent_radii()[1:]
    table[:, 7] = contacts.electronegativities()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of missing values
        for z in range(1, MAX_ATOMIC_NUMBER + 1):
            element = Element.from_Z(z)
            shells = _valence_shells(element)
            table[z, [8, 9, 10, 11, 12]] = [*shells, sum(shells)]
            for column, read in _READERS.items():
                table[z, column] = _number(read, element)
    return table


_READERS: dict[int, Callable[[Any], Any]] = {
    0: lambda e: e.Z,
    1: lambda e: e.mendeleev_no,
    2: lambda e: e.atomic_mass,
    3: lambda e: e.melting_point,
    4: lambda e: e.group,
    5: lambda e: e.row,
    13: lambda e: e.ionization_energy,
    14: lambda e: e.electron_affinity,
    15: lambda e: e.molar_volume,
    16: lambda e: sum(e.common_oxidation_states) / len(e.common_oxidation_states),
    17: lambda e: min(e.oxidation_states),
    18: lambda e: max(e.oxidation_states),
}


def _number(read: Callable[[Any], Any], element: Any) -> float:
    try:
        return float(read(element))
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError):  # pymatgen has no value
        return float("nan")


def _valence_shells(element: Any) -> list[float]:
    """Electrons outside the noble-gas core in s, p, d and f shells: `[Ar].3d6.4s2` → 2, 0, 6, 0."""
    try:
        shells = element.electronic_structure.split(".")
    except (KeyError, AttributeError):  # not measured
        return [float("nan")] * 4
    counts = dict.fromkeys("spdf", 0.0)
    for shell in shells:
        if not shell.startswith("["):
            counts[shell[1]] += float(shell[2:])
    return list(counts.values())

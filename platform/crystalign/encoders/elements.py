"""Elemental properties as the 92 one-hot bins that CGCNN uses to describe an atom."""

from __future__ import annotations

import csv
import functools
import math
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import MAX_ATOMIC_NUMBER

BLOCKS = "spdf"


class _Bins(NamedTuple):
    """Equal-width bins of a quantity; values outside the range fall into the first or last bin."""

    column: str
    first: float
    last: float
    number: int
    log: bool = False

    def position(self, text: str) -> int | None:
        """Return the bin of a value, or None if the value is unknown."""
        if not text:
            return None
        value = math.log(float(text)) if self.log else float(text)
        return min(max(int((value - self.first) / (self.last - self.first) * self.number), 0), self.number - 1)


_QUANTITIES = (
    _Bins("group", 0, 19, 19),  # 0: the f elements, which have none
    _Bins("period", 1, 8, 7),
    _Bins("electronegativity", 0.5, 4.0, 10),
    _Bins("covalent_radius_pm", 25, 250, 10),
    _Bins("valence_electrons", 1, 13, 12),
    _Bins("ionisation_energy_ev", 1.3, 3.3, 10, log=True),
    _Bins("electron_affinity_ev", -3.0, 3.7, 10),
    _Bins("block", 0, 4, 4),
    _Bins("molar_volume_cm3", 1.5, 4.3, 10, log=True),
)
WIDTH = sum(bins.number for bins in _QUANTITIES)
"""92."""


@functools.cache
def element_features() -> NDArray[np.float32]:
    """(119, 92) one-hot bins of nine quantities by atomic number; row 0, no element, is zero.

    The quantities and their bins are those of CGCNN (Xie & Grossman, Phys. Rev. Lett. 120, 145301
    (2018), supplement): group, period, electronegativity, covalent radius, valence electrons, first
    ionisation energy (logarithmic), electron affinity, block and molar volume (logarithmic). The values are stored in
    `elements.csv` beside this file, so that they do not change with the installed packages:

    - electronegativity (Pauling), ionisation energy, electron affinity (eV) and molar volume (cm³/mol) from pymatgen;
      an unknown value is empty and sets no bin, as are the ionisation energies beyond Hs
    - single-bond covalent radii of Pyykkö and Atsumi, Chem. Eur. J. 15, 186 (2009), pm
    - valence electrons: the group, less ten in the p block; two for the f elements

    The table of the published code covers 100 elements and gives the same bins of period, block, radius and ionisation
    energy for all of them, and of the other quantities for most. This table covers 118 elements.
    """
    features = np.zeros((MAX_ATOMIC_NUMBER + 1, WIDTH), np.float32)
    with resources.files(__package__).joinpath("elements.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            row["group"] = row["group"] or "0"
            row["block"] = str(BLOCKS.index(row["block"]))
            start = 0
            for bins in _QUANTITIES:
                position = bins.position(row[bins.column])
                if position is not None:
                    features[int(row["z"]), start + position] = 1.0
                start += bins.number
    features.flags.writeable = False
    return features

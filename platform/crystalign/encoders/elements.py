"""What is known of the elements, as the 92 zeros and ones that describe an atom to CGCNN."""

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
    """A quantity cut into bins of equal width; values outside fall into the first or the last."""

    column: str
    first: float
    last: float
    number: int
    log: bool = False

    def position(self, text: str) -> int | None:
        """The bin of a value; none where it is not known."""
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
    ionisation energy (logarithmic), electron affinity, block and molar volume (logarithmic). The
    values stand in `elements.csv` beside this file, frozen, so that a network sees the same elements
    whatever is installed:

    - electronegativity (Pauling), ionisation energy, electron affinity (eV) and molar volume
      (cm³/mol) as pymatgen collects them; what is unknown is empty and sets no bin, and so are the
      ionisation energies beyond Hs, which it does not know
    - single-bond covalent radii of Pyykkö and Atsumi, Chem. Eur. J. 15, 186 (2009), pm
    - valence electrons: the group, less ten in the p block; two for the f elements

    The table of the published code is one more collection of the same quantities, for 100 elements;
    period, block, radius and ionisation energy fall into the same bins there for all of them, the
    other quantities for most. This one goes to 118.
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

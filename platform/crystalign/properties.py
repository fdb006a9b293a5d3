"""The quantities Crystalign knows, once: key, label and unit for tables, plots, the API and the page."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Self

from crystalign.config import Config


class Quantity(StrEnum):
    """A scalar property of a material, named as Materials Project names it."""

    label: str
    unit: str

    def __new__(cls, key: str, label: str, unit: str) -> Self:
        """A string member that carries its label and its unit."""
        member = str.__new__(cls, key)
        member._value_ = key
        member.label = label
        member.unit = unit
        return member

    FORMATION_ENERGY_PER_ATOM = "formation_energy_per_atom", "Formation energy", "eV/atom"
    ENERGY_ABOVE_HULL = "energy_above_hull", "Energy above hull", "eV/atom"
    BAND_GAP = "band_gap", "Band gap", "eV"
    EFERMI = "efermi", "Fermi level", "eV"
    BULK_MODULUS_VRH = "bulk_modulus_vrh", "Bulk modulus (VRH)", "GPa"
    SHEAR_MODULUS_VRH = "shear_modulus_vrh", "Shear modulus (VRH)", "GPa"
    REFRACTIVE_INDEX = "refractive_index", "Refractive index", ""
    TOTAL_MAGNETIZATION_PER_ATOM = "total_magnetization_per_atom", "Magnetization", "µB/atom"
    DOS_AT_FERMI_PER_ATOM = "dos_at_fermi_per_atom", "DOS at the Fermi level", "states/eV/atom"
    VOLUME_PER_ATOM = "volume_per_atom", "Volume", "Å³/atom"
    N_VALENCE_ELECTRONS = "n_valence_electrons", "Valence electrons", "per cell"


class PropertySpec(Config):
    """What a property column holds. Values that differ in any of these never share a column."""

    quantity: Quantity
    """Which quantity, in the unit of `Quantity`."""
    method: str
    """How it was obtained: a functional (`pbe`, `hse06`, `r2scan`) or `experiment`."""
    source: str
    """The database it comes from."""
    vintage: str
    """The release of that database."""

    @property
    def column(self) -> str:
        """The column's name: quantity, method, source and vintage in small letters and digits.

        Two spellings may give one name; a dataset refuses to hold both.
        """
        parts = (self.quantity.value, self.method, self.source, self.vintage)
        return "_".join(re.sub(r"[^a-z0-9]+", "_", p.lower()).strip("_") for p in parts if p)

    @property
    def label(self) -> str:
        """For people: quantity, unit and method."""
        unit = f" ({self.quantity.unit})" if self.quantity.unit else ""
        return f"{self.quantity.label}{unit}, {self.method.upper()}"

"""The material properties that Crystalign supports: key, label and unit for tables, plots, the API and the page."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal, Self

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

    ENERGY_PER_ATOM = "energy_per_atom", "Total energy", "eV/atom"
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
    """Definition of a property column. Values that differ in any of these fields are in different columns."""

    quantity: Quantity
    """The quantity, in the unit of `Quantity`."""
    method: str
    """How the values were obtained: a functional (`pbe`, `hse06`, `r2scan`) or `experiment`."""
    source: str
    """The database that the values come from."""
    vintage: str
    """The release of that database."""

    @property
    def column(self) -> str:
        """The column's name: quantity, method, source and vintage in lower-case letters and digits.

        Different spellings can give the same name; a dataset with both is refused.
        """
        parts = (self.quantity.value, self.method, self.source, self.vintage)
        return "_".join(re.sub(r"[^a-z0-9]+", "_", p.lower()).strip("_") for p in parts if p)

    @property
    def label(self) -> str:
        """Label for people: quantity, unit and method."""
        unit = f" ({self.quantity.unit})" if self.quantity.unit else ""
        return f"{self.quantity.label}{unit}, {self.method.upper()}"


Part = Literal["value", "lower", "upper", "out_of_domain"]
"""A number of a prediction: the value, the ends of its interval, and the out-of-domain score of the material."""


class PredictedProperty(Config):
    """A property that a fine-tuned model predicts; its columns are never those of known values."""

    target: PropertySpec
    """The property that the model was trained on."""
    model: str
    """Name of the model."""
    model_sha256: str
    """Identity of the model."""
    level: float
    """Coverage of the intervals."""
    classes: tuple[str, ...] = ()
    """Names of the classes; the value is then the probability of the second one. Empty for a regression."""

    @property
    def column(self) -> str:
        """The column of the value, `predicted_` and the column of the target; for classes with `_probability`."""
        return f"predicted_{self.target.column}{self.suffixes['value']}"

    @property
    def suffixes(self) -> dict[Part, str]:
        """Part → what follows the name of the target."""
        value = "_probability" if self.classes else ""
        return {"value": value, "lower": "_lower", "upper": "_upper", "out_of_domain": "_out_of_domain"}

    @property
    def columns(self) -> dict[Part, str]:
        """Part → its column."""
        return {part: f"predicted_{self.target.column}{suffix}" for part, suffix in self.suffixes.items()}

    @property
    def label(self) -> str:
        """Label of the value for people, without unit and method of the target's label where it is a probability."""
        return f"P({self.classes[1]})" if self.classes else self.target.label

    @property
    def unit(self) -> str:
        """Unit of the value and of the ends of the interval."""
        return "" if self.classes else self.target.quantity.unit

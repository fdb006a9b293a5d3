"""Words for properties: the range of values that each stands for, and how a text about a crystal says it."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from crystalign.properties import PropertySpec

_GAP, _HULL, _BULK, _SHEAR = "band_gap", "energy_above_hull", "bulk_modulus_vrh", "shear_modulus_vrh"
_MOMENT, _INDEX, _DENSITY = "total_magnetization_per_atom", "refractive_index", "density"


class Range(NamedTuple):
    """Values of a quantity that satisfy all comparisons."""

    quantity: str
    tests: tuple[tuple[str, float], ...]
    """(operator, value), e.g. `(">=", 3)`."""

    def holds(self, value: float) -> bool:
        """Whether a value is in the range."""
        return all(_OPERATORS[sign](value, limit) for sign, limit in self.tests)


_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
RANGES = {
    "wide band gap": Range(_GAP, ((">=", 3),)),
    "narrow band gap": Range(_GAP, ((">", 0.05), ("<=", 1))),
    "metallic": Range(_GAP, (("<=", 0.05),)),
    "semiconductor": Range(_GAP, ((">=", 0.1), ("<=", 4))),
    "insulator": Range(_GAP, ((">=", 4),)),
    "stable": Range(_HULL, (("<=", 0.025),)),
    "stiff": Range(_BULK, ((">=", 200),)),
    "soft": Range(_BULK, (("<=", 40),)),
    "hard": Range(_SHEAR, ((">=", 150),)),
    "magnetic": Range(_MOMENT, ((">=", 0.1),)),
    "not magnetic": Range(_MOMENT, ((">=", -0.01), ("<=", 0.01))),
    "high refractive index": Range(_INDEX, ((">=", 2.2),)),
    "low refractive index": Range(_INDEX, (("<=", 1.6),)),
    "dense": Range(_DENSITY, ((">=", 8),)),
    "low density": Range(_DENSITY, (("<=", 2.5),)),
}
"""Word → range. The same ranges serve texts for training and queries.

The thresholds are conventions. Gaps of at least 3 eV are wide, gaps up to 1 eV narrow; 0.1 to 4 eV make a
semiconductor. Up to 0.05 eV counts as no gap, because predicted gaps are never exactly 0. A compound within 0.025
eV/atom of the convex hull counts as stable: this is k_B T at room temperature. The shear modulus stands for the
hardness, which is not known (Teter, MRS Bulletin 23, 22 (1998))."""
BEFORE_NOUN = {
    "wide band gap": ("wide-gap", "wide band gap", "large gap"),
    "narrow band gap": ("narrow-gap", "narrow band gap", "small gap"),
    "metallic": ("metallic", "conducting"),
    "semiconductor": ("semiconducting",),
    "insulator": ("insulating",),
    "stable": ("stable", "thermodynamically stable"),
    "stiff": ("stiff", "incompressible"),
    "soft": ("soft", "compressible"),
    "hard": ("hard",),
    "magnetic": ("magnetic",),
    "high refractive index": ("high refractive index",),
    "low refractive index": ("low refractive index",),
    "dense": ("dense", "heavy"),
    "low density": ("light", "low density", "lightweight"),
}
"""Word → ways to say it before a noun. No text says `nonmagnetic`: antiferromagnets have no net moment either."""
DOUBTFUL_IF_FALSE = frozenset(["magnetic"])
"""Words that may hold although the value is outside of the range: a net moment of zero excludes no antiferromagnet."""
AFTER_NOUN = {"semiconductor": "semiconductor", "insulator": "insulator"}
"""Word → how it is said after a noun: `gallium nitride semiconductor`."""


class Verdicts(NamedTuple):
    """Which words hold of a material. Of the others, nothing is known."""

    true: tuple[str, ...]
    """Words whose range holds all known values of their quantity."""
    false: tuple[str, ...]
    """Words whose range holds none of the known values."""


def verdicts(properties: Mapping[PropertySpec, float], density: float) -> Verdicts:
    """Which words hold, by the known properties of a material.

    Values of one quantity by different methods or releases have to agree; otherwise the word counts as unknown.

    Args:
        properties: the known values.
        density: g/cm³.
    """
    values: dict[str, list[float]] = {_DENSITY: [density]}
    for spec, value in properties.items():
        values.setdefault(spec.quantity.value, []).append(value)
    said = {name: RANGES[name] for name in BEFORE_NOUN}
    found = {name: {one.holds(value) for value in values.get(one.quantity, ())} for name, one in said.items()}
    return Verdicts(
        tuple(name for name, held in found.items() if held == {True}),
        tuple(name for name, held in found.items() if held == {False} and name not in DOUBTFUL_IF_FALSE),
    )


def sayings(names: Sequence[str]) -> frozenset[str]:
    """Every way to say these words."""
    before = {saying for name in names for saying in BEFORE_NOUN[name]}
    return frozenset(before | {AFTER_NOUN[name] for name in names if name in AFTER_NOUN})

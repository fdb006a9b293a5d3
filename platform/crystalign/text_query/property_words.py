"""Words for properties: phrases such as `wide gap`, and comparisons such as `band gap between 1 and 2 eV`."""

from __future__ import annotations

import functools

from crystalign.text.property_words import RANGES, Range
from crystalign.text_query.chips import Meaning, range_label
from crystalign.text_query.words import squeezed

NAMES = {
    "band_gap": "band gap, bandgap, gap, energy gap, electronic gap, Eg, optical gap, gap energy, band gap energy",
    "formation_energy_per_atom": "formation energy, formation enthalpy, enthalpy of formation, energy of formation",
    "energy_above_hull": (
        "energy above hull, energy above the hull, energy above convex hull, energy above the convex hull, e hull, "
        "e above hull, hull energy, hull distance, distance to hull, distance to the hull, ehull, hull, above hull"
    ),
    "bulk_modulus_vrh": "bulk modulus, bulk moduli, compression modulus, bulkmodulus",
    "shear_modulus_vrh": "shear modulus, shear moduli, rigidity modulus",
    "refractive_index": "refractive index, index of refraction, refractive indices",
    "total_magnetization_per_atom": "magnetization, total magnetization, magnetization per atom, magnetic moment",
    "density": "density, mass density",
    "volume_per_atom": "volume per atom, atomic volume",
    "efermi": "Fermi level, Fermi energy",
    "nsites": "number of atoms, number of sites, atoms in the unit cell, atoms in the cell, atoms per cell, nsites",
    "nelements": "number of elements, nelements",
}
"""Quantity → its names in queries; the last two are sizes that every index has."""


def _range(quantity: str, *tests: tuple[str, float]) -> Range:
    return Range(quantity, tests)


_GAP, _HULL, _BULK, _SHEAR = "band_gap", "energy_above_hull", "bulk_modulus_vrh", "shear_modulus_vrh"
_MOMENT = "total_magnetization_per_atom"
PHRASES: dict[str, tuple[str, tuple[Range, ...]]] = {
    "wide band gap, wide gap, large band gap, large gap, wide bandgap, high band gap, big band gap, WBG": (
        "wide band gap", (RANGES["wide band gap"],),
    ),
    "ultrawide band gap, ultra wide band gap, ultrawide bandgap, UWBG": (
        "ultrawide band gap", (_range(_GAP, (">=", 4)),),
    ),
    "narrow band gap, narrow gap, small band gap, small gap, low band gap, narrow bandgap": (
        "narrow band gap", (RANGES["narrow band gap"],),
    ),
    "zero band gap, zero gap, gapless, no band gap, metallic, metal, conductor, conducting, conductive": (
        "metallic", (RANGES["metallic"],),
    ),
    "non metallic, nonmetal, non metal, nonmetallic, gapped": (
        "not metallic", (_range(_GAP, (">", 0.05)),),
    ),
    "semiconductor, semiconducting": ("semiconductor", (RANGES["semiconductor"],)),
    "insulator, insulating, electrical insulator, dielectric": ("insulator", (RANGES["insulator"],)),
    "semimetal, semimetallic": ("semimetal", (_range(_GAP, ("<=", 0.05)),)),
    "transparent, optically transparent, visible transparent": ("transparent", (_range(_GAP, (">=", 3)),)),
    "solar absorber, solar cell absorber, photovoltaic absorber, photovoltaic, solar cell": (
        "solar absorber", (_range(_GAP, (">=", 1), ("<=", 1.8)),),
    ),
    "photocatalyst, water splitting photocatalyst, photocatalytic": (
        "photocatalyst", (_range(_GAP, (">=", 1.6), ("<=", 3.2)),),
    ),
    "infrared detector, infrared": ("infrared", (_range(_GAP, (">", 0.05), ("<=", 0.5)),)),
    "stable, thermodynamically stable, on the hull, on the convex hull, ground state, synthesizable": (
        "stable", (RANGES["stable"], _range("formation_energy_per_atom", ("<", 0))),
    ),
    "metastable": ("metastable", (_range(_HULL, (">", 0), ("<=", 0.1)),)),
    "unstable": ("unstable", (_range(_HULL, (">", 0.1)),)),
    "stiff, incompressible, high bulk modulus, ultra incompressible, large bulk modulus, low compressibility": (
        "stiff", (RANGES["stiff"],),
    ),
    "hard, hard material, high hardness, high shear modulus": (
        "hard", (RANGES["hard"], _range(_BULK, (">=", 250))),
    ),
    "superhard, ultrahard, ultra hard, super hard": (
        "superhard", (_range(_SHEAR, (">=", 200)), _range(_BULK, (">=", 300))),
    ),
    "soft, compressible, low bulk modulus, small bulk modulus": ("soft", (RANGES["soft"],)),
    "low shear modulus, shear soft": ("soft", (_range(_SHEAR, ("<=", 20)),)),
    "magnetic, ferromagnetic, ferromagnet, ferrimagnetic, ferrimagnet, magnet, permanent magnet, spin polarized": (
        "magnetic", (RANGES["magnetic"],),
    ),
    "strongly magnetic, high magnetization, large magnetization, large magnetic moment": (
        "strongly magnetic", (_range(_MOMENT, (">=", 0.5)),),
    ),
    "nonmagnetic, non magnetic, diamagnetic, diamagnet": ("not magnetic", (RANGES["not magnetic"],)),
    "high refractive index, large refractive index, high index": (
        "high refractive index", (RANGES["high refractive index"],),
    ),
    "low refractive index, small refractive index, low index": (
        "low refractive index", (RANGES["low refractive index"],),
    ),
    "dense, high density, heavy": ("dense", (RANGES["dense"],)),
    "very dense, very high density, ultra dense, extremely dense, very heavy": (
        "denser than lead", (_range("density", (">=", 11.34)),),
    ),
    "low density, light, lightweight, light weight": ("low density", (RANGES["low density"],)),
}  # fmt: skip
"""Spellings of a phrase → the name on the chip, and ranges. The first range is taken whose quantity the index has.
`crystalign.text.property_words` explains the thresholds."""
NOTES = {
    "hard": "hardness is not known here; the shear modulus stands for it",
    "superhard": "hardness is not known here; the shear modulus stands for it",
    "transparent": "no absorption of visible light",
    "not magnetic": "no net magnetization; antiferromagnets are among them",
    "semimetal": "metals are among them",
    "solar absorber": "the range around the best gap of a single-junction cell",
}

SECOND = {
    "stable": "this index has no energies above the hull: stable against the elements only",
    "hard": NOTES["hard"],
    "superhard": NOTES["hard"],
}
"""Remarks if the second range is taken."""


def property_meanings() -> dict[str, Meaning]:
    """Squeezed phrase → range of a property."""
    found: dict[str, Meaning] = {}
    for names, (shown, ranges) in PHRASES.items():
        label = f"{shown}: {range_label(ranges[0])}"
        meaning = Meaning(
            "property", label, ranges=ranges, note=NOTES.get(shown, ""), fallback_note=SECOND.get(shown, "")
        )
        found |= {squeezed(name): meaning for name in names.split(",")}
    sizes = {
        "small unit cell, small cell": ("small cell: at most 10 atoms", "nsites<=10"),
        "large unit cell, large cell, big unit cell, complex unit cell": (
            "large cell: at least 100 atoms",
            "nsites>=100",
        ),
    }
    for names, (label, text) in sizes.items():
        found |= {squeezed(name): size_meaning(label, text) for name in names.split(",")}
    return found


def size_meaning(label: str, text: str) -> Meaning:
    """Crystals with so many atoms in the stored cell."""
    return Meaning("size", label, (text,), note="atoms in the stored cell, which need not be the primitive one")


@functools.cache
def quantity_names() -> dict[str, str]:
    """Squeezed name → quantity."""
    return {squeezed(name): quantity for quantity, names in NAMES.items() for name in names.split(",")}

"""Words for properties: phrases such as `wide gap`, and comparisons such as `band gap between 1 and 2 eV`."""

from __future__ import annotations

import functools

from crystalign.text_query.chips import Meaning, Range, range_label
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
_MOMENT, _INDEX = "total_magnetization_per_atom", "refractive_index"
PHRASES: dict[str, tuple[str, tuple[Range, ...]]] = {
    "wide band gap, wide gap, large band gap, large gap, wide bandgap, high band gap, big band gap, WBG": (
        "wide band gap", (_range(_GAP, (">=", 3)),),
    ),
    "ultrawide band gap, ultra wide band gap, ultrawide bandgap, UWBG": (
        "ultrawide band gap", (_range(_GAP, (">=", 4)),),
    ),
    "narrow band gap, narrow gap, small band gap, small gap, low band gap, narrow bandgap": (
        "narrow band gap", (_range(_GAP, (">", 0.05), ("<=", 1)),),
    ),
    "zero band gap, zero gap, gapless, no band gap, metallic, metal, conductor, conducting, conductive": (
        "metallic", (_range(_GAP, ("<=", 0.05)),),
    ),
    "non metallic, nonmetal, non metal, nonmetallic, gapped": (
        "not metallic", (_range(_GAP, (">", 0.05)),),
    ),
    "semiconductor, semiconducting": ("semiconductor", (_range(_GAP, (">=", 0.1), ("<=", 4)),)),
    "insulator, insulating, electrical insulator, dielectric": ("insulator", (_range(_GAP, (">=", 4)),)),
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
        "stable", (_range(_HULL, ("<=", 0.025)), _range("formation_energy_per_atom", ("<", 0))),
    ),
    "metastable": ("metastable", (_range(_HULL, (">", 0), ("<=", 0.1)),)),
    "unstable": ("unstable", (_range(_HULL, (">", 0.1)),)),
    "stiff, incompressible, high bulk modulus, ultra incompressible, large bulk modulus, low compressibility": (
        "stiff", (_range(_BULK, (">=", 200)),),
    ),
    "hard, hard material, high hardness, high shear modulus": (
        "hard", (_range(_SHEAR, (">=", 150)), _range(_BULK, (">=", 250))),
    ),
    "superhard, ultrahard, ultra hard, super hard": (
        "superhard", (_range(_SHEAR, (">=", 200)), _range(_BULK, (">=", 300))),
    ),
    "soft, compressible, low bulk modulus, small bulk modulus": ("soft", (_range(_BULK, ("<=", 40)),)),
    "low shear modulus, shear soft": ("soft", (_range(_SHEAR, ("<=", 20)),)),
    "magnetic, ferromagnetic, ferromagnet, ferrimagnetic, ferrimagnet, magnet, permanent magnet, spin polarized": (
        "magnetic", (_range(_MOMENT, (">=", 0.1)),),
    ),
    "strongly magnetic, high magnetization, large magnetization, large magnetic moment": (
        "strongly magnetic", (_range(_MOMENT, (">=", 0.5)),),
    ),
    "nonmagnetic, non magnetic, diamagnetic, diamagnet": ("not magnetic", (_range(_MOMENT, ("<=", 0.01)),)),
    "high refractive index, large refractive index, high index": (
        "high refractive index", (_range(_INDEX, (">=", 2.2)),),
    ),
    "low refractive index, small refractive index, low index": ("low refractive index", (_range(_INDEX, ("<=", 1.6)),)),
    "dense, high density, heavy": ("dense", (_range("density", (">=", 8)),)),
    "very dense, very high density, ultra dense, extremely dense, very heavy": (
        "denser than lead", (_range("density", (">=", 11.34)),),
    ),
    "low density, light, lightweight, light weight": ("low density", (_range("density", ("<=", 2.5)),)),
}  # fmt: skip
"""Spellings of a phrase → the name on the chip, and ranges. The first range is taken whose quantity the index has.

The thresholds are conventions. Gaps of at least 3 eV are wide, gaps up to 1 eV narrow; 0.1 to 4 eV make a
semiconductor. Up to 0.05 eV counts as no gap, because predicted gaps are never exactly 0. A compound within 0.025
eV/atom of the convex hull counts as stable: this is k_B T at room temperature. The shear modulus stands for the
hardness, which is not known (Teter, MRS Bulletin 23, 22 (1998))."""
NOTES = {
    "hard": "hardness is not known here; the shear modulus stands for it",
    "superhard": "hardness is not known here; the shear modulus stands for it",
    "transparent": "no absorption of visible light",
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

"""Words for properties: phrases such as `wide gap`, and comparisons such as `band gap between 1 and 2 eV`."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from crystalign.text_query.chips import Meaning, Range, range_label
from crystalign.text_query.words import Words, fold, squeezed

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
_SCALES = {
    "energy": {"mev": 1e-3, "ev": 1.0},
    "pressure": {"gpa": 1.0, "mpa": 1e-3, "kbar": 0.1, "mbar": 100.0, "tpa": 1000.0},
}
"""Units that are converted; others are taken as the unit of the quantity."""
_UNIT = (
    r"(?:meV|eV|GPa|MPa|kbar|Mbar|TPa|g\s?/\s?cm\^?3|g\s?/\s?cc|g\s?cm\^?-3|kg\s?/\s?m\^?3|[µμ]B)"
    r"(?:\s?/\s?atom| per atom)?(?![\w])"
)
_NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?"
_SIGNS = {
    ">=": ">= ≥ => at-least minimum not-less-than no-less-than or-more min",
    "<=": "<= ≤ =< at-most maximum up-to not-more-than no-more-than max",
    ">": "> above over greater-than larger-than more-than higher-than bigger-than exceeding exceeds",
    "<": "< below under less-than smaller-than lower-than fewer-than beneath",
    "=": "= == equal-to equals exactly",
    "~": "~ ≈ about around near roughly circa approximately close-to",
}
_SIGN_OF = {words.replace("-", " "): sign for sign, listed in _SIGNS.items() for words in listed.split()}
_SIGN = "|".join(re.escape(words).replace(r"\ ", r"\s+") for words in sorted(_SIGN_OF, key=len, reverse=True))
_COMPARED = re.compile(
    rf"(?:[\s:]|\(eV\)|\(GPa\))*(?:(?:of|is|are|being|range|in the range|ranging|must be|should be)\s+){{0,2}}"
    rf"(?:(?:between|from)?\s*(?P<low>{_NUMBER})\s*(?P<lowunit>{_UNIT})?\s*(?:and|to|-|–|—|\.\.)\s*(?P<high>{_NUMBER})\s*(?P<highunit>{_UNIT})?"
    rf"|(?P<sign>{_SIGN})?\s*(?:than\s+)?(?P<value>{_NUMBER})\s*(?P<unit>{_UNIT})?)(?![\w.]\w|\w)",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    rf"(?:(?:between|from)\s+)?(?:(?P<low>{_NUMBER})\s*(?P<lowunit>{_UNIT})?\s*(?:and|to|-|–|—)\s*(?P<high>{_NUMBER})\s*(?P<highunit>{_UNIT})?"
    rf"|(?P<sign>{_SIGN})?\s*(?P<value>{_NUMBER})\s*(?P<unit>{_UNIT})?)[\s-]*(?=[A-Za-z])",
    re.IGNORECASE,
)
_COUNTED = {"atom": "nsites", "site": "nsites", "element": "nelements"}
_NUMERALS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905 (words)
_SPELT = re.compile(
    rf"\b({'|'.join(_NUMERALS)})(?=[ -](?:different |distinct |chemical )?(?:elements?|atoms?|sites?|components?)\b)",
    re.IGNORECASE,
)
_PER_CELL = re.compile(
    r"\s?(?:per|in the|in a|in its|in|/)\s?(?:primitive |unit |conventional ){0,2}cells?\b", re.IGNORECASE
)
_TOLERANCE = 0.1
"""An exact number stands for values within this fraction of it."""
_NOTHING = 0.05
"""`band gap = 0` stands for values up to this."""


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
        found |= {squeezed(name): _size(label, text) for name in names.split(",")}
    return found


def _size(label: str, text: str) -> Meaning:
    return Meaning("size", label, (text,), note="atoms in the stored cell, which need not be the primitive one")


@functools.cache
def quantity_names() -> dict[str, str]:
    """Squeezed name → quantity."""
    return {squeezed(name): quantity for quantity, names in NAMES.items() for name in names.split(",")}


class Compared(NamedTuple):
    """A comparison that was read."""

    meaning: Meaning
    """What it means."""
    end: int
    """Where it ends in the plain text."""


def compared_after(words: Words, quantity: str, at: int) -> Compared | None:
    """A comparison behind the name of a quantity, which ends at `at`: `> 2 eV`, `of 1.5`, `between 1 and 2 eV`."""
    match = _COMPARED.match(words.text[: at + 120], at)
    return None if match is None else Compared(_meaning(quantity, match), match.end())


def compared_before(words: Words, at: int, names: dict[str, str]) -> Compared | None:
    """A comparison before the name of a quantity: `2 eV band gap`, `fewer than 10 atoms`, `3 elements`."""
    window = _SPELT.sub(lambda m: str(_NUMERALS.index(m[1].lower())), words.text[at : at + 120])
    longer = len(words.text[at : at + 120]) - len(window)
    match = _BEFORE.match(window)
    if match is None:
        return None
    behind = [m for m, _ in zip(re.finditer(r"[A-Za-z]+", window[match.end() :]), range(4), strict=False)]
    if len(behind) > 1 and behind[0][0].lower() in {"different", "distinct", "chemical"}:
        behind = behind[1:]
    for count in range(len(behind), 0, -1):
        key = "".join(fold(m[0]) for m in behind[:count])
        quantity = names.get(key) or (_COUNTED.get(key.rstrip("s")) if count == 1 else None)
        if quantity is not None:
            end = at + longer + match.end() + behind[count - 1].end()
            cell = _PER_CELL.match(words.text, end)
            return Compared(_meaning(quantity, match), cell.end() if cell and quantity == "nsites" else end)
    return None


def _meaning(quantity: str, match: re.Match[str]) -> Meaning:
    tests: tuple[tuple[str, float], ...]
    if match["value"] is None:
        units = match["lowunit"] or match["highunit"], match["highunit"] or match["lowunit"]
        bounds = sorted(_scaled(match[name], unit) for name, unit in zip(("low", "high"), units, strict=True))
        tests = ((">=", bounds[0]), ("<=", bounds[1]))
    else:
        value = _scaled(match["value"], match["unit"])
        sign = _SIGN_OF[" ".join((match["sign"] or "=").lower().split())]
        tests = ((sign, value),) if sign not in "~=" else _near(quantity, value, exact=sign == "=")
    if quantity in {"nsites", "nelements"}:
        kind, noun = ("size", "atoms in the cell") if quantity == "nsites" else ("number of elements", "elements")
        whole = tuple((sign, round(value)) for sign, value in tests)
        shown = " and ".join(
            f"{ {'>=': '≥', '<=': '≤', '=': 'exactly'}.get(sign, sign) } {value}" for sign, value in whole
        )
        text = " AND ".join(f"{quantity}{sign}{value}" for sign, value in whole)
        return _size(f"{shown} {noun}", text) if kind == "size" else Meaning(kind, f"{shown} {noun}", (text,))
    wanted = Range(quantity, tests)
    return Meaning("property", range_label(wanted), ranges=(wanted,))


def _near(quantity: str, value: float, *, exact: bool) -> tuple[tuple[str, float], ...]:
    if quantity in {"nsites", "nelements"}:
        return (("=", value),) if exact else ((">=", round(value * 0.9)), ("<=", round(value * 1.1)))
    if value == 0 and quantity not in {"formation_energy_per_atom", "efermi"}:
        return (("<=", _NOTHING),)
    if value == 0:
        return ((">=", -_NOTHING), ("<=", _NOTHING))
    width = abs(value) * _TOLERANCE
    return ((">=", round(value - width, 6)), ("<=", round(value + width, 6)))


def _scaled(number: str, unit: str | None) -> float:
    name = (unit or "").lower().split("/")[0].split(" ")[0].strip()
    if name.startswith("kg"):
        return float(number) / 1000
    scale = next((scales[name] for scales in _SCALES.values() if name in scales), 1.0)
    if unit and unit.startswith("MPa"):
        scale = 1e-3
    return float(number) * scale

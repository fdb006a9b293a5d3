"""Whether a structure agrees with the formula, Z, volume and density that its file states."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from crystalign.crystal import SYMBOLS
from crystalign.readers.structures.reading import Objection

AMOUNT_TOLERANCE = 0.04
"""Relative tolerance of an element's amount: occupancies and formulas are rounded to two or three digits."""
AMOUNT_FLOOR = 0.03
"""Atoms per formula unit below which a difference is rounding."""
Z_TOLERANCE = 0.03
"""Relative."""
VOLUME_TOLERANCE = 0.01
"""Relative."""
DENSITY_TOLERANCE = 0.03
"""Relative; densities are stated to three digits and with older atomic masses."""
HYDROGEN = 1
MAX_FORMULA = 500
"""Characters of a stated formula."""
_SUM = re.compile(r"(?:[A-Z][a-z]?\s?(?:\d{1,7}(?:\.\d{1,7})?|\.\d{1,7})?\s?)+")
_DEUTERIUM = 2.014
"""Da."""
_DALTON_PER_CUBIC_ANGSTROM = 1.66053906660
"""g/cm³."""

Amounts = Mapping[int, float]
"""Atoms by atomic number."""


@dataclass(frozen=True, slots=True)
class Statements:
    """Statements of a file about its structure; None if there is no statement."""

    formula: Amounts | None = None
    """Atoms of one formula unit."""
    structural: Amounts | None = None
    """Atoms of the unit that Z may count instead, as where pymatgen writes the sum of the whole cell."""
    deuterated: bool = False
    """Whether deuterium is named: then hydrogen may have twice its mass."""
    z: float | None = None
    """Formula units in the cell."""
    volume: float | None = None
    """Å³."""
    density: float | None = None
    """g/cm³, calculated from the structure by its authors."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The outcome of a comparison."""

    objections: tuple[Objection, ...]
    """What differs."""
    remarks: tuple[str, ...]
    """Hydrogen that is stated but has no site."""
    confirmed: bool
    """Whether the content of the cell is confirmed: by formula and Z, or by the density."""


def parse_stated_formula(text: str) -> Amounts | None:
    """Atoms by atomic number of a sum formula such as `C2 Ca Mg0.9 O6`; None where it is not understood.

    Elements stand apart, so that a word of two capitals is one element: `SI O2` is quartz.
    """
    from crystalign.errors import InputError
    from crystalign.formula import read_formula

    bare = re.sub(r"^\(([^()]*)\)$", r"\1", text.strip())  # `(O H2)`
    words = bare[:MAX_FORMULA].split()
    capitals = len(words) > 1 and bare.upper() == bare
    plain = " ".join(word.capitalize() if capitals else word for word in words)
    if len(text) > MAX_FORMULA:
        return None
    if _SUM.fullmatch(plain):
        amounts: dict[int, float] = {}
        for symbol, amount in re.findall(r"([A-Z][a-z]?)\s*([\d.]*)", plain):
            z = _number(symbol)
            if z is None:
                return None
            amounts[z] = amounts.get(z, 0.0) + float(amount or 1)
    else:
        try:
            amounts = {z: float(x) for z, x in read_formula(plain.replace(",", " ")).amounts.items()}
        except InputError:
            return None
    return {z: x for z, x in amounts.items() if x > 0} or None


def _number(symbol: str) -> int | None:
    name = {"D": "H", "T": "H"}.get(symbol, symbol)
    return SYMBOLS.index(name) if name in SYMBOLS[1:] else None


def compare(composition: Amounts, volume: float, stated: Statements) -> Agreement:
    """Compare the content of a cell with what its file states.

    Args:
        composition: atoms in the cell.
        volume: of the cell, Å³.
        stated: what the file says.
    """
    objections: list[Objection] = []
    remarks: list[str] = []
    units, missing_hydrogen = _units(composition, stated, objections, remarks)
    agrees = stated.formula is not None and not objections
    if stated.volume is not None and abs(volume / stated.volume - 1.0) > VOLUME_TOLERANCE:
        message = f"the cell has {volume:.2f} Å³ by its lengths and angles, the file states {stated.volume:.2f} Å³"
        objections.append(Objection("volume-disagrees", message))
    z_agrees = units is not None and _z_agrees(units, stated, exact=_whole(composition))
    if stated.z is not None and units is not None and agrees and not z_agrees:
        message = (
            f"the cell holds {units:.4g} formula units of {formula_text(stated.formula or {})}, the file states "
            f"Z = {stated.z:g}"
        )
        objections.append(Objection("z-disagrees", message))
    densities = _possible_densities(composition, missing_hydrogen, volume, deuterated=stated.deuterated)
    close = stated.density is not None and any(
        abs(density / stated.density - 1.0) <= DENSITY_TOLERANCE for density in densities
    )
    if stated.density is not None and not close:
        message = f"the structure has {densities[0]:.3f} g/cm³, the file states {stated.density:.3f} g/cm³"
        objections.append(Objection("density-disagrees", message))
    return Agreement(tuple(objections), tuple(remarks), confirmed=not objections and (close or (agrees and z_agrees)))


def _possible_densities(composition: Amounts, missing: float, volume: float, *, deuterated: bool) -> list[float]:
    """Return densities (g/cm³) with and without the hydrogen that has no site, also as deuterium if that is named."""
    held = composition.get(HYDROGEN, 0.0)
    densities = []
    for hydrogen in dict.fromkeys((held + missing, held)):
        light = density_of({**composition, HYDROGEN: hydrogen}, volume)
        densities.append(light)
        if deuterated:
            densities.append(light + hydrogen * (_DEUTERIUM - 1.008) / volume * _DALTON_PER_CUBIC_ANGSTROM)
    return densities


def _z_agrees(units: float, stated: Statements, *, exact: bool) -> bool:
    """Whether the cell holds Z units of the sum formula or, as pymatgen counts, of the structural formula."""
    ratios = [1.0]
    if stated.formula and stated.structural and stated.formula.keys() == stated.structural.keys():
        parts = [stated.formula[z] / stated.structural[z] for z in stated.formula]
        if max(parts) - min(parts) < 1e-6:
            ratios.append(parts[0])
    tolerance = 1e-6 if exact and _whole(stated.formula or {}) else Z_TOLERANCE
    return stated.z is not None and any(abs(ratio * units / stated.z - 1.0) <= tolerance for ratio in ratios)


def _units(
    composition: Amounts, stated: Statements, objections: list[Objection], remarks: list[str]
) -> tuple[float | None, float]:
    """Return the formula units in the cell, and the hydrogen atoms per cell that have no site.

    A disagreement is appended to `objections`, missing hydrogen to `remarks`.
    """
    formula = stated.formula
    if not formula:
        return None, 0.0
    heavy = {z for z in {*composition, *formula} if z != HYDROGEN} or {HYDROGEN}
    total = sum(formula.get(z, 0.0) for z in heavy)
    units = sum(composition.get(z, 0.0) for z in heavy) / total if total else 0.0
    exact = _whole(composition) and _whole(formula)  # nothing is rounded: every atom counts
    wrong = [z for z in heavy if not _equal(composition.get(z, 0.0), units * formula.get(z, 0.0), units, exact=exact)]
    hydrogen, stated_hydrogen = composition.get(HYDROGEN, 0.0), units * formula.get(HYDROGEN, 0.0)
    missing = 0.0 if _equal(hydrogen, stated_hydrogen, units, exact=exact) else stated_hydrogen - hydrogen
    if wrong or missing < 0 or units <= 0:
        message = (
            f"the sites give {formula_text(composition, units)}, the file states {formula_text(formula)}"
            f"{'' if units <= 0 else f' (times {units:.4g} in the cell)'}"
        )
        objections.append(Objection("composition-disagrees", message))
        return units or None, 0.0
    if missing > 0:
        text = f"{formula_text(composition, units)} has sites, {formula_text(formula)} is stated"
        remarks.append(f"hydrogen missing: {text}")
    return units, missing


def _whole(amounts: Amounts) -> bool:
    return all(abs(x - round(x)) < 1e-6 for x in amounts.values())


def _equal(amount: float, expected: float, units: float, *, exact: bool) -> bool:
    if exact:
        return abs(amount - expected) < 1e-6
    return abs(amount - expected) <= max(AMOUNT_TOLERANCE * expected, AMOUNT_FLOOR * units)


def density_of(composition: Amounts, volume: float) -> float:
    """g/cm³ of a cell: mass / volume."""
    import gemmi

    mass = math.fsum(gemmi.Element(SYMBOLS[z]).weight * x for z, x in composition.items())
    return mass / volume * _DALTON_PER_CUBIC_ANGSTROM


def formula_text(amounts: Amounts, units: float = 1.0) -> str:
    """`Al2 H4 O9 Si2`, with amounts divided by `units`."""
    parts = sorted((SYMBOLS[z], x / (units or 1.0)) for z, x in amounts.items() if x > 1e-6)
    return " ".join(f"{symbol}{'' if abs(x - 1) < 5e-4 else f'{x:.3f}'.rstrip('0').rstrip('.')}" for symbol, x in parts)

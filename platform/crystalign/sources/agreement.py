"""Whether a structure agrees with the formula, Z, volume and density that its file states."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from crystalign.crystal import SYMBOLS
from crystalign.sources.reading import Objection

AMOUNT_TOLERANCE = 0.04
"""Of an element's share, relative to the stated amount: occupancies and formulas are rounded to two or three digits."""
AMOUNT_FLOOR = 0.03
"""Atoms per formula unit below which a difference is rounding."""
Z_TOLERANCE = 0.03
"""Relative."""
VOLUME_TOLERANCE = 0.01
"""Relative."""
DENSITY_TOLERANCE = 0.03
"""Relative; densities are stated to three digits and with older atomic masses."""
HYDROGEN = 1
_DALTON_PER_CUBIC_ANGSTROM = 1.66053906660
"""g/cm³."""

Amounts = Mapping[int, float]
"""Atoms by atomic number."""


@dataclass(frozen=True, slots=True)
class Statements:
    """What a file says of its structure; None where it says nothing."""

    formula: Amounts | None = None
    """Atoms of one formula unit."""
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
    """`'C2 Ca Mg0.9 O6'` as atoms by atomic number; None where it is not written in that form."""
    amounts: dict[int, float] = {}
    bare = re.sub(r"^\((.*)\)$", r"\1", text.strip())  # `(O H2)`
    words = re.findall(r"([A-Z][a-z]?)\s*(\d+\.?\d*|\.\d+)?|(\S)", bare.replace(",", " "))
    for symbol, amount, other in words:
        symbol = {"D": "H", "T": "H"}.get(symbol, symbol)  # noqa: PLW2901 (isotopes are counted as hydrogen)
        if other or symbol not in SYMBOLS[1:]:
            return None
        z = SYMBOLS.index(symbol)
        amounts[z] = amounts.get(z, 0.0) + float(amount or 1)
    return {z: x for z, x in amounts.items() if x > 0} or None


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
    z_agrees = units is not None and _z_agrees(units, stated)
    if stated.z is not None and units is not None and agrees and not z_agrees:
        message = (
            f"the cell holds {units:.4g} formula units of {formula_text(stated.formula or {})}, the file states "
            f"Z = {stated.z:g}"
        )
        objections.append(Objection("z-disagrees", message))
    density = density_of({**composition, HYDROGEN: composition.get(HYDROGEN, 0.0) + missing_hydrogen}, volume)
    close = stated.density is not None and abs(density / stated.density - 1.0) <= DENSITY_TOLERANCE
    if stated.density is not None and not close:
        message = f"the structure has {density:.3f} g/cm³, the file states {stated.density:.3f} g/cm³"
        objections.append(Objection("density-disagrees", message))
    return Agreement(tuple(objections), tuple(remarks), confirmed=not objections and (close or (agrees and z_agrees)))


def _z_agrees(units: float, stated: Statements) -> bool:
    """Whether Z counts the formula units: as the formula stands, or reduced, as pymatgen writes it."""
    amounts = list((stated.formula or {}).values())
    divisor = math.gcd(*map(round, amounts)) if all(x == round(x) for x in amounts) else 1
    return stated.z is not None and any(abs(n * units / stated.z - 1.0) <= Z_TOLERANCE for n in (1, divisor))


def _units(
    composition: Amounts, stated: Statements, objections: list[Objection], remarks: list[str]
) -> tuple[float | None, float]:
    """Formula units in the cell, and the hydrogen atoms per cell that have no site."""
    formula = stated.formula
    if not formula:
        return None, 0.0
    heavy = {z for z in {*composition, *formula} if z != HYDROGEN} or {HYDROGEN}
    total = sum(formula.get(z, 0.0) for z in heavy)
    units = sum(composition.get(z, 0.0) for z in heavy) / total if total else 0.0
    wrong = [z for z in heavy if not _equal(composition.get(z, 0.0), units * formula.get(z, 0.0), units)]
    found, wanted = composition.get(HYDROGEN, 0.0), units * formula.get(HYDROGEN, 0.0)
    missing = 0.0 if _equal(found, wanted, units) else wanted - found
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


def _equal(found: float, wanted: float, units: float) -> bool:
    return abs(found - wanted) <= max(AMOUNT_TOLERANCE * wanted, AMOUNT_FLOOR * units)


def density_of(composition: Amounts, volume: float) -> float:
    """g/cm³ of a cell: mass / volume."""
    import gemmi

    mass = math.fsum(gemmi.Element(SYMBOLS[z]).weight * x for z, x in composition.items())
    return mass / volume * _DALTON_PER_CUBIC_ANGSTROM


def formula_text(amounts: Amounts, units: float = 1.0) -> str:
    """`Al2 H4 O9 Si2`, with amounts divided by `units`."""
    parts = sorted((SYMBOLS[z], x / (units or 1.0)) for z, x in amounts.items() if x > 1e-6)
    return " ".join(f"{symbol}{'' if abs(x - 1) < 5e-4 else f'{x:.3f}'.rstrip('0').rstrip('.')}" for symbol, x in parts)

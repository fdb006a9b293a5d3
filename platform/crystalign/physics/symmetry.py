"""Space group, prototype and standard cells, by moyopy."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crystalign.crystal import Crystal, Occupancy
from crystalign.errors import CrystalError

if TYPE_CHECKING:
    from moyopy import MoyoDataset

SYMPREC = 0.01
"""Å; the tolerance of every space group and prototype that is stored."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Symmetry(NamedTuple):
    """What the symmetry of a crystal is called."""

    number: int
    """Space group, 1 to 230."""
    symbol: str
    """Hermann–Mauguin, short: `Fm-3m`."""
    prototype: str | None
    """Anonymous formula, space group and occupied Wyckoff positions: `AB:225:a.b` is rock salt; None where the
    structure lies so close to the tolerance that no setting can be assigned."""
    crystal_system: str
    """`cubic`, `hexagonal`, …"""


def symmetry(crystal: Crystal, symprec: float = SYMPREC) -> Symmetry:
    """Space group and prototype within `symprec` (Å).

    The Wyckoff letters depend on the choice of origin and axes; of all choices that the Euclidean
    normaliser allows, the prototype is the alphabetically first, so that it does not.

    Raises:
        CrystalError: reason `no-symmetry`, where the search fails.
    """
    from moyopy import SpaceGroupType

    found = _dataset(crystal, symprec)
    kind = SpaceGroupType(found.number)
    symbol = kind.hm_short.replace(" ", "")
    system = kind.crystal_system.lower()
    return Symmetry(found.number, symbol, _prototype(found), system)


def symbol_of(number: int) -> str:
    """The short Hermann–Mauguin symbol of a space group: 225 → `Fm-3m`."""
    from moyopy import SpaceGroupType

    return str(SpaceGroupType(number).hm_short).replace(" ", "")


def primitive(crystal: Crystal, symprec: float = SYMPREC) -> Crystal:
    """The primitive standard cell, symmetrised within `symprec` (Å).

    Raises:
        CrystalError: reason `no-symmetry`.
    """
    return _cell(_dataset(crystal, symprec), crystal, conventional=False)


def conventional(crystal: Crystal, symprec: float = SYMPREC) -> Crystal:
    """The conventional standard cell, symmetrised within `symprec` (Å).

    Raises:
        CrystalError: reason `no-symmetry`.
    """
    return _cell(_dataset(crystal, symprec), crystal, conventional=True)


def _dataset(crystal: Crystal, symprec: float) -> MoyoDataset:
    import moyopy

    kinds, _ = _site_kinds(crystal)
    logging.getLogger("moyo").setLevel(logging.ERROR)  # it warns of every supercell
    cell = moyopy.Cell(basis=crystal.lattice.tolist(), positions=crystal.frac_coords.tolist(), numbers=kinds)
    try:
        return moyopy.MoyoDataset(cell, symprec=symprec)
    except Exception as error:  # moyopy raises what its search met
        message = f"no space group found for {crystal!r} at symprec {symprec} Å: {error}"
        raise CrystalError(message, reason="no-symmetry") from error


def _site_kinds(crystal: Crystal) -> tuple[list[int], dict[int, Occupancy]]:
    """An integer per site that is equal where the occupancy is, and what each integer stands for."""
    if crystal.occupancies is None:
        return crystal.atomic_numbers.tolist(), {}
    rounded = [tuple((z, round(x, 4)) for z, x in site) for site in crystal.occupancies]
    order = {site: n for n, site in enumerate(sorted(set(rounded)), start=1)}
    return [order[site] for site in rounded], {n: site for site, n in order.items()}


def _cell(found: MoyoDataset, crystal: Crystal, *, conventional: bool) -> Crystal:
    cell = found.std_cell if conventional else found.prim_std_cell
    _, kinds = _site_kinds(crystal)
    if not kinds:
        return Crystal(np.array(cell.basis), np.array(cell.positions), np.array(cell.numbers))
    sites = tuple(kinds[n] for n in cell.numbers)
    numbers = [max(site, key=lambda pair: (pair[1], -pair[0]))[0] for site in sites]
    return Crystal(np.array(cell.basis), np.array(cell.positions), np.array(numbers), sites)


def _prototype(found: MoyoDataset) -> str | None:
    """`AB2:136:a.f`: anonymous formula, space group, Wyckoff letters of A, of B, …; the first of all settings."""
    numbers = found.std_cell.numbers
    amounts = Counter(numbers)
    divisor = functools.reduce(math.gcd, amounts.values())
    formula = "".join(f"{_letter(i)}{n // divisor if n > divisor else ''}" for i, n in enumerate(sorted(amounts.values())))
    settings = _settings(found)
    if not settings:
        return None
    return f"{formula}:{found.number}:{min(_positions(numbers, setting) for setting in settings)}"


def _settings(found: MoyoDataset) -> set[tuple[tuple[str, int], ...]]:
    """(letter, multiplicity) of every atom of the standard cell, in each setting the normaliser allows."""
    from moyopy import MoyoDataset

    for exact in (False, True):
        try:
            # a cell at the edge of the tolerance may be refused; its symmetrised version is exact
            dataset = MoyoDataset(found.std_cell, symprec=1e-4) if exact else found
            cosets = dataset.normalizer_wyckoff_positions().coset_representatives
        except ValueError:
            continue
        if dataset.number == found.number:
            return {tuple((site.letter, site.multiplicity) for site in sequence) for _, sequence in cosets}
    return set()


def _positions(numbers: list[int], setting: tuple[tuple[str, int], ...]) -> str:
    """The Wyckoff letters of each species, rarest species first; a letter stands once per orbit."""
    atoms = Counter(zip(numbers, setting, strict=True))
    spelled = {species: "" for species in numbers}
    for (species, (letter, multiplicity)), count in sorted(atoms.items()):
        spelled[species] += letter * (count // multiplicity)
    amounts = Counter(numbers)
    return ".".join(word for _, word in sorted((amounts[species], word) for species, word in spelled.items()))


def _letter(index: int) -> str:
    """A, B, … Z, AA, …"""
    return LETTERS[index] if index < 26 else LETTERS[index // 26 - 1] + LETTERS[index % 26]

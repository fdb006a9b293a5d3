"""Space group, prototype and standard cells, by moyopy."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal, Occupancy
from crystalign.errors import CrystalError
from crystalign.physics.settings import rarest_sites

if TYPE_CHECKING:
    from moyopy import MoyoDataset

Matrix = NDArray[np.float64]
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
    return Symmetry(found.number, symbol, _prototype(found, _site_kinds(crystal)[0]), system)


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


def conventional_vectors(crystal: Crystal, symprec: float = SYMPREC) -> tuple[Matrix, str]:
    """The vectors of the conventional cell where they lie in the crystal, and the crystal system.

    `conventional` turns the crystal into the standard's orientation; here it stays as it is.

    Returns:
        (3, 3) Å, rows are vectors, and `cubic`, `hexagonal`, …

    Raises:
        CrystalError: reason `no-symmetry`.
    """
    from moyopy import SpaceGroupType

    found = _dataset(crystal, symprec)
    return np.array(found.std_linear).T @ crystal.lattice, SpaceGroupType(found.number).crystal_system.lower()


class StandardAxes(NamedTuple):
    """The primitive standard cell as a change of axes: with x = A x', the new lattice is Aᵀ · lattice."""

    linear: Matrix
    """(3, 3) A; columns are the new vectors in the old ones, fractions where the old cell is a supercell."""
    lattice: Matrix
    """(3, 3) Å, the standard lattice as the symmetry makes it, rows are vectors."""
    origins: Matrix
    """(T, 3) the sites of the rarest kind, in the new axes; in a supercell the mean of each site's copies."""


def standard_axes(crystal: Crystal, symprec: float = SYMPREC) -> StandardAxes:
    """From the cell of a crystal to the axes of its primitive standard cell, and where an origin may lie.

    The lattice is the same whichever cell describes the crystal. Its axes are the same up to the lattice's
    own rotations, and moyopy's origin up to the normaliser; `settings.best_setting` chooses both.

    Raises:
        CrystalError: reason `no-symmetry`.
    """
    found = _dataset(crystal, symprec)
    kinds, _ = _site_kinds(crystal)
    linear = np.array(found.prim_std_linear)
    frac = crystal.frac_coords @ np.linalg.inv(linear).T
    _, first, copy = np.unique(found.mapping_std_prim, return_index=True, return_inverse=True)
    beside = frac - frac[first][copy]
    beside -= np.round(beside)  # of each site to the first of its copies
    means = np.stack([np.bincount(copy, beside[:, axis]) for axis in range(3)], axis=1) / np.bincount(copy)[:, None]
    rarest = rarest_sites(np.array(kinds)[first])
    return StandardAxes(linear, np.array(found.prim_std_cell.basis), (frac[first] + means)[rarest])


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


def _prototype(found: MoyoDataset, kinds: list[int]) -> str | None:
    """`AB2:136:a.f`: anonymous formula, space group, Wyckoff letters of A, of B, …; the first of all settings."""
    settings = _letter_settings(found)
    if settings is None:
        return None
    amounts = Counter(kinds)
    per_cell = len(found.std_cell.numbers) / len(kinds)
    orbits = {
        (kind, letter): round(count * per_cell / settings.multiplicity[letter])
        for (kind, letter), count in Counter(zip(kinds, found.wyckoffs, strict=True)).items()
    }
    divisor = functools.reduce(math.gcd, amounts.values())
    counts = [n // divisor for n in sorted(amounts.values())]
    formula = "".join(f"{_letter(i)}{n if n > 1 else ''}" for i, n in enumerate(counts))
    return f"{formula}:{found.number}:{min(_positions(orbits, amounts, names) for names in settings.names)}"


def _positions(orbits: dict[tuple[int, str], int], amounts: Counter[int], names: dict[str, str]) -> str:
    """The Wyckoff letters of each species, rarest species first; a letter stands once per orbit."""
    words = []
    for kind, amount in amounts.items():
        letters = sorted(names[letter] * n for (other, letter), n in orbits.items() if other == kind)
        words.append((amount, "".join(letters)))
    return ".".join(word for _, word in sorted(words))


class _LetterSettings(NamedTuple):
    """What the occupied Wyckoff positions are called in each setting that the normaliser allows."""

    multiplicity: dict[str, int]
    names: list[dict[str, str]]


_KNOWN_SETTINGS: dict[tuple[int, frozenset[str]], _LetterSettings] = {}
"""By space group and occupied letters, on which alone they depend; the normaliser costs ten times the search."""


def _letter_settings(found: MoyoDataset) -> _LetterSettings | None:
    key = (found.number, frozenset(found.wyckoffs))
    if key not in _KNOWN_SETTINGS:
        settings = _ask_normaliser(found)
        if settings is None:
            return None
        _KNOWN_SETTINGS[key] = settings
    return _KNOWN_SETTINGS[key]


def _ask_normaliser(found: MoyoDataset) -> _LetterSettings | None:
    """None where the structure lies so close to the tolerance that moyopy refuses it and its symmetrised cell."""
    from moyopy import MoyoDataset

    for exact in (False, True):
        try:
            dataset = MoyoDataset(found.std_cell, symprec=1e-4) if exact else found
            answer = dataset.normalizer_wyckoff_positions()
        except ValueError:
            continue
        if dataset.number == found.number and {site.letter for site in answer.wyckoffs} == set(found.wyckoffs):
            names = [
                {old.letter: new.letter for old, new in zip(answer.wyckoffs, sequence, strict=True)}
                for _, sequence in answer.coset_representatives
            ]
            return _LetterSettings({site.letter: site.multiplicity for site in answer.wyckoffs}, names)
    return None


def _letter(index: int) -> str:
    """A, B, … Z, AA, AB and so on."""
    return LETTERS[index] if index < 26 else LETTERS[index // 26 - 1] + LETTERS[index % 26]

"""Space group, prototype and standard cells, computed with moyopy."""

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
"""Å; tolerance with which all stored space groups and prototypes are determined."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Symmetry(NamedTuple):
    """Space group, prototype and crystal system of a crystal."""

    number: int
    """Space group number, 1 to 230."""
    symbol: str
    """Short Hermann–Mauguin symbol, such as `Fm-3m`."""
    prototype: str | None
    """Anonymous formula, space group and occupied Wyckoff positions: `AB:225:a.b` is rock salt. None if the structure
    is so close to the tolerance that its Wyckoff positions cannot be assigned."""
    crystal_system: str
    """`cubic`, `hexagonal`, …"""


def symmetry(crystal: Crystal, symprec: float = SYMPREC) -> Symmetry:
    """Space group and prototype within `symprec` (Å).

    Wyckoff letters depend on the choice of origin and axes. To make the prototype unique, it is the alphabetically
    first of all choices that the Euclidean normaliser allows.

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    from moyopy import SpaceGroupType

    dataset = _dataset(crystal, symprec)
    kind = SpaceGroupType(dataset.number)
    symbol = kind.hm_short.replace(" ", "")
    system = kind.crystal_system.lower()
    return Symmetry(dataset.number, symbol, _prototype(dataset, _site_kinds(crystal)[0]), system)


def space_group_number(crystal: Crystal, symprec: float = SYMPREC) -> int:
    """Space group number within `symprec` (Å), 1 to 230; much faster than `symmetry`, which also names the prototype.

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    return int(_dataset(crystal, symprec).number)


@functools.cache
def symbol_of(number: int) -> str:
    """The short Hermann–Mauguin symbol of a space group: 225 → `Fm-3m`."""
    from moyopy import SpaceGroupType

    return str(SpaceGroupType(number).hm_short).replace(" ", "")


def primitive(crystal: Crystal, symprec: float = SYMPREC) -> Crystal:
    """The primitive standard cell, symmetrised within `symprec` (Å).

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    return _cell(_dataset(crystal, symprec), crystal, conventional=False)


def conventional(crystal: Crystal, symprec: float = SYMPREC) -> Crystal:
    """The conventional standard cell, symmetrised within `symprec` (Å).

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    return _cell(_dataset(crystal, symprec), crystal, conventional=True)


def conventional_vectors(crystal: Crystal, symprec: float = SYMPREC) -> tuple[Matrix, str]:
    """The vectors of the conventional cell in the crystal's own orientation, and the crystal system.

    `conventional`, in contrast, rotates the crystal into the standard orientation.

    Returns:
        (3, 3) Å, rows are vectors, and `cubic`, `hexagonal`, …

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    from moyopy import SpaceGroupType

    dataset = _dataset(crystal, symprec)
    return np.array(dataset.std_linear).T @ crystal.lattice, SpaceGroupType(dataset.number).crystal_system.lower()


UNIQUE_AXES = {"cubic": [0], "tetragonal": [0, 2], "trigonal": [0, 2], "hexagonal": [0, 2], "orthorhombic": [0, 1, 2]}
"""Crystal system → axes of the conventional cell whose lengths are independent of each other and of any choice."""


def unique_lengths(crystal: Crystal, symprec: float = SYMPREC) -> tuple[float, ...]:
    """The lengths of the edges of the conventional cell that are unique, Å, rounded to 0.001 Å.

    One for the cubic system, a and c for the tetragonal, trigonal (hexagonal axes) and hexagonal systems, three in
    ascending order for the orthorhombic system, and none for the monoclinic and triclinic systems.

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    from moyopy import SpaceGroupType

    dataset = _dataset(crystal, symprec)
    system = SpaceGroupType(dataset.number).crystal_system.lower()
    lengths = np.linalg.norm(dataset.std_cell.basis, axis=1)[UNIQUE_AXES.get(system, [])]
    return tuple(round(float(x), 3) for x in (np.sort(lengths) if system == "orthorhombic" else lengths))


class StandardAxes(NamedTuple):
    """The primitive standard cell as a change of axes: with x = A x', the new lattice is Aᵀ · lattice."""

    linear: Matrix
    """(3, 3) A; columns are the new vectors in units of the old ones, fractions if the old cell is a supercell."""
    lattice: Matrix
    """(3, 3) the symmetrised standard lattice, Å, rows are vectors."""
    origins: Matrix
    """(T, 3) the sites of the rarest kind in the new axes; in a supercell, the mean over the copies of each site."""


def standard_axes(crystal: Crystal, symprec: float = SYMPREC) -> StandardAxes:
    """The change from the cell of a crystal to its primitive standard cell, and the possible origins.

    The standard lattice does not depend on the cell in which the crystal is given. Its axes are unique up to the
    rotations of the lattice, and moyopy's origin up to the normaliser; `settings.best_setting` chooses both.

    Raises:
        CrystalError: reason `no-symmetry`, if no space group is found.
    """
    dataset = _dataset(crystal, symprec)
    kinds, _ = _site_kinds(crystal)
    linear = np.array(dataset.prim_std_linear)
    frac = crystal.frac_coords @ np.linalg.inv(linear).T
    _, first, copy = np.unique(dataset.mapping_std_prim, return_index=True, return_inverse=True)
    beside = frac - frac[first][copy]
    beside -= np.round(beside)  # from the first copy of each site to the others
    means = np.stack([np.bincount(copy, beside[:, axis]) for axis in range(3)], axis=1) / np.bincount(copy)[:, None]
    rarest = rarest_sites(np.array(kinds)[first])
    return StandardAxes(linear, np.array(dataset.prim_std_cell.basis), (frac[first] + means)[rarest])


def _dataset(crystal: Crystal, symprec: float) -> MoyoDataset:
    import moyopy

    kinds, _ = _site_kinds(crystal)
    logging.getLogger("moyo").setLevel(logging.ERROR)  # it warns of every supercell
    cell = moyopy.Cell(basis=crystal.lattice.tolist(), positions=crystal.frac_coords.tolist(), numbers=kinds)
    try:
        return moyopy.MoyoDataset(cell, symprec=symprec)
    except Exception as error:  # whatever moyopy's search raises
        raise CrystalError(
            f"no space group found for {crystal!r} at symprec {symprec} Å: {error}",
            reason="no-symmetry",
        ) from error


def _site_kinds(crystal: Crystal) -> tuple[list[int], dict[int, Occupancy]]:
    """An integer per site, equal for sites of equal occupancy, and the occupancy that each integer stands for."""
    if crystal.occupancies is None:
        return crystal.atomic_numbers.tolist(), {}
    rounded = [tuple((z, round(x, 4)) for z, x in site) for site in crystal.occupancies]
    order = {site: n for n, site in enumerate(sorted(set(rounded)), start=1)}
    return [order[site] for site in rounded], {n: site for site, n in order.items()}


def _cell(dataset: MoyoDataset, crystal: Crystal, *, conventional: bool) -> Crystal:
    cell = dataset.std_cell if conventional else dataset.prim_std_cell
    _, kinds = _site_kinds(crystal)
    if not kinds:
        return Crystal(np.array(cell.basis), np.array(cell.positions), np.array(cell.numbers))
    sites = tuple(kinds[n] for n in cell.numbers)
    numbers = [max(site, key=lambda pair: (pair[1], -pair[0]))[0] for site in sites]
    return Crystal(np.array(cell.basis), np.array(cell.positions), np.array(numbers), sites)


def _prototype(dataset: MoyoDataset, kinds: list[int]) -> str | None:
    """`AB2:136:a.f`: anonymous formula, space group, Wyckoff letters of A, of B, …; the first of all settings."""
    settings = _letter_settings(dataset)
    if settings is None:
        return None
    amounts = Counter(kinds)
    per_cell = len(dataset.std_cell.numbers) / len(kinds)
    orbits = {
        (kind, letter): round(count * per_cell / settings.multiplicity[letter])
        for (kind, letter), count in Counter(zip(kinds, dataset.wyckoffs, strict=True)).items()
    }
    divisor = functools.reduce(math.gcd, amounts.values())
    counts = [n // divisor for n in sorted(amounts.values())]
    formula = "".join(f"{_letter(i)}{n if n > 1 else ''}" for i, n in enumerate(counts))
    return f"{formula}:{dataset.number}:{min(_positions(orbits, amounts, names) for names in settings.names)}"


def _positions(orbits: dict[tuple[int, str], int], amounts: Counter[int], names: dict[str, str]) -> str:
    """The Wyckoff letters of each species, the rarest species first; each letter is repeated once per orbit."""
    words = []
    for kind, amount in amounts.items():
        letters = sorted(names[letter] * n for (other, letter), n in orbits.items() if other == kind)
        words.append((amount, "".join(letters)))
    return ".".join(word for _, word in sorted(words))


class _LetterSettings(NamedTuple):
    """The letters of the occupied Wyckoff positions in every setting that the normaliser allows."""

    multiplicity: dict[str, int]
    """Letter → number of sites in the conventional cell."""
    names: list[dict[str, str]]
    """For each setting: letter in moyopy's setting → letter in this one."""


_KNOWN_SETTINGS: dict[tuple[int, frozenset[str]], _LetterSettings] = {}
"""Cache by space group and occupied letters; the normaliser takes ten times as long as the symmetry search."""


def _letter_settings(dataset: MoyoDataset) -> _LetterSettings | None:
    key = (dataset.number, frozenset(dataset.wyckoffs))
    if key not in _KNOWN_SETTINGS:
        settings = _normaliser_settings(dataset)
        if settings is None:
            return None
        _KNOWN_SETTINGS[key] = settings
    return _KNOWN_SETTINGS[key]


def _normaliser_settings(dataset: MoyoDataset) -> _LetterSettings | None:
    """The settings that the Euclidean normaliser allows.

    None if the structure is so close to the tolerance that moyopy accepts neither it nor its symmetrised cell.
    """
    from moyopy import MoyoDataset

    for exact in (False, True):
        try:
            tried = MoyoDataset(dataset.std_cell, symprec=1e-4) if exact else dataset
            positions = tried.normalizer_wyckoff_positions()
        except ValueError:
            continue
        if tried.number == dataset.number and {site.letter for site in positions.wyckoffs} == set(dataset.wyckoffs):
            names = [
                {old.letter: new.letter for old, new in zip(positions.wyckoffs, sequence, strict=True)}
                for _, sequence in positions.coset_representatives
            ]
            return _LetterSettings({site.letter: site.multiplicity for site in positions.wyckoffs}, names)
    return None


def _letter(index: int) -> str:
    """A, B, … Z, AA, AB and so on."""
    return LETTERS[index] if index < 26 else LETTERS[index // 26 - 1] + LETTERS[index % 26]

"""Facts about a crystal that can be said in words: composition, class, structure type, symmetry, packing, bonds."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.crystal import SYMBOLS, Crystal, pretty_formula
from crystalign.physics.compound_classes import UNCERTAIN, compound_class
from crystalign.physics.connectivity import Linkage, linkages
from crystalign.physics.coordination import Bonds, bonds
from crystalign.physics.dimensionality import Dimensionality, dimensionality
from crystalign.physics.polyhedra import shape
from crystalign.physics.split_sites import has_doubtful_bonds, one_of_each
from crystalign.physics.structure_types import structure_type
from crystalign.physics.symmetry import Symmetry, unique_lengths

MAX_SPECIES = 5
"""Number of elements, in order of atomic number, whose environments are facts."""
GRAMS_PER_CM3 = 1.66053906892
"""Density of one atomic mass unit per Å³."""


class Partner(Config):
    """Atoms of one element around an atom."""

    count: int
    """Number of atoms."""
    symbol: str
    """Their element."""
    distance: float
    """Mean bond length in Å."""


class Environment(Config):
    """The most common coordination of an element."""

    symbol: str
    """The element at the centre."""
    is_only: bool
    """Whether all its atoms are coordinated in this way, to the precision of `partners`."""
    partners: tuple[Partner, ...]
    """The bonded atoms, by element; empty if the atom has no bonds."""
    shape: str
    """Name of the polyhedron, as `crystalign.physics.polyhedra.shape` gives it."""


class CrystalFacts(Config):
    """What can be said about a crystal.

    Facts that were added later have defaults, so that facts stored by an earlier version can be read.
    """

    formula: str
    """Reduced formula as chemists write it: `LiFePO4`."""
    elements: tuple[str, ...]
    """Symbols, in order of atomic number."""
    compound_class: str
    """Class of the compound, such as `oxide` or `phosphate hydroxide`; `compound` if it is uncertain; empty for an
    element."""
    structure_type: str | None
    """Name of the structure type, if it is known."""
    dimensionality: Dimensionality
    """In how many directions the bonded network extends."""
    crystal_system: str
    """`cubic`, `hexagonal`, …"""
    spacegroup_symbol: str
    """Short Hermann–Mauguin symbol."""
    spacegroup_number: int
    """Space group number, 1 to 230."""
    volume_per_atom: float
    """Å³."""
    density: float
    """g/cm³."""
    environments: tuple[Environment, ...]
    """The most common environment of up to `MAX_SPECIES` elements."""
    linkages: tuple[Linkage, ...] = ()
    """What octahedra and tetrahedra share."""
    lattice: tuple[float, ...] = ()
    """Å; lengths of the conventional cell's edges where they are unique: a of a cubic cell, a and c of a tetragonal,
    trigonal (hexagonal axes) or hexagonal one, all three of an orthorhombic one in ascending order; empty for the
    monoclinic and triclinic systems, whose axes can be chosen in several ways."""
    property_words: tuple[str, ...] = ()
    """Words for properties that hold of it, such as `metallic`, from known values: `crystalign.text.property_words`."""
    wrong_property_words: tuple[str, ...] = ()
    """Words for properties that do not hold of it. Of words in neither list, nothing is known."""


def crystal_facts(crystal: Crystal, symmetry: Symmetry) -> CrystalFacts:
    """The facts about a crystal.

    The class comes from `compound_class`, the structure type from `structure_type`, the bonds from `bonds`: two atoms
    are bonded if either of them counts the other as a neighbour. For split sites, one position is described.

    Args:
        crystal: the structure.
        symmetry: the result of `crystalign.physics.symmetry.symmetry`.
    """
    whole = one_of_each(crystal)
    bonding = bonds(whole)
    shells = _shells(whole, bonding)
    composition = crystal.composition
    named = ""
    if len(composition) > 1:
        named = UNCERTAIN if has_doubtful_bonds(crystal) else compound_class(whole, bonding.near)
    return CrystalFacts(
        formula=pretty_formula(crystal.formula),
        elements=tuple(SYMBOLS[z] for z in composition),
        compound_class=named,
        structure_type=structure_type(whole, symmetry, bonding.near),
        dimensionality=dimensionality(whole, bonding),
        crystal_system=symmetry.crystal_system,
        spacegroup_symbol=symmetry.symbol,
        spacegroup_number=symmetry.number,
        volume_per_atom=crystal.volume / max(sum(composition.values()), 1e-6),
        density=round(_density(crystal), 4),
        environments=_environments(whole, shells),
        linkages=linkages(whole, bonding, [form for _, form in shells]),
        lattice=unique_lengths(crystal),
    )


def _density(crystal: Crystal) -> float:
    masses = _masses()
    return GRAMS_PER_CM3 * sum(amount * masses[z] for z, amount in crystal.composition.items()) / crystal.volume


@functools.cache
def _masses() -> dict[int, float]:
    """Atomic number → standard atomic mass; 0 for elements without one."""
    from pymatgen.core import Element

    return {element.Z: float(element.atomic_mass or 0.0) for element in Element}


def _shells(crystal: Crystal, bonding: Bonds) -> list[tuple[tuple[Partner, ...], str]]:
    """The bonded atoms of every site, and the shape that they form."""
    bounds = np.searchsorted(bonding.near.receivers, np.arange(len(crystal) + 1))
    shells = []
    for start, stop in itertools.pairwise(bounds.tolist()):
        shell = np.arange(start, stop)[bonding.bonded[start:stop]]
        partners = _partners(bonding.near.distances[shell], crystal.atomic_numbers[bonding.near.senders[shell]])
        shells.append((partners, shape(bonding.near.vectors[shell]) if partners else ""))
    return shells


def _environments(crystal: Crystal, shells: Sequence[tuple[tuple[Partner, ...], str]]) -> tuple[Environment, ...]:
    seen: dict[int, Counter[tuple[str, tuple[Partner, ...], str]]] = {}
    for z, (partners, form) in zip(crystal.atomic_numbers.tolist(), shells, strict=True):
        seen.setdefault(z, Counter())[bonded_to(partners, form), partners, form] += 1
    environments = []
    for z in sorted(seen)[:MAX_SPECIES]:
        (_, partners, form), _ = min(seen[z].items(), key=lambda pair: (-pair[1], pair[0][0]))
        environments.append(Environment(symbol=SYMBOLS[z], is_only=len(seen[z]) == 1, partners=partners, shape=form))
    return tuple(environments)


def _partners(distances: NDArray[np.float64], numbers: NDArray[np.uint8]) -> tuple[Partner, ...]:
    lengths = {int(z): distances[numbers == z] for z in np.unique(numbers)}
    return tuple(
        Partner(count=len(d), symbol=SYMBOLS[z], distance=round(float(d.mean()), 2)) for z, d in lengths.items()
    )


def bonded_to(partners: Sequence[Partner], form: str, symbol: Callable[[str], str] = str) -> str:
    """`bonded to 6 Cl (octahedral, 2.82 Å)`; with several partner elements, each has its own mean bond length.

    Args:
        partners: the bonded atoms, by element.
        form: name of the polyhedron.
        symbol: writes an element; by default its symbol.
    """
    if not partners:
        return "not bonded"
    if len(partners) == 1:
        (one,) = partners
        return f"bonded to {one.count} {symbol(one.symbol)} ({form}, {one.distance:.2f} Å)"
    around = listed([f"{p.count} {symbol(p.symbol)} ({p.distance:.2f} Å)" for p in partners])
    return f"bonded to {around} ({form})"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

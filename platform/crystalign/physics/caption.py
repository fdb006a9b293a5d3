"""Captions that describe a crystal in four sentences; the same crystal always gets the same caption."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal, pretty_formula
from crystalign.physics.compound_classes import ANIONS, UNCERTAIN, compound_class
from crystalign.physics.coordination import Bonds, bonds
from crystalign.physics.polyhedra import shape
from crystalign.physics.split_sites import has_doubtful_bonds, one_of_each
from crystalign.physics.structure_types import PROTOTYPES, structure_type
from crystalign.physics.symmetry import Symmetry

__all__ = ["ANIONS", "ELEMENTS", "PROTOTYPES", "caption"]

ELEMENTS = (  # noqa: SIM905 (a hundred quoted words are no clearer)
    "hydrogen helium lithium beryllium boron carbon nitrogen oxygen fluorine neon sodium magnesium aluminum silicon "
    "phosphorus sulfur chlorine argon potassium calcium scandium titanium vanadium chromium manganese iron cobalt "
    "nickel copper zinc gallium germanium arsenic selenium bromine krypton rubidium strontium yttrium zirconium "
    "niobium molybdenum technetium ruthenium rhodium palladium silver cadmium indium tin antimony tellurium iodine "
    "xenon cesium barium lanthanum cerium praseodymium neodymium promethium samarium europium gadolinium terbium "
    "dysprosium holmium erbium thulium ytterbium lutetium hafnium tantalum tungsten rhenium osmium iridium platinum "
    "gold mercury thallium lead bismuth polonium astatine radon francium radium actinium thorium protactinium uranium "
    "neptunium plutonium americium curium berkelium californium einsteinium fermium mendelevium nobelium lawrencium "
    "rutherfordium dubnium seaborgium bohrium hassium meitnerium darmstadtium roentgenium copernicium nihonium "
    "flerovium moscovium livermorium tennessine oganesson"
).split()
"""Element names in order of atomic number; the index is Z − 1."""


def caption(crystal: Crystal, symmetry: Symmetry) -> str:
    """Describe a crystal by its formula, compound class, space group, structure type, density and bonds.

    The class comes from `compound_class`, the structure type from `structure_type` and the bonds from `bonds`: two
    atoms are bonded if either of them counts the other as a neighbour. For split sites, one position is described.

    Args:
        crystal: the structure.
        symmetry: the result of `crystalign.physics.symmetry.symmetry`.

    Returns:
        Four sentences with fewer than a thousand characters: composition, symmetry, density, bonds.
    """
    whole = one_of_each(crystal)
    bonding = bonds(whole)
    name = structure_type(whole, symmetry, bonding.near)
    kind = f" with the {name} structure" if name else ""
    names = _list([ELEMENTS[z - 1] for z in crystal.composition])
    sentences = (
        f"{pretty_formula(crystal.formula)} is {_class(crystal, whole, bonding)} of {names}.",
        f"It crystallizes in the {symmetry.crystal_system} space group {symmetry.symbol} ({symmetry.number}){kind}.",
        f"The atoms are {_packing(crystal)}.",
        _coordination(whole, bonding),
    )
    return " ".join(sentences)


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _class(crystal: Crystal, whole: Crystal, bonding: Bonds) -> str:
    """`a form`, `a binary oxide`, `a quaternary phosphate hydroxide`."""
    composition = crystal.composition
    if len(composition) == 1:
        return "a form"
    count = {2: "binary", 3: "ternary", 4: "quaternary"}.get(len(composition), "multicomponent")
    return f"a {count} {UNCERTAIN if has_doubtful_bonds(crystal) else compound_class(whole, bonding.near)}"


def _coordination(crystal: Crystal, bonding: Bonds) -> str:
    """`Na is bonded to 6 Cl (octahedral, 2.82 Å); Cl …`: the most common environment of up to five species."""
    environments: dict[int, Counter[str]] = {}
    bounds = np.searchsorted(bonding.near.receivers, np.arange(len(crystal) + 1))
    for site, z in enumerate(crystal.atomic_numbers.tolist()):
        shell = np.arange(bounds[site], bounds[site + 1])
        shell = shell[bonding.bonded[shell]]
        numbers = crystal.atomic_numbers[bonding.near.senders[shell]]
        seen = _environment(bonding.near.distances[shell], bonding.near.vectors[shell], numbers)
        environments.setdefault(z, Counter())[seen] += 1
    clauses = []
    for z in sorted(environments)[:5]:
        words = min(environments[z].items(), key=lambda pair: (-pair[1], pair[0]))[0]
        several = "mostly " if len(environments[z]) > 1 else ""
        clauses.append(f"{SYMBOLS[z]} is {several}{words}")
    return "; ".join(clauses) + "."


def _environment(distances: NDArray[np.float64], vectors: NDArray[np.float64], numbers: NDArray[np.uint8]) -> str:
    """`bonded to 6 Cl (octahedral, 2.82 Å)`; with several partner elements, each has its own mean bond length."""
    if not len(distances):
        return "not bonded"
    of = {int(z): distances[numbers == z] for z in np.unique(numbers)}
    partners = [(len(lengths), SYMBOLS[z], float(lengths.mean())) for z, lengths in of.items()]
    if len(partners) == 1:
        count, symbol, length = partners[0]
        return f"bonded to {count} {symbol} ({shape(vectors)}, {length:.2f} Å)"
    return f"bonded to {_list([f'{n} {symbol} ({d:.2f} Å)' for n, symbol, d in partners])} ({shape(vectors)})"


def _packing(crystal: Crystal) -> str:
    """Packing density in words, from the volume per atom, which does not depend on the choice of cell."""
    per_atom = crystal.volume / max(sum(crystal.composition.values()), 1e-6)
    words = "densely packed" if per_atom < 12 else "moderately packed" if per_atom < 22 else "loosely packed"
    return f"{words}, {per_atom:.0f} Å³ per atom"

"""Captions that describe a crystal in up to five sentences; the same crystal always gets the same caption."""

from __future__ import annotations

from collections.abc import Callable

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.physics.compound_classes import ANIONS
from crystalign.physics.facts import CrystalFacts, Environment, bonded_to, crystal_facts, listed
from crystalign.physics.structure_types import PROTOTYPES
from crystalign.physics.symmetry import Symmetry

__all__ = [
    "ANIONS",
    "ELEMENTS",
    "PROTOTYPES",
    "bond_clause",
    "caption",
    "caption_of",
    "lattice_sentences",
    "packing",
    "packing_sentence",
]

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
NUMBER_WORDS = {2: "binary", 3: "ternary", 4: "quaternary"}
"""Number of elements → word."""


def caption(crystal: Crystal, symmetry: Symmetry) -> str:
    """Describe a crystal by its formula, compound class, space group, structure type, packing, lattice and bonds.

    Args:
        crystal: the structure.
        symmetry: the result of `crystalign.physics.symmetry.symmetry`.

    Returns:
        At most five sentences with fewer than a thousand characters: composition, symmetry, packing, lattice, bonds.
    """
    return caption_of(crystal_facts(crystal, symmetry))


def caption_of(facts: CrystalFacts) -> str:
    """The caption from the facts about a crystal."""
    kind = f" with the {facts.structure_type} structure" if facts.structure_type else ""
    names = listed([ELEMENTS[SYMBOLS.index(symbol) - 1] for symbol in facts.elements])
    group = f"{facts.spacegroup_symbol} ({facts.spacegroup_number})"
    sentences = [
        f"{facts.formula} is {_class(facts)} of {names}.",
        f"It crystallizes in the {facts.crystal_system} space group {group}{kind}.",
        f"{packing_sentence(facts)}.",
        *(f"{sentence}." for sentence in lattice_sentences(facts)),
        _coordination(facts),
    ]
    return " ".join(sentences)


def _class(facts: CrystalFacts) -> str:
    """`a form`, `a binary oxide`, `a quaternary phosphate hydroxide`."""
    if len(facts.elements) == 1:
        return "a form"
    return f"a {NUMBER_WORDS.get(len(facts.elements), 'multicomponent')} {facts.compound_class}"


def _coordination(facts: CrystalFacts) -> str:
    """`Na is bonded to 6 Cl (octahedral, 2.82 Å); Cl …`: the most common environment of up to five species."""
    return "; ".join(map(bond_clause, facts.environments)) + "."


def bond_clause(environment: Environment, symbol: Callable[[str], str] = str) -> str:
    """`Na is bonded to 6 Cl (octahedral, 2.82 Å)`; `symbol` writes the elements."""
    several = "" if environment.is_only else "mostly "
    around = bonded_to(environment.partners, environment.shape, symbol)
    return f"{symbol(environment.symbol)} is {several}{around}"


def packing(volume_per_atom: float) -> str:
    """Packing in words, from the volume per atom (Å³), which does not depend on the choice of cell."""
    return f"{'densely' if volume_per_atom < 12 else 'moderately' if volume_per_atom < 22 else 'loosely'} packed"


def packing_sentence(facts: CrystalFacts) -> str:
    """`The atoms are densely packed, 11 Å³ per atom`."""
    return f"The atoms are {packing(facts.volume_per_atom)}, {facts.volume_per_atom:.0f} Å³ per atom"


def lattice_sentences(facts: CrystalFacts) -> list[str]:
    """`The lattice parameters are 4.59 and 2.96 Å`; nothing for the monoclinic and triclinic systems."""
    if not facts.lattice:
        return []
    lengths = listed([f"{length:.2f}" for length in facts.lattice])
    return [f"The lattice parameter{' is' if len(facts.lattice) == 1 else 's are'} {lengths} Å"]

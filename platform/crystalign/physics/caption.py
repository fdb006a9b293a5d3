"""Captions: a crystal in four sentences, always the same for the same crystal."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal, pretty_formula
from crystalign.physics.neighbour_list import neighbours
from crystalign.physics.symmetry import Symmetry

PROTOTYPES = {
    "A:225:a": "face-centered cubic",
    "A:229:a": "body-centered cubic",
    "A:194:c": "hexagonal close-packed",
    "A:227:a": "diamond",
    "AB:225:a.b": "rock salt",
    "AB:221:a.b": "cesium chloride",
    "AB:216:a.c": "zinc blende",
    "AB:186:b.b": "wurtzite",
    "AB:194:a.c": "nickel arsenide",
    "AB2:225:a.c": "fluorite",
    "AB2:136:a.f": "rutile",
    "AB2:141:a.e": "anatase",
    "AB2:205:a.c": "pyrite",
    "AB2:164:a.d": "cadmium iodide",
    "AB2:227:a.d": "Laves phase",
    "ABC3:221:a.b.c": "cubic perovskite",
    "ABC3:62:a.c.cd": "orthorhombic perovskite",
    "AB2C4:227:a.d.e": "spinel",
    "ABC:216:a.b.c": "half-Heusler",
    "ABC2:225:a.b.c": "full-Heusler",
    "AB3:221:a.c": "ordered Cu3Au",
    "ABC2:166:a.b.c": "delafossite",
}
"""Names of common prototypes, under the keys that `symmetry` gives."""

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
"""Names by atomic number − 1."""

SHELL_GAP = 1.12
"""The first coordination shell ends where the next neighbour is farther by more than this factor."""
POLYHEDRA = {(2, 1): "linear", (4, 0): "tetrahedral", (4, 2): "square-planar", (6, 3): "octahedral"}
POLYHEDRA |= {(8, 4): "hexahedral", (12, 6): "cuboctahedral", (12, 3): "anticuboctahedral"}
"""Words for (neighbours, pairs of them on opposite sides)."""

ANIONS = {9: "fluoride", 17: "chloride", 35: "bromide", 53: "iodide", 8: "oxide", 16: "sulfide", 34: "selenide"}
ANIONS |= {52: "telluride", 7: "nitride", 15: "phosphide", 33: "arsenide", 51: "antimonide", 6: "carbide", 1: "hydride"}
"""What a compound is called after, the first that makes up more than a fifth of it."""

_SYMBOL = r"[PIFABCR][-/_\d][-/_\da-zA-Z]*|[PIFABCR][a-z][-/_\da-z]*\d[-/_\da-z]*|[PIFABCR](?:[mncabde]{1,3})\b"
_SYSTEMS = "cubic|tetragonal|orthorhombic|hexagonal|trigonal|rhombohedral|monoclinic|triclinic"
_MASKS = [
    (re.compile("|".join(sorted(map(re.escape, PROTOTYPES.values()), key=len, reverse=True)), re.IGNORECASE), "[type]"),
    (
        re.compile(
            rf"(?:\b(?:{_SYMBOL})\s+)?space[- ]group(?:\s+(?:no\.?|number))?(?:\s+(?:{_SYMBOL}|\d+))?(?:\s*\(\d+\))?"
        ),
        "space group [group]",
    ),
    (re.compile(rf"\b(?:{_SYSTEMS})\b", re.IGNORECASE), "[system]"),
    (re.compile(rf"\b(?:{'|'.join(ANIONS.values())})s?\b", re.IGNORECASE), "[class]"),
]


def caption(crystal: Crystal, symmetry: Symmetry) -> str:
    """What a crystallographer would say first: formula, space group, prototype, who bonds to whom, how dense.

    The coordination comes from neighbour shells: the shell of an atom ends at the first gap of
    12 % between successive distances. Length is bounded whatever the crystal.

    Args:
        crystal: the structure.
        symmetry: as `crystalign.physics.symmetry.symmetry` found it.

    Returns:
        Four sentences, below a thousand characters: what it is made of, its symmetry, its density, its bonds.
    """
    name = PROTOTYPES.get(symmetry.prototype or "")
    kind = f" with the {name} structure" if name else ""
    names = _list([ELEMENTS[z - 1] for z in crystal.composition])
    sentences = (
        f"{pretty_formula(crystal.formula)} is {_class(crystal)} of {names}.",
        f"It crystallizes in the {symmetry.crystal_system} space group {symmetry.symbol} ({symmetry.number}){kind}.",
        f"The atoms are {_packing(crystal)}.",
        _coordination(crystal),
    )
    return " ".join(sentences)


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _class(crystal: Crystal) -> str:
    """Element, binary, ternary, … by the anion that matters most."""
    composition = crystal.composition
    if len(composition) == 1:
        return "a form"
    count = {2: "binary", 3: "ternary", 4: "quaternary"}.get(len(composition), "multicomponent")
    share = {z: x / sum(composition.values()) for z, x in composition.items()}
    return f"a {count} {next((word for z, word in ANIONS.items() if share.get(z, 0) > 0.2), 'compound')}"


def _coordination(crystal: Crystal) -> str:
    """`Na is bonded to 6 Cl (octahedral, 2.82 Å); Cl …`: the commonest environment of each of up to five species."""
    found = neighbours(crystal, cutoff=6.0, k=16)
    bounds = np.searchsorted(found.receivers, np.arange(len(crystal) + 1))
    environments: dict[int, Counter[tuple[str, str, str]]] = {}
    for site, z in enumerate(crystal.atomic_numbers.tolist()):
        shell = slice(bounds[site], bounds[site + 1])
        seen = _environment(found.distances[shell], found.vectors[shell], crystal.atomic_numbers[found.senders[shell]])
        environments.setdefault(z, Counter())[seen] += 1
    clauses = []
    for z in sorted(environments)[:5]:
        partners, shape, length = min(environments[z].items(), key=lambda pair: (-pair[1], pair[0]))[0]
        several = "mostly " if len(environments[z]) > 1 else ""
        clauses.append(f"{SYMBOLS[z]} is {several}bonded to {partners} ({shape}, {length} Å)")
    return "; ".join(clauses) + "."


def _environment(
    distances: NDArray[np.float64], vectors: NDArray[np.float64], numbers: NDArray[np.uint8]
) -> tuple[str, str, str]:
    """Partners, shape and mean length of one first shell."""
    gaps = np.flatnonzero(distances[1:] > SHELL_GAP * distances[:-1])
    n = int(gaps[0]) + 1 if len(gaps) else len(distances)
    partners = Counter(numbers[:n].tolist())
    words = _list([f"{count} {SYMBOLS[z]}" for z, count in sorted(partners.items())])
    unit = vectors[:n] / distances[:n, None]
    opposite = int((unit @ unit.T < -0.97).sum()) // 2
    even = n == 2 or np.linalg.norm(unit.sum(axis=0)) < 0.6  # neighbours on all sides
    shape = POLYHEDRA.get((n, opposite), f"{n}-fold") if even else f"{n}-fold"
    return words, shape, f"{distances[:n].mean():.2f}"


def _packing(crystal: Crystal) -> str:
    """Crowding in words; per atom, so that it does not depend on the cell."""
    per_atom = crystal.volume / max(sum(crystal.composition.values()), 1e-6)
    words = "densely packed" if per_atom < 12 else "moderately packed" if per_atom < 22 else "loosely packed"
    return f"{words}, {per_atom:.0f} Å³ per atom"


def mask_caption(text: str, crystal: Crystal) -> str:
    """The text without formula, elements, prototype, space group and crystal system.

    What remains are coordination numbers, lengths and shapes: retrieval with masked captions
    shows what is learned beyond reading the formula off.

    Args:
        text: any description.
        crystal: whose formula and elements are taken out.
    """
    symbols = sorted((SYMBOLS[z] for z in crystal.composition), key=len, reverse=True)
    names = [ELEMENTS[z - 1] for z in crystal.composition]
    masked = text.replace(pretty_formula(crystal.formula), "[formula]").replace(crystal.formula, "[formula]")
    for pattern, word in _MASKS:
        masked = pattern.sub(word, masked)
    masked = re.sub(rf"\b(?:{'|'.join(names)})\b", "[element]", masked, flags=re.IGNORECASE)
    masked = re.sub(rf"(?<![A-Za-z])(?:(?:{'|'.join(symbols)})\d*\.?\d*){{2,}}(?![a-z])", "[formula]", masked)
    return re.sub(rf"(?<![A-Za-z])(?:{'|'.join(symbols)})(?![a-z])", "[element]", masked)

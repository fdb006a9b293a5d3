"""Keywords of a crystal for filters: compound class, structure type, mineral names and dimensionality."""

from __future__ import annotations

import functools
import re

from crystalign.formula import read_formula
from crystalign.minerals import minerals
from crystalign.physics.compound_classes import CLASS_NAMES, UNCERTAIN
from crystalign.physics.facts import CrystalFacts
from crystalign.physics.structure_types import TYPE_NAMES

TYPE_OF_MINERAL: dict[str, str | None] = {
    **dict.fromkeys(["bromellite", "cadmoselite", "greenockite", "iodargyrite", "zincite"], "wurtzite"),
    **dict.fromkeys(["forsterite", "monticellite", "triphylite"], "olivine"),
    "cristobalite": "alpha cristobalite",
    "quartz": "alpha quartz",
    "tridymite": "beta tridymite",
    "goethite": "diaspore",
    "diopside": "clinopyroxene",
    "niter": "aragonite",
    "nickeline": "nickel arsenide",
    "romarchite": "litharge",
    "tellurobismuthite": "tetradymite",
    "covellite": None,
    "tetradymite": None,
}
"""Mineral → its structure type, where other structures have the same formula and space group. A mineral after which a
type is named needs that type, too: graphite is no lonsdaleite."""
_PAIRS = "76 78, 91 95, 92 96, 144 145, 151 153, 152 154, 169 170, 171 172, 178 179, 180 181, 212 213"
MIRROR_IMAGES = {int(a): int(b) for pair in _PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
"""Space group number → that of the mirror image, for the eleven enantiomorphic pairs."""


def keywords(facts: CrystalFacts) -> tuple[str, ...]:
    """The keywords, each with its kind: `class:oxide`, `type:rutile`, `mineral:cassiterite`, `dimensionality:layered`.

    A class of several words gives a keyword for each, and one for the whole: `class:phosphate`, `class:hydroxide` and
    `whole:phosphate hydroxide`. A mineral is named if formula and space group agree and, where several structures of
    one formula share a space group, the structure type.
    """
    classes = [] if facts.compound_class == UNCERTAIN else _class_pattern().findall(facts.compound_class)
    named = [name for name in _minerals_of(facts.formula, facts.spacegroup_number) if _fits(name, facts.structure_type)]
    return (
        *(f"class:{word}" for word in classes),
        *([f"whole:{facts.compound_class}"] if classes else []),
        *([f"type:{facts.structure_type}"] if facts.structure_type else []),
        *(f"mineral:{name}" for name in named),
        f"dimensionality:{facts.dimensionality}",
    )


@functools.cache
def _class_pattern() -> re.Pattern[str]:
    longest_first = sorted(CLASS_NAMES, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")


def _fits(mineral: str, structure_type: str | None) -> bool:
    if mineral in TYPE_OF_MINERAL:
        return TYPE_OF_MINERAL[mineral] == structure_type
    return mineral not in TYPE_NAMES or mineral == structure_type


@functools.lru_cache(maxsize=4096)
def _minerals_of(formula: str, spacegroup_number: int) -> tuple[str, ...]:
    return _minerals().get((read_formula(formula).reduced, spacegroup_number), ())


@functools.cache
def _minerals() -> dict[tuple[str, int], tuple[str, ...]]:
    """Reduced formula and space group number → names; a mirror image has the same name."""
    names: dict[tuple[str, int], tuple[str, ...]] = {}
    for mineral in minerals():
        number, formula = mineral.spacegroup_number, read_formula(mineral.formula).reduced
        for one in {number, MIRROR_IMAGES.get(number, number)}:
            names[formula, one] = (*names.get((formula, one), ()), mineral.name)
    return names

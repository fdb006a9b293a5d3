"""Keywords of a crystal for filters: compound class, structure type, mineral names and dimensionality."""

from __future__ import annotations

import functools
import re

from crystalign.formula import read_formula
from crystalign.minerals import minerals
from crystalign.physics.compound_classes import CLASS_NAMES, UNCERTAIN
from crystalign.physics.facts import CrystalFacts


def keywords(facts: CrystalFacts) -> tuple[str, ...]:
    """The keywords, each with its kind: `class:oxide`, `type:rutile`, `mineral:cassiterite`, `dimensionality:layered`.

    A class of several words gives a keyword for each: `phosphate hydroxide` is both. A mineral is named if formula and
    space group agree.
    """
    classes = [] if facts.compound_class == UNCERTAIN else _class_pattern().findall(facts.compound_class)
    named = _minerals().get((read_formula(facts.formula).reduced, facts.spacegroup_number), ())
    return (
        *(f"class:{word}" for word in classes),
        *([f"type:{facts.structure_type}"] if facts.structure_type else []),
        *(f"mineral:{name}" for name in named),
        f"dimensionality:{facts.dimensionality}",
    )


@functools.cache
def _class_pattern() -> re.Pattern[str]:
    longest_first = sorted(CLASS_NAMES, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])")


@functools.cache
def _minerals() -> dict[tuple[str, int], tuple[str, ...]]:
    """Reduced formula and space group number → names."""
    names: dict[tuple[str, int], tuple[str, ...]] = {}
    for mineral in minerals():
        key = (read_formula(mineral.formula).reduced, mineral.spacegroup_number)
        names[key] = (*names.get(key, ()), mineral.name)
    return names

"""What a text says about a crystal, as claims that can be checked against the facts of other crystals.

`draw` writes a text about a crystal and lists its claims. A text fits a crystal if its claims are among `claims` of
that crystal. Numbers (density, bond lengths) are no claims, because no two crystals agree in them exactly.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from crystalign.crystal import SYMBOLS
from crystalign.physics.caption import ELEMENTS
from crystalign.physics.facts import CrystalFacts
from crystalign.text.keywords import keywords
from crystalign.text.phrasing import BEFORE_NOUN, BRITISH, COUNTS, GROUPS, PARENTS, POLYHEDRA, STATEMENTS, phrase

LONGEST = 20
"""Number of texts that are drawn until one of them claims something."""


class Drawn(NamedTuple):
    """A text about a crystal."""

    text: str
    claims: frozenset[str]
    """What it claims; not empty."""


def draw(facts: CrystalFacts, rng: np.random.Generator) -> Drawn | None:
    """A text about a crystal with its claims; None if what can be said of it are numbers alone.

    Args:
        facts: the facts.
        rng: source of the random choices.
    """
    wordings = _wordings(facts)
    for _ in range(LONGEST):
        text = phrase(facts, rng)
        if claimed := frozenset(claim for claim, words in wordings.items() if any(_says(text, word) for word in words)):
            return Drawn(text, claimed)
    return None


def claims(facts: CrystalFacts) -> frozenset[str]:
    """Everything that a text of `draw` could claim of a crystal and that holds."""
    return frozenset(_wordings(facts))


def _wordings(facts: CrystalFacts) -> dict[str, tuple[str, ...]]:
    """Each claim that holds, with the words that state it."""
    said: dict[str, tuple[str, ...]] = {}
    said |= {f"element {s}": (s, ELEMENTS[SYMBOLS.index(s) - 1]) for s in facts.elements}
    said |= {f"formula {facts.formula}": (facts.formula,)}
    said |= {f"one of the {name} elements": (name,) for name, set_ in GROUPS.items() if set_ & set(facts.elements)}
    said |= {f"class {noun}": (noun, f"{noun}s") for noun in _nouns(facts)}
    if facts.compound_class:
        count = COUNTS.get(len(facts.elements), "multicomponent")
        said[f"{count} compound"] = (count,)
    shown = (*BEFORE_NOUN[facts.dimensionality], *STATEMENTS[facts.dimensionality])
    said[f"dimensionality {facts.dimensionality}"] = shown
    named = [word.partition(":")[2] for word in keywords(facts) if word.startswith(("type:", "mineral:"))]
    said |= {f"named {name}": (name,) for name in named}
    said[f"system {facts.crystal_system}"] = (facts.crystal_system,)
    number = f"space group {facts.spacegroup_number}"
    said[f"space group {facts.spacegroup_number}"] = (facts.spacegroup_symbol, number)
    return said | _coordinations(facts)


def _nouns(facts: CrystalFacts) -> list[str]:
    """The class, its parts and their family: `phosphate hydroxide`, `phosphate`, `hydroxide`; `chloride`, `halide`."""
    parts = {word.removeprefix("class:") for word in keywords(facts) if word.startswith("class:")}
    parents = [parent for parent, members in PARENTS.items() if parts and parts <= members]
    return [noun for noun in dict.fromkeys([facts.compound_class, *sorted(parts), *parents]) if noun]


def _coordinations(facts: CrystalFacts) -> dict[str, tuple[str, ...]]:
    said: dict[str, tuple[str, ...]] = {}
    for one in facts.environments:
        name = ELEMENTS[SYMBOLS.index(one.symbol) - 1]
        ways = (f"{one.shape} {name}", f"{name} has {one.shape} coordination", f"{name} has mostly {one.shape}")
        if one.partners:
            said[f"{one.symbol} {one.shape}"] = ways
        if len(one.partners) == 1 and one.shape in POLYHEDRA:
            (partner,) = one.partners
            polyhedra = f"{one.symbol}{partner.symbol}{partner.count} {POLYHEDRA[one.shape]}"
            said[f"{one.symbol} with {partner.count} {partner.symbol}"] = (polyhedra,)
    return said


def _says(text: str, words: str) -> bool:
    """Whether a text holds these words as such. Only the first letter of a sentence may be a capital."""
    spellings = [words, words[:1].upper() + words[1:]] if words[:1].islower() and len(words) > 2 else [words]
    return any(
        re.search(rf"(?<![\w]){re.escape(one)}(?![\w])", candidate)
        for one in spellings
        for candidate in (text, _american(text))
    )


def _american(text: str) -> str:
    for american, british in BRITISH.items():
        text = text.replace(british, american)
    return text

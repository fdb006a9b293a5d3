"""What a text about a crystal claims, and everything that could be claimed of a crystal.

A claim is a piece of text, such as `lithium`, `layered` or `space group Fm-3m`, in American spelling. A text fits every
crystal of which all its claims hold: `cubic oxide` fits thousands. Training uses this to tell which crystals of a batch
are not negatives of a text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from crystalign.physics.caption import bond_clause, lattice_sentences, packing_sentence
from crystalign.physics.facts import CrystalFacts
from crystalign.text.masked_caption import masked_bond_clause
from crystalign.text.phrasing import (
    BEFORE_NOUN,
    BRITISH,
    COUNTS,
    GROUPS,
    STATEMENTS,
    attributes,
    bond_sentences,
    density_sentence,
    element_name,
    has_dimensionality,
    names,
    nouns,
    phrase,
)
from crystalign.text.property_words import BEFORE_NOUN as PROPERTY_WORDS
from crystalign.text.property_words import sayings
from crystalign.text.quantities import find_quantities

_SYSTEM = re.compile(r"(?<![\w-])[A-Z][a-z]?(?:-[A-Z][a-z]?)+(?![\w-])")
_AMERICAN = {british: american for american, british in BRITISH.items()}


DRAWS = 20
"""Texts that `draw` tries until one of them claims something."""


class Drawn(NamedTuple):
    """A text about a crystal."""

    text: str
    claims: frozenset[str]
    """What it claims, without numbers; not empty."""


def draw(facts: CrystalFacts, rng: np.random.Generator) -> Drawn | None:
    """A text of `phrase` with its claims; None if what can be said of the crystal are numbers alone.

    Numbers (density, bond lengths) are left out, because no two crystals agree in them exactly; so are words for
    properties, because the properties of other crystals may be unknown.
    """
    facts = facts.model_copy(update={"property_words": ()})
    for _ in range(DRAWS):
        text = phrase(facts, rng)
        if made := without_quantities(claims(text, facts)):
            return Drawn(text, made)
    return None


def without_quantities(pieces: frozenset[str]) -> frozenset[str]:
    """The claims that hold no measured number."""
    return frozenset(piece for piece in pieces if not any(find_quantities(piece)))


def claims(text: str, facts: CrystalFacts) -> frozenset[str]:
    """The claims of a text that was made from the facts, by `phrase`, `caption_of` or `masked_caption`.

    Longer pieces are found first: `rutile-type` is one claim, not `rutile`. Other words are ignored.
    """
    left = text
    for british, american in _AMERICAN.items():
        left = left.replace(british, american)
    found = set()
    for match in _SYSTEM.finditer(left):
        if sorted(match[0].split("-")) == sorted(facts.elements):
            found.add(_system(facts))
            left = left.replace(match[0], " " * len(match[0]))
    for piece in sorted(claimable(facts), key=lambda piece: (-len(piece), piece)):
        left, is_found = _without(left, piece)
        if is_found:
            found.add(piece)
    return frozenset(found)


def claimable(facts: CrystalFacts) -> frozenset[str]:
    """Everything that `phrase`, `caption_of` and `masked_caption` can claim of a crystal."""
    elements = set(facts.elements)
    pieces = {facts.formula, facts.crystal_system, _system(facts), *elements, *map(element_name, elements)}
    pieces |= {name for name, symbols in GROUPS.items() if symbols & elements}
    if facts.compound_class:
        pieces |= {*nouns(facts), COUNTS.get(len(elements), "multicomponent")}
    else:
        pieces |= {"elemental", "form of"}
    if has_dimensionality(facts):
        pieces |= {*BEFORE_NOUN[facts.dimensionality], *STATEMENTS[facts.dimensionality]}
    if (kind := facts.structure_type) is not None:
        pieces |= {kind, f"{kind}-type"}
    pieces |= {facts.spacegroup_symbol, f"({facts.spacegroup_number})", f"No. {facts.spacegroup_number}"}
    pieces |= {*names(facts), *attributes(facts), density_sentence(facts), *packing_sentence(facts).split(", ")}
    pieces |= {*lattice_sentences(facts), *sayings(facts.property_words)}
    for environment in facts.environments:
        pieces |= {bond_clause(environment), masked_bond_clause(environment)}
        pieces |= {masked_bond_clause(environment, lengths=False), *bond_sentences(environment)}
    return frozenset(pieces)


def possible(facts: CrystalFacts) -> frozenset[str]:
    """Everything that can be claimed of a crystal, and words for properties of which nothing is known."""
    known = {*facts.property_words, *facts.wrong_property_words}
    return claimable(facts) | sayings([name for name in PROPERTY_WORDS if name not in known])


def _system(facts: CrystalFacts) -> str:
    """`Co-Li-O`, for the elements in any order."""
    return "-".join(sorted(facts.elements))


def _without(text: str, piece: str) -> tuple[str, bool]:
    """The text with spaces in place of a piece, wherever it stands alone, and whether it does."""
    is_found, start = False, text.find(piece)
    while start >= 0:
        stop = start + len(piece)
        goes_on = _joins(text[start - 1 : start]) and _joins(piece[0])
        goes_on = goes_on or (_joins(text[stop : stop + 1]) and _joins(piece[-1]))
        if not goes_on:
            text, is_found = f"{text[:start]}{' ' * len(piece)}{text[stop:]}", True
        start = text.find(piece, start + 1)
    return text, is_found


def _joins(letter: str) -> bool:
    """Whether a letter continues a word."""
    return letter.isalnum() or letter == "-"

"""The elements that the name of a compound class implies: a phosphate holds phosphorus and oxygen."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from crystalign.crystal import SYMBOLS
from crystalign.physics.compound_classes import ANIONS, OXYANIONS, TETRAHEDRA

OTHERS = {
    "oxyhydroxide": "O H",
    "oxalate": "C O",
    "cyanide": "C N",
    "thiocyanate": "S C N",
    "cyanate": "O C N",
    "cyanamide": "C N",
    "carbonyl": "C O",
    "azide": "N",
    "amide": "N H",
    "imide": "N H",
    "hydroxide": "O H",
    "peroxide": "O",
    "superoxide": "O",
    "borohydride": "B H",
    "hydroborate": "B H",
    "hydrate": "H O",
    "hydrocarbon": "C H",
    "organic": "C H",
    "metal-organic": "C H",
}
"""Word of a class → symbols, for the words that no table of `compound_classes` has."""


@functools.cache
def elements_of_words() -> Mapping[str, frozenset[str]]:
    """Each word of a class name that implies elements → their symbols."""
    words = {word: {SYMBOLS[z]} for z, word in ANIONS.items()}
    words |= {f"oxy{word}": {SYMBOLS[z], "O"} for z, word in ANIONS.items() if word != "oxide"}
    words |= {word: {centre, "O"} for centre, named in OXYANIONS.items() for word in named.values()}
    words |= {word: {centre, "O"} for centre, (word, _) in TETRAHEDRA.items()}
    words |= {word: set(symbols.split()) for word, symbols in OTHERS.items()}
    return {word: frozenset(symbols) for word, symbols in words.items()}


def without_anions(compound_class: str, elements: Sequence[str]) -> list[str]:
    """The elements that the class does not imply: `phosphate` and Li, Fe, P, O give Li, Fe."""
    implied = {symbol for word in compound_class.split() for symbol in elements_of_words().get(word, ())}
    return [symbol for symbol in elements if symbol not in implied]

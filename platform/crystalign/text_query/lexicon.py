"""All words and phrases that are known, by their squeezed form."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from crystalign.crystal import SYMBOLS
from crystalign.minerals import minerals
from crystalign.text_query.anion_words import Anion, anions, class_meanings
from crystalign.text_query.chips import Meaning
from crystalign.text_query.element_words import Element, element_names, group_meanings
from crystalign.text_query.mineral_words import CASE_SENSITIVE, SYSTEMS, compound_names, mineral_meanings
from crystalign.text_query.phrases import NO_CHIP, phrase_meanings
from crystalign.text_query.property_words import property_meanings
from crystalign.text_query.structure_words import TYPE_NAMES, structure_meanings
from crystalign.text_query.symmetry_words import symmetry_meanings
from crystalign.text_query.words import Word, singulars, squeezed

LONGEST_PHRASE = 6
"""Largest number of words of a phrase."""
GLUE = frozenset(
    """a all allotrope allotropes also an and any are as at based be bearing between both but by called can candidate
    candidates check class classes composed compound compounds consist consisting contain containing contains
    could crystal crystalline crystals data database default display either element elements entries entry every
    examples exclusively exhibit exhibiting exhibits families family find for form formed forms formula from get
    give group grouped has have having i in include includes including ion ions is it its just kind kinds known
    lattice like list looking made make material materials me must my named need of on only or phase phases
    please plus polymorph polymorphs polytype polytypes possessing prototype rich search searching shall should
    show similar solely solid solids some something sort sorts space structure structured structures system
    systems that the their them then there these they things this those to type types want what where which who
    whose with within would you very""".split()  # noqa: SIM905 (words)
)
"""Words that carry no meaning of their own in a query and are left out of its rest."""
NEGATIONS = {
    "without",
    "no",
    "non",
    "not",
    "except",
    "excluding",
    "lacking",
    "exclude",
    "minus",
    "sans",
    "never",
    "neither",
}
NEGATIONS |= set(
    """nothingwith nothingcontaining anythingbut anythingexcept everythingbut allbut insteadof ratherthan inplaceof
    apartfrom asidefrom absenceof donot dont doesnt isnt arent cannot cant mustnt shouldnt avoid avoids avoiding lack
    lacks omit omitting""".split()  # noqa: SIM905 (words)
)
NEGATIONS |= {"freeof", "butnot", "exceptfor", "otherthan", "notcontaining", "doesnotcontain", "withoutany", "devoidof"}
"""Words, squeezed, that exclude what follows."""
ALIKE = frozenset(
    """isostructuralwith isostructuralto isotypicwith isotypicto isomorphouswith isomorphousto thesamestructureas
    samestructureas thesamestructuretypeas samestructuretypeas thesametypeas sametypeas thesamecrystalstructureas
    samecrystalstructureas samestructurelike structurelike""".split()  # noqa: SIM905 (words)
)
"""Phrases, squeezed, behind which a compound stands for its structure type."""
TYPE_WORDS = frozenset(
    ["type", "structure", "structuretype", "structured", "prototype", "like", "typ", "lattice", "phase", "family"]
)
"""Words behind the name of a mineral or a formula that say that the structure type is meant."""
CONTAINING = frozenset(["containing", "based", "rich", "bearing", "contain", "contains", "doped", "including"])
CONTAINING |= {"compound", "compounds", "ion", "ions", "battery", "batteries", "atom", "atoms"}
ONLY = frozenset(["only", "just", "exclusively", "solely"])
"""Words beside elements that say that there are no others."""


class Entry(NamedTuple):
    """A known phrase that was found in a query."""

    words: int
    """Number of words."""
    key: str
    """Its key in the tables of the lexicon: the phrase in the singular, as `squeezed` writes it."""
    plural: bool
    """Whether it was typed in the plural."""


class Lexicon(NamedTuple):
    """Squeezed phrase → what it means."""

    elements: dict[str, Element]
    """Names and adjectives of elements."""
    anions: dict[str, Anion]
    """Names of anions."""
    meanings: dict[str, Meaning]
    """Everything else."""
    types: dict[str, Meaning]
    """Structure types alone, for `rutile type`."""
    silent: frozenset[str]
    """Phrases that are searched as text although their parts are known: `topological insulator`."""
    cased: dict[str, frozenset[str]]
    """Key → the spellings in which the phrase is known, for abbreviations that are words in lower case: `MAX`, `TM`."""
    mixtures: frozenset[str]
    """Names of mixtures that would also be formulas, such as `InGaAs`."""

    def knows(self, key: str) -> bool:
        """Whether a squeezed phrase is known."""
        return key in self.meanings or key in self.elements or key in self.anions or key in self.silent

    def find(self, words: tuple[Word, ...], at: int) -> Entry | None:
        """The longest known phrase that begins with a word; spaces and hyphens within it do not matter."""
        found = None
        key = ""
        symbol = words[at].text[:1].isupper() and words[at].text in SYMBOLS
        for count, word in enumerate(words[at : at + LONGEST_PHRASE], 1):
            if count > 1 and word.apart:
                break
            for last in singulars(word.folded):
                whole = key + last
                if symbol and count > 1 and whole in _in_one_word():
                    continue  # Li thiophosphate is no lithiophosphate
                if self.knows(whole) and self._is_cased(whole, words[at : at + count]):
                    found = Entry(count, whole, last != word.folded)
                    break
            key += word.folded
        return found

    def _is_cased(self, key: str, words: tuple[Word, ...]) -> bool:
        wanted = self.cased.get(key)
        return wanted is None or "".join(word.text for word in words) in wanted


@functools.cache
def _in_one_word() -> frozenset[str]:
    return frozenset(squeezed(mineral.name) for mineral in minerals() if mineral.name.isalpha())


@functools.cache
def lexicon() -> Lexicon:
    """The lexicon, built once."""
    types = structure_meanings()
    meanings = {
        **types,
        **group_meanings(),
        **property_meanings(),
        **mineral_meanings(),
        **symmetry_meanings(),
        **class_meanings(),
        **compound_names(),
        **phrase_meanings(),
    }
    for key in _compounds_among(types):
        del meanings[key]
    meanings |= {key: types[key] for key in ("perovskite", "garnet", "spinel", "olivine") if key in types}
    cased: dict[str, set[str]] = {}
    for name in CASE_SENSITIVE:
        cased.setdefault(squeezed(name), set()).update({name, f"{name}s"})
    return Lexicon(
        element_names(),
        anions(),
        meanings,
        types,
        frozenset(squeezed(phrase) for phrase in NO_CHIP.split(",")),
        {key: frozenset(names) for key, names in cased.items()},
        frozenset(_names_of_mixtures()),
    )


def _compounds_among(types: dict[str, Meaning]) -> set[str]:
    """Structure types that are named after a compound, such as cesium chloride: the name alone is the compound."""
    known = {*element_names(), *anions()}
    return {squeezed(name) for name in TYPE_NAMES if all(squeezed(word) in known for word in name.split())} & set(types)


def _names_of_mixtures() -> Iterator[str]:
    known = compound_names()
    for row in SYSTEMS.split(","):
        first = squeezed(row.split()[0])
        if first in known:
            yield first

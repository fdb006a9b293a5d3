"""Read the words of a query from left to right into items: elements, anions, phrases, formulas, symbols, glue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from crystalign.crystal import SYMBOLS
from crystalign.formula import MAX_FORMULA
from crystalign.text_query.assignments import read_assignment
from crystalign.text_query.chips import Meaning
from crystalign.text_query.comparisons import (
    compared_after,
    compared_around,
    compared_before,
    quantity_of_symbol,
)
from crystalign.text_query.element_words import LOWER_CASE, WORDLIKE, Element
from crystalign.text_query.formulas import find_formula
from crystalign.text_query.lattice_words import read_lattice
from crystalign.text_query.lexicon import ALIKE, GLUE, NEGATIONS, TYPE_WORDS, Entry, lexicon
from crystalign.text_query.periodic_words import read_periodic
from crystalign.text_query.property_words import quantity_names
from crystalign.text_query.prototype_words import strukturbericht_prototypes
from crystalign.text_query.structure_words import strukturbericht, type_meaning
from crystalign.text_query.symmetry_words import find_space_group, schoenflies_classes, space_group_meaning
from crystalign.text_query.words import Word, Words

_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7}
_SYMBOLS = frozenset(SYMBOLS[1:104])
_CAPITAL_WORDS = frozenset(["IN", "OF", "IS", "ON", "IF", "OR", "AS", "AT", "BY", "NO"])
_PREFIXED = ("dop", "substitut", "crystal", "exist", "deposit")
"""What follows `co-` when it is no cobalt."""
_CONSTITUENT = (
    *("based", "dop", "rich", "free", "contain", "bearing", "poor", "deficient", "substitut", "alloy", "stabili"),
    *("ion", "intercalat", "termina", "excess", "mediated", "metal", "compound", "dimer", "bonded", "less", "and"),
)
"""Beginnings of words after which the letter before the hyphen is an element: `N-doped`, `K-intercalated`."""
_NUMBER_FOLLOWS = re.compile(r"\s*[-+]?\d")
_TAKES_AN_ELEMENT = frozenset(["with", "containing", "contains", "without", "no"])
_SIGNS = frozenset("<>≤≥=≈~")
_UNIT = re.compile(r"([A-Z][a-z]?)\d{0,3}")
MAX_SPACED = 8
"""Largest number of elements of a formula that is typed with spaces."""


_ID = re.compile(r"(?:mp|mvc|cod|icsd|oqmd|jvasp|agm|wbm|aflow)-\d{1,9}(?![\w.])", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """A part of the query."""

    kind: str
    """element, anion, meaning, formula, system, negation, alike, free, and, or, of, glue, or word."""
    first: int
    """Its first word."""
    last: int
    """The word behind its last one."""
    value: Any = None
    """An `Element`, `Anion`, `Meaning` or `Found`."""
    key: str = ""
    """The squeezed phrase."""
    plural: bool = False
    """Whether it is in the plural."""
    symbol: bool = False
    """Whether an element was typed as its symbol."""


def read_items(words: Words) -> list[Item]:
    """The items of a query, in order; together they cover all words."""
    items: list[Item] = []
    at = 0
    while at < len(words.words):
        item = _oxidation_state(words, at, items) or _read(words, at)
        if item.key == "oxidation state":  # belongs to the element before: iron(III)
            items[-1] = replace(items[-1], last=item.last, value=items[-1].value._replace(valence=item.value.valence))
        else:
            items.append(item)
        at = item.last
    return items


def _oxidation_state(words: Words, at: int, items: Sequence[Item]) -> Item | None:
    """The numeral in brackets behind an element."""
    word = words.words[at]
    if word.folded in _ROMAN and items and items[-1].kind == "element" and words.text[word.start - 1] == "(":
        return Item("element", at, at + 1, Element("", _ROMAN[word.folded]), "oxidation state")
    return None


def _read(words: Words, at: int) -> Item:
    """The item that begins with a word."""
    word = words.words[at]
    if len(word.text) > MAX_FORMULA:
        return Item("word", at, at + 1)
    entry = lexicon().find(words.words, at)
    return (
        _space_group(words, at)
        or _assignment(words, at)
        or _alike(words, at)
        or _negation(words, at, entry)
        or _compared(words, at, entry)
        or _strukturbericht(words, at)
        or _identifier(words, at)
        or _spaced_formula(words, at)
        or _formula(words, at, entry)
        or (entry and _known(entry, at))
        or _element(words, at)
        or _glue(word, at)
    )


def _space_group(words: Words, at: int) -> Item | None:
    if lattice := read_lattice(words.text, words.words[at].start, schoenflies_classes()):
        return Item("meaning", at, _behind(words, at, lattice.end), lattice.meaning)
    if periodic := read_periodic(words.text, words.words[at].start):
        return Item("meaning", at, _behind(words, at, periodic.end), periodic.meaning)
    group = find_space_group(words.text, words.words[at].start)
    return group and Item("meaning", at, _behind(words, at, group[1]), space_group_meaning(group[0]))


def _assignment(words: Words, at: int) -> Item | None:
    """What a letter of a formula stands for: `X = Cl or Br`."""
    found = read_assignment(words, at)
    return found and Item("meaning", at, found[1], found[0])


def _alike(words: Words, at: int) -> Item | None:
    """`isostructural with`, `same structure as`: the structure of what follows is meant."""
    key = ""
    for count, word in enumerate(words.words[at : at + 5], 1):
        key += word.folded
        if key in ALIKE and at + count < len(words.words):
            return Item("alike", at, at + count)
    return None


def _formula(words: Words, at: int, entry: Entry | None) -> Item | None:
    """A formula or a chemical system, unless a known phrase is the better reading."""
    word = words.words[at]
    if word.text in _CAPITAL_WORDS and (len(words.words) > 1 or word.text not in {"NO", "IN"}):
        return None
    formula = find_formula(words.text, word.start)
    if formula is None or _is_shouted(words, at):
        return None
    last = _behind(words, at, formula.end)
    if entry and _outweighs(entry, word, last - at):
        return None
    return Item("system" if formula.elements else "formula", at, last, formula)


def _spaced_formula(words: Words, at: int) -> Item | None:
    """A formula with spaces between its elements: `Fe2 O3`, `Li Co O2`; at least one amount must be there."""
    pieces: list[str] = []
    for word in words.words[at : at + MAX_SPACED]:
        match = _UNIT.fullmatch(word.text)
        if match is None or match[1] not in _SYMBOLS or (pieces and (word.apart or word.hyphenated)):
            break
        pieces.append(word.text)
    joined = "".join(pieces)
    if len(pieces) < 2 or not any(c.isdigit() for c in joined):
        return None
    formula = find_formula(joined, 0)
    if formula is None or not formula.reduced or formula.end != len(joined):
        return None
    return Item("formula", at, at + len(pieces), formula)


def _is_shouted(words: Words, at: int) -> bool:
    """Whether a word such as `CO` is the symbol of an element in capitals, like the words beside it: `LI CO O`."""
    near = [words.words[i] for i in (at - 1, at + 1) if 0 <= i < len(words.words)]
    pieces = [word.text for word in (words.words[at], *near)]
    symbols = [text.isupper() and len(text) == 2 and text.capitalize() in _SYMBOLS for text in pieces]
    return symbols[0] and any(symbols[1:])


def _element(words: Words, at: int) -> Item | None:
    symbol = _symbol(words, at)
    return Item("element", at, at + 1, Element(symbol), symbol=True) if symbol else None


def _outweighs(entry: Entry, word: Word, count: int) -> bool:
    """Whether a known phrase is the better reading than a formula of `count` words."""
    if entry.words != count:
        return entry.words > count
    mixed = any(c.isupper() for c in word.text[1:]) and not word.text.isupper()
    return not mixed or entry.key in lexicon().mixtures or not _is_element_word(entry.key)


def _is_element_word(key: str) -> bool:
    """Whether a phrase is also the name of an element, as tin and TiN."""
    return key in lexicon().elements


def _behind(words: Words, at: int, end: int) -> int:
    """The first word that begins at or behind a place of the text; at least the next one."""
    last = at + 1
    while last < len(words.words) and words.words[last].start < end:
        last += 1
    return last


def _negation(words: Words, at: int, entry: Entry | None) -> Item | None:
    """`without`, `no`, `free of`; not in `no band gap`, which has a meaning of its own, nor in the symbol `No`."""
    key = ""
    found = 0
    for count, word in enumerate(words.words[at : at + 3], 1):
        key += word.folded
        if key in NEGATIONS:
            found = count
    if not found or at + found >= len(words.words):
        return None
    if words.words[at].text == "No" and _symbol(words, at):
        return None
    if entry and entry.words > found and entry.key in lexicon().meanings:
        return None
    return Item("negation", at, at + found)


def _compared(words: Words, at: int, entry: Entry | None) -> Item | None:
    """A comparison of a property, before or behind its name."""
    names = quantity_names()
    word = words.words[at]
    key, quantity, count = "", "", 0
    for number, next_word in enumerate(words.words[at : at + 5], 1):
        if number > 1 and next_word.apart:
            break
        key += next_word.folded
        if key in names:
            quantity, count = names[key], number
    if not quantity and (quantity := quantity_of_symbol(words, at)):
        count = 1
    if quantity:
        compared = compared_after(words, quantity, words.words[at + count - 1].end)
        if compared:
            return Item("meaning", at, _behind(words, at + count - 1, compared.end), compared.meaning)
        return Item("word", at, at + count) if entry is None else None
    starts = word.text[0].isdigit() or word.text[0] in _SIGNS or word.folded in _STARTS
    if not starts:
        return None
    if compared := compared_around(words, word.start, names) or compared_before(words, word.start, names):
        return Item("meaning", at, _behind(words, at, compared.end), compared.meaning)
    return None


_STARTS = frozenset(
    """above over greater larger more higher at minimum not no below under less smaller lower fewer up maximum exactly
    about around near roughly between from one two three four five six seven eight nine ten eleven twelve""".split()  # noqa: SIM905
)
"""First words of a comparison."""


def _known(entry: Entry, at: int) -> Item | None:
    """The item of a known phrase."""
    known, last = lexicon(), at + entry.words
    if entry.key in known.silent:
        return Item("word", at, last)
    for kind, table in (("anion", known.anions), ("element", known.elements), ("meaning", known.meanings)):
        if entry.key in table:
            return Item(kind, at, last, table[entry.key], entry.key, entry.plural)
    return None


def _symbol(words: Words, at: int) -> str:
    """The element symbol that a word stands for, judged by its capitals and neighbouring words; empty if none."""
    word = words.words[at]
    symbol = word.text.capitalize()
    if symbol not in _SYMBOLS or len(word.text) > 2:
        return ""
    before = words.words[at - 1] if at else None
    after = words.words[at + 1] if at + 1 < len(words.words) else None
    if before is None and after is None:
        return symbol
    if before is not None and before.text[:1].isdigit() and not before.apart and word.text not in LOWER_CASE:
        return ""  # 300 K, 5 V
    if after is not None and after.text[0] in _SIGNS and _NUMBER_FOLLOWS.match(words.text, after.end):
        return ""  # Tc > 77 K
    return symbol if _is_element(word, symbol, before, after) else ""


def _is_element(word: Word, symbol: str, before: Word | None, after: Word | None) -> bool:
    """Whether a word that may be a symbol is one: `in` is none, but `In` in `Cu In S` is."""
    beside = [_is_symbol(other) for other in (before, after) if other is not None]
    if word.text == symbol and symbol not in WORDLIKE:
        return not (len(symbol) == 1 and after is not None and _names_a_thing(after))
    if word.text.lower() in LOWER_CASE and (word.text.islower() or any(beside)):
        prefix = after is not None and after.hyphenated and after.folded.startswith(_PREFIXED)
        return not (word.text == "co" and prefix)
    if word.text == symbol:
        named = after is None and before is not None and before.folded in _TAKES_AN_ELEMENT
        return any(beside) or named or (after is not None and _follows_an_element(after))
    if len(word.text) == 1:
        return any(beside) and word.text not in {"a", "i"}
    return len(beside) == 2 and all(beside)


def _follows_an_element(word: Word) -> bool:
    """Whether a word shows that a symbol stands before it, and no preposition: `In oxide`, `As-based`, `As free`."""
    suffix = word.folded in {"based", "containing", "doped", "rich", "bearing"} and word.hyphenated
    return suffix or word.folded == "free" or word.folded in lexicon().anions


def _names_a_thing(after: Word) -> bool:
    """Whether a letter and the word behind its hyphen are one term: `B-site`, `K-edge`, not `N-doped` or `K-oxide`."""
    if not after.hyphenated or not after.text.islower() or after.folded in {"type", "centered"}:
        return after.hyphenated and after.text.islower()
    return len(after.text) > 2 and not after.folded.startswith(_CONSTITUENT) and not lexicon().knows(after.folded)


def _is_symbol(word: Word) -> bool:
    """Whether a neighbour is surely the symbol of an element."""
    if word.text.islower() and len(word.text) == 2:
        return word.text in LOWER_CASE
    symbol = word.text.capitalize()
    if len(word.text) == 1:
        return symbol in _SYMBOLS and word.text not in {"a", "i", "A", "I"}
    return symbol in _SYMBOLS and symbol not in WORDLIKE and word.text in {symbol, symbol.upper()}


def _strukturbericht(words: Words, at: int) -> Item | None:
    """An ambiguous Strukturbericht symbol such as `B2` that `structure` or `type` follows."""
    for count in (2, 1):
        pieces = words.words[at : at + count + 1]
        key = "".join(piece.folded for piece in pieces[:count])
        follows = pieces[count].folded if len(pieces) > count else ""
        if follows not in TYPE_WORDS | {"order", "ordered", "phase", "compound"}:
            continue
        if meaning := strukturbericht_prototypes().get(key):
            return Item("meaning", at, at + count + 1, meaning)
        if types := strukturbericht().get(key):
            return Item("meaning", at, at + count + 1, type_meaning(types[0], types))
    return None


def _identifier(words: Words, at: int) -> Item | None:
    """The id of a crystal such as `mp-149`."""
    match = _ID.match(words.text, words.words[at].start)
    if match is None:
        return None
    filters = (f'id="{match[0]}"', f'id="{match[0]}" OR id ENDS WITH "{match[0]}"')
    return Item("meaning", at, _behind(words, at, match.end()), Meaning("id", f"id {match[0]}", filters, strict=False))


def _glue(word: Word, at: int) -> Item:
    kinds = {"and": "and", "or": "or", "nor": "or", "of": "of", "free": "free", "absent": "free", "excluded": "free"}
    if word.folded in kinds:
        return Item(kinds[word.folded], at, at + 1)
    return Item("glue" if word.folded in GLUE else "word", at, at + 1)

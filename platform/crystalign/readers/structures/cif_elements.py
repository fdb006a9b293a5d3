"""Assign elements to the sites of a CIF from type symbols, labels and the file's formula.

Labels are not element symbols: `HO1` may be the hydrogen of an oxygen or holmium, `CA1` calcium or a carbon, `Wat1` a
water oxygen. If the formula does not decide, the file is refused.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Collection, Mapping, Sequence

from crystalign.crystal import SYMBOLS
from crystalign.errors import CrystalError
from crystalign.readers.structures.agreement import Amounts, Statements, compare

MAX_COMBINATIONS = 4096
MAX_WORD = 40
"""Characters of a label or a type symbol."""
LAST_COMMON = 95
"""Without a formula, labels are not taken for heavier elements: `Cm1` is rather a carbon."""
LAST_NATURAL = 103
"""Heavier elements are in no crystal: `Nh`, `Cn`, `Og` are never read out of capitals or labels."""
VACANCIES = frozenset({"va", "vac", "vacancy", "x", "q", "dum", "void", "bq", "gh"})
GROUPS = {
    "wat": "O",
    "water": "O",
    "ow": "O",
    "ho": "O",
    "oh": "O",
    "hoh": "O",
    "h2o": "O",
    "h3o": "O",
    "oh2": "O",
    "nh": "N",
    "nh2": "N",
    "nh3": "N",
    "nh4": "N",
    "ch": "C",
    "ch2": "C",
    "ch3": "C",
}
"""Names of groups whose hydrogen has no site of its own → the atom that has."""
WATER = frozenset({"wat", "hoh"})
"""Beginnings of labels that only water has."""
_SCATTERERS = {"cval": "C", "siva": "Si", "siv": "Si", "hiso": "H"}
"""Names of scattering factors that are used as type symbols."""
_CHARGE = re.compile(r"(\d+(\.\d+)?)?[+-]?(\d+(\.\d+)?)?[+-]?")
_KNOWN = {symbol.lower(): symbol for symbol in SYMBOLS[1 : LAST_NATURAL + 1]} | {"d": "H", "t": "H"}


def is_vacancy(word: str) -> bool:
    """Whether a type symbol or a label names an empty site or a peak without an atom."""
    return re.sub(r"[^a-z]", "", word.lower()) in VACANCIES


def names_group(word: str) -> bool:
    """Whether a word names a group, such as water, whose hydrogen may have no site of its own."""
    return _group(word) not in {None, "ho"}


def readings(word: str, *, is_type: bool) -> tuple[str, ...]:
    """The elements that a word may mean, the most literal first.

    Args:
        word: a type symbol such as `Fe3+`, or a label such as `Fe1A`.
        is_type: whether it is a type symbol, which names one element by definition.
    """
    if len(word) > MAX_WORD:
        return ()
    letters = _letters(word)
    group = _group(word)
    two, one = _KNOWN.get(letters[:2].lower()), _KNOWN.get(letters[:1].lower())
    symbols: list[str | None] = []
    literal = _literal(word) if is_type else None
    if literal is not None:
        return (literal,)
    if group:
        symbols.append(GROUPS[group])
    if len(letters) >= 2:
        symbols.append(two)
    symbols.append(one)
    if not is_type and letters == "W":
        symbols.append("O")  # water in zeolites
    return tuple(dict.fromkeys(symbol for symbol in symbols if symbol is not None))


def assign(words: Sequence[tuple[str, bool]], amounts: Sequence[float], stated: Statements, volume: float) -> list[int]:
    """The atomic number of each site.

    Args:
        words: (type symbol, True) or (label, False) of each site.
        amounts: atoms of each site in the cell.
        stated: what the file says; its formula decides between readings of a word.
        volume: of the cell, Å³.

    Raises:
        CrystalError: a word names no element, or several and the formula does not decide.
    """
    options: dict[tuple[str, bool], tuple[str, ...]] = {}
    classes = [(word if is_type else _letters(word), is_type) for word, is_type in words]
    for (word, is_type), key in zip(words, classes, strict=True):
        if key not in options:
            options[key] = _allowed(word, readings(word, is_type=is_type), stated.formula, is_type=is_type)
    open_classes = [key for key, symbols in options.items() if len(symbols) > 1]
    if not open_classes:
        return [SYMBOLS.index(options[key][0]) for key in classes]
    chosen = _by_formula(options, open_classes, list(zip(classes, amounts, strict=True)), stated, volume)
    return [SYMBOLS.index(chosen[key]) for key in classes]


def _literal(word: str) -> str | None:
    """Return the element of a type symbol, which may have a charge or name a scattering factor; else None."""
    letters = _letters(word)
    isotope = re.fullmatch(r"[0-9]{1,3}([A-Z][a-z]?)", word[:MAX_WORD])  # `7Li`
    if isotope:
        return _KNOWN.get(isotope.group(1).lower())
    if letters.lower() in _SCATTERERS:
        return _SCATTERERS[letters.lower()]
    if len(letters) > 2 or not _CHARGE.fullmatch(word[len(letters) :]) or _group(word) not in {None, "ho"}:
        return None
    return _KNOWN.get(letters.lower())


def _group(word: str) -> str | None:
    """Return the key of `GROUPS` that a word begins with, if no lower-case letter follows it; else None."""
    match = re.match(r"(?i:wat|h2o|h3o|oh2|nh[234]|ch[23])(?![a-z])", word)
    key = (match.group() if match else _letters(word)).lower()
    return key if key in GROUPS else None


def _letters(word: str) -> str:
    """Return the letters that a word begins with."""
    return word[: len(word) - len(word.lstrip(string.ascii_letters))]


def _allowed(word: str, symbols: tuple[str, ...], formula: Amounts | None, *, is_type: bool) -> tuple[str, ...]:
    """Return the elements that a word may mean and that the file's formula allows.

    Raises:
        CrystalError: there is none, or there are several and no formula.
    """
    if not symbols or (is_type and not formula and not _literal(word)):
        message = f"the site {word!r} names no element; give a symbol such as Fe as its _atom_site_type_symbol"
        raise CrystalError(message, reason="unknown-element")
    if is_type and _literal(word):
        return symbols
    if len(symbols) == 1 and formula:
        return symbols
    if formula:
        stated = tuple(symbol for symbol in symbols if SYMBOLS.index(symbol) in formula)
        if stated:
            return stated
        message = f"the site {word!r} may be {' or '.join(symbols)}, and the formula of the file holds none of them"
        raise CrystalError(message, reason="unknown-element")
    if _is_plain(word, symbols[0]):
        return symbols[:1]
    kind = "type symbol" if is_type else "label"
    message = (
        f"the {kind} {word!r} may be {' or '.join(symbols)} and no formula decides; give _atom_site_type_symbol or "
        "_chemical_formula_sum"
    )
    raise CrystalError(message, reason="ambiguous-element")


def _is_plain(word: str, first: str) -> bool:
    """Whether the first reading of a label is certain without a formula: water, or a symbol before digits or a capital.

    `Ca1`, `SiT` and `Ow2` do; `Cg1` (a centroid), `T1` (a tetrahedral site) and `Uiso` do not.
    """
    letters, symbol = _letters(word), first
    if letters[:3].lower() in WATER:
        return True
    if SYMBOLS.index(first) > LAST_COMMON or letters == "T":
        return False
    if letters == "D":
        return True
    if not letters.startswith(symbol):
        return False
    return bool(re.fullmatch(r"[A-Z]?" if symbol != "O" else r"[A-Za-z]?", letters[len(symbol) :])) and not (
        len(symbol) == 1 and len(letters) == 2 and letters.isupper() and letters.capitalize() in SYMBOLS
    )


def _by_formula(
    options: Mapping[tuple[str, bool], tuple[str, ...]],
    undecided: Collection[tuple[str, bool]],
    sites: Sequence[tuple[tuple[str, bool], float]],
    stated: Statements,
    volume: float,
) -> dict[tuple[str, bool], str]:
    """Return the only combination of readings that gives the composition of the file.

    Raises:
        CrystalError: no combination does, or several do.
    """
    count = 1
    for key in undecided:
        count *= len(options[key])
    names = ", ".join(sorted({word for word, _ in undecided}))
    if count > MAX_COMBINATIONS:
        message = f"too many labels may mean more than one element: {names[:120]}; give _atom_site_type_symbol"
        raise CrystalError(message, reason="ambiguous-element")
    fixed = {key: symbols[0] for key, symbols in options.items()}
    per_class: dict[tuple[str, bool], float] = {}
    for key, amount in sites:
        per_class[key] = per_class.get(key, 0.0) + amount
    agreeing = []
    only_formula = Statements(formula=stated.formula, z=stated.z)
    for choice in itertools.product(*(options[key] for key in undecided)):
        chosen = {**fixed, **dict(zip(undecided, choice, strict=True))}
        composition: dict[int, float] = {}
        for key, amount in per_class.items():
            z = SYMBOLS.index(chosen[key])
            composition[z] = composition.get(z, 0.0) + amount
        outcome = compare(composition, volume, only_formula)
        if not outcome.objections:
            agreeing.append((len(outcome.remarks), chosen))
    best = [chosen for remarks, chosen in agreeing if remarks == min(r for r, _ in agreeing)]
    if len(best) == 1:
        return best[0]
    problem = "no choice of them gives" if not best else "several choices of them give"
    message = f"the labels {names[:120]} name more than one element, and {problem} the formula of the file"
    raise CrystalError(message, reason="ambiguous-element")

"""Detect element symbols that probably mean something else: oxidation states, ligands, isotopes, wrong capitals.

`FeIII` is iron(III) and not FeI3, `NaOAc` contains acetate and not actinium, `KNo3` is not a nobelium compound. If
the text can also be a real compound, the message says how to write that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crystalign.crystal import SYMBOLS

Tokens = Sequence[tuple[str, str]]
"""(kind, text) of the tokens of a formula; kinds are symbol, number, open, close and separator."""

_END = ("end", "")
_ALKALI = frozenset(["H", "Li", "Na", "K", "Rb", "Cs", "D"])
_EARTHS = frozenset(["Be", "Mg", "Ca", "Sr", "Ba"])
_HALOGENS = frozenset(["F", "Cl", "Br", "I"])
_WATER = (("symbol", "H"), ("number", "2"), ("symbol", "O"))
_LIGANDS = {"Ac": "acetate, C2H3O2", "Pr": "propoxide, C3H7O"}
_UNKNOWN = 100
"""First element of which no crystal is known, fermium."""


def doubt(tokens: Tokens) -> str:
    """Why these tokens may mean something else, and what to write instead; empty if there is no doubt."""
    for at in range(len(tokens)):
        for check in _CHECKS:
            if reason := check(tokens, at):
                return reason
    return ""


def remarks(tokens: Tokens) -> tuple[str, ...]:
    """Notes on symbols that were read as written although a wrong capital is likely, as in `CaCo3`."""
    for at in range(len(tokens)):
        before, here, after = _at(tokens, at - 1), tokens[at][1], _at(tokens, at + 1)
        alone = before[0] == "open" and after[0] == "close"
        salt = _last_symbol(tokens, at) in _ALKALI | _EARTHS and after == ("number", "3")
        if here == "Co" and (alone or salt):
            return ("Co is read as cobalt; carbon and oxygen are CO",)
    return ()


def _at(tokens: Tokens, index: int) -> tuple[str, str]:
    return tokens[index] if 0 <= index < len(tokens) else _END


def _last_symbol(tokens: Tokens, at: int) -> str:
    """The symbol before the token `at`, with or without an amount in between."""
    before = _at(tokens, at - 1)
    before = _at(tokens, at - 2) if before[0] == "number" else before
    return before[1] if before[0] == "symbol" else ""


def _roman(tokens: Tokens, at: int) -> str:
    """Roman numerals II, III, IV and VI after a symbol."""
    run = 0
    while _at(tokens, at + run) in {("symbol", "I"), ("symbol", "V")}:
        run += 1
    letters = "".join(token for _, token in tokens[at : at + run])
    before, after = _at(tokens, at - 1), _at(tokens, at + run)
    if at and before in {("symbol", "I"), ("symbol", "V")}:
        return ""  # checked already at the beginning of the numeral
    metal = ""
    if run > 1 and letters[0] == "V" and not (before[0] == "symbol" and letters.startswith("VI")):
        metal, letters = letters[0], letters[1:]  # VIV: vanadium(IV)
    elif before[0] in {"symbol", "number", "close"}:
        metal = before[1] if before[0] == "symbol" else ""
    elif "II" not in letters:
        return ""
    compound = letters == "VI" and after[0] == "number" and _at(tokens, at + run + 1)[0] in {"end", "close"}  # CsVI3
    if len(letters) < 2 or compound or not ("II" in letters or "IV" in letters or letters.startswith("VI")):
        return ""
    symbols = f"I{letters.count('I')}" if set(letters) == {"I"} else "".join(f"{letter}1" for letter in letters)
    state = f"the oxidation state {metal}({letters})" if metal else f"the oxidation state {letters}"
    return f"{metal}{letters} may be {state}, or the elements; leave the state out, or write {metal}{symbols}"


def _isotope(tokens: Tokens, at: int) -> str:
    """A mass number after an opening bracket: `[13C]H4`, `(2H)2O`."""
    (kind, opened), number, symbol = tokens[at], _at(tokens, at + 1), _at(tokens, at + 2)
    if kind != "open" or number[0] != "number" or symbol[0] != "symbol" or symbol[1] not in SYMBOLS:
        return ""
    if not number[1].isdigit() or len(number[1]) > 3 or tuple(tokens[at + 2 : at + 5]) == _WATER:
        return ""
    z, mass = SYMBOLS.index(symbol[1]), int(number[1])
    lowest, highest = {1: (1, 3), 2: (3, 4)}.get(z, (1.8 * z, 2.7 * z))
    if not lowest <= mass <= highest:
        return ""
    isotope = number[1] + symbol[1]
    return (
        f"{opened}{isotope} may be the isotope {isotope} or {mass} × {symbol[1]}; write {opened}^{isotope} for the "
        "isotope, and the number after its symbol for an amount"
    )


def _ligand(tokens: Tokens, at: int) -> str:
    """Abbreviations of acetate and propoxide: `Zn(OAc)2`, `AcOH`, `HAc`, `Ti(OPr)4`."""
    kind, here = tokens[at]
    before, after = _at(tokens, at - 1), _at(tokens, at + 1)
    if kind != "symbol" or here not in _LIGANDS or after[0] == "number":
        return ""
    second = _at(tokens, at + 2)
    bracket = _at(tokens, at - 2)[0] == "open" and after[0] == "close"
    behind_oxygen = before == ("symbol", "O") and (here == "Ac" or bracket)
    if here == "Ac":
        last = after[0] in {"end", "separator"}
        behind_oxygen |= before[0] == "open" and after[0] == "close"  # Pb(Ac)2
        behind_oxygen |= last and before[0] == "symbol" and before[1] in _ALKALI  # HAc
        before_oxygen = after == ("symbol", "O") and second[0] not in {"end", "number", "separator"}
        behind_oxygen |= before_oxygen and second[1] not in _HALOGENS
    if not behind_oxygen:
        return ""
    name = {"Ac": "actinium", "Pr": "praseodymium"}[here]
    return f"{here} may be {_LIGANDS[here]}, or {name}; write the ligand out, or {name} with an amount, as in {here}1"


def _capitals(tokens: Tokens, at: int) -> str:
    """Wrong case that makes another element: nobelium in `KNo3`, copernicium in `NaCn`, polonium in `LiFePo4`."""
    kind, here = tokens[at]
    if kind != "symbol" or here not in SYMBOLS:
        return ""
    after = _at(tokens, at + 1)
    symbols = {token for kind, token in tokens if kind == "symbol"}
    upper = here.upper()
    spelt = len(here) == 2 and {here[0], upper[1]} <= set(SYMBOLS[1:])
    if SYMBOLS.index(here) >= _UNKNOWN and (len(symbols) > 1 or after[0] == "number"):
        hint = f"; perhaps {upper} is meant" if spelt else ""
        return f"{here} is element {SYMBOLS.index(here)}, of which no crystal is known{hint}"
    if here == "Po" and at and after in {("number", "3"), ("number", "4")}:
        count = after[1]
        return f"Po{count} may be phosphate or polonium; write PO{count}, or polonium first, as in Po{count}Na"
    return ""


_CHECKS: tuple[Callable[[Tokens, int], str], ...] = (_roman, _isotope, _ligand, _capitals)

"""Chemical formulas as people write them: hydrates, fractions, brackets, charges, typographic digits.

    formula  = part { "·" part } [ charge ]             each part may begin with a coefficient
    part     = [ amount ] group { group }
    group    = ( symbol | "(" formula without charge ")" ) [ amount ]     also [ ] and { }
    amount   = 2 | 0.5 | 1/3

What can be read in two ways is refused, with both readings where that helps; no text is taken for a
formula that it may not be. Reading a formula takes time in proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from crystalign.crystal import SYMBOLS, reduced_formula
from crystalign.errors import InputError
from crystalign.formula_doubts import doubt, remarks
from crystalign.formula_text import plain_text, separate, strip_charge

MAX_FORMULA = 200
"""Characters; a longer formula is not a formula."""
MAX_AMOUNT = 1_000_000
"""Of one number in a formula."""
MAX_TOTAL = 10**9
"""Atoms in a formula, brackets multiplied out."""

_ISOTOPES = {"D": "H", "T": "H"}
_TOKEN = re.compile(
    r"(?P<symbol>[A-Z][a-z]?)|(?P<number>\d+/\d+|\d+(?:\.\d+)?|\.\d+)|(?P<open>[(\[{])|(?P<close>[)\]}])|·"
)
_ROMAN = re.compile(r"[(\[{](?:I{1,3}|I?V|VI{1,3}|I?X)[)\]}]")
_VARIABLE = re.compile(r"(?<=[A-Z)\]\d+·-])[xyznmδ](?![a-z])|(?<=[a-z])[xyzδ](?![a-z])|[+±-][xyzδd](?![a-z])|δ|±")
_RARE = frozenset(["He", "Ne", "Ar", "Kr", "Xe", "Rn", "Tc", "Pm", "Po", "At", "Fr", "Ra", "Ac", "Pa", *SYMBOLS[93:]])
_MAX_SUGGESTED, _MAX_COST = 24, 6.0


class Formula(NamedTuple):
    """A formula that was read."""

    amounts: dict[int, Fraction]
    """Atoms by atomic number, as written."""
    notes: tuple[str, ...]
    """How it was read, where a reader may want to know: charges left out, isotopes merged."""

    @property
    def reduced(self) -> str:
        """The formula that crystals of this composition have in an index."""
        whole = all(x.denominator == 1 for x in self.amounts.values())
        return reduced_formula({z: int(x) if whole else float(x) for z, x in self.amounts.items()})


def read_formula(text: str) -> Formula:
    """`Fe2O3`, `CuSO4·5H2O`, `(La0.7Sr0.3)MnO3`, `LiNi1/3Mn1/3Co1/3O2`, `[Fe(CN)6]4-`, … → amounts.

    Raises:
        InputError: not a formula, or one that can be read in two ways; the message says which, and
            names formulas that may have been meant.
    """
    if not text.strip() or len(text) > MAX_FORMULA:
        message = f"a formula has 1 to {MAX_FORMULA} characters, this one {len(text.strip())}; write for instance Fe2O3"
        raise InputError(message, reason="bad-formula")
    try:
        return _read(text)
    except _NotAFormulaError as error:
        system = chemical_system(text)
        meant = suggest(text) if error.case else []
        hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
        if system:
            hint = (
                f' It looks like a chemical system: filter by it, _crystalign_chemsys="{"-".join(system)}", '
                f"or give a formula such as {''.join(system)}."
            )
        message = f"{text.strip()!r} is not a chemical formula: {error}.{hint}"
        raise InputError(message, reason=error.reason) from error


def chemical_system(text: str) -> list[str]:
    """`Fe-O`, `O – Fe`, `Li-Fe-P-O` → the symbols in alphabetical order; empty where it is none."""
    parts = [part.strip() for part in re.split(r"[-‐‑‒–—−,]", text.strip())]
    named = len(parts) > 1 and all(part in SYMBOLS[1:] for part in parts)
    return sorted(set(parts)) if named else []


def suggest(text: str) -> list[str]:
    """Formulas that differ from a text in upper and lower case alone: `nacl` → NaCl; the likeliest first, at most 3."""
    plain = text.strip()
    if not re.fullmatch(rf"[A-Za-z0-9.()\[\]·]{{1,{_MAX_SUGGESTED}}}", plain):
        return []
    # cheapest[i]: up to three ways to write plain[:i], each with its cost
    cheapest: list[list[tuple[float, str]]] = [[(0.0, "")]] + [[] for _ in plain]
    for end in range(1, len(plain) + 1):
        ways = []
        for length in (1, 2):
            piece = plain[max(0, end - length) : end]
            symbol = piece.capitalize()
            if len(piece) == length and piece.isalpha() and symbol in SYMBOLS[1:]:
                cost = 3.0 if symbol in _RARE else 1.0
                ways += [(known + cost, start + symbol) for known, start in cheapest[end - length]]
        if not plain[end - 1].isalpha():
            ways += [(known, start + plain[end - 1]) for known, start in cheapest[end - 1]]
        cheapest[end] = sorted(ways)[:3]
    return [found for cost, found in cheapest[-1] if found != plain and cost <= _MAX_COST and _readable(found)]


def _readable(text: str) -> bool:
    try:
        _read(text)
    except _NotAFormulaError:
        return False
    return True


class _NotAFormulaError(Exception):
    """Why a text is no formula."""

    def __init__(self, why: str, reason: str = "bad-formula", *, case: bool = False) -> None:
        super().__init__(why)
        self.reason = reason
        self.case = case


def _read(text: str) -> Formula:
    try:
        plain = plain_text(text)
        if chemical_system(plain):
            raise ValueError("its symbols are joined by dashes")  # noqa: TRY301 (one handler for every reason)
        variable = next((m for m in _VARIABLE.finditer(plain) if not _is_symbol(plain, m)), None)
        if variable is not None:
            raise ValueError(f"{variable[0]!r} stands for an amount that varies; write a number")  # noqa: TRY301
        neutral, notes = strip_charge(plain)
        separated, more = separate(neutral)
    except ValueError as error:
        raise _NotAFormulaError(str(error)) from error
    parser = _Parser(separated)
    if why := doubt(parser.tokens):
        raise _NotAFormulaError(why, case=True)
    amounts = parser.parse()
    if len(amounts) == 1:
        _check_typing(separated)
    if parser.isotopes:
        notes = (*notes, f"{', '.join(parser.isotopes)} is read as H")
    notes = (*notes, *remarks(parser.tokens))
    return Formula(dict(sorted(amounts.items())), (*notes, *more))


def _is_symbol(text: str, match: re.Match[str]) -> bool:
    """Whether the letter taken for a variable belongs to a symbol: of an element, as in Dy, or of none, as in Xx."""
    before = text[match.start() - 1] if match.start() else ""
    return len(match[0]) == 1 and (before + match[0] in SYMBOLS[1:] or (before.isupper() and before not in SYMBOLS[1:]))


def _check_typing(text: str) -> None:
    """`Fe203` and `Cu20` are elements, and nobody writes them so: a zero stands where an O was meant."""
    match = re.fullmatch(r"([A-Z][a-z]?)(?:([1-9])0([1-9])|20)", text)
    if match:
        oxide = f"{match[1]}{match[2] or 2}O{match[3] or ''}"
        raise _NotAFormulaError(f"it holds the digit 0 where the letter O seems meant, as in {oxide}")


class _Parser:
    """One pass over the tokens, with a stack for brackets."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.at = 0
        self.isotopes: list[str] = []

    def parse(self) -> dict[int, Fraction]:
        """The whole formula."""
        amounts = self._sum(closing=None)
        total = sum(amounts.values())
        if total > MAX_TOTAL:
            raise _NotAFormulaError(f"it has {float(total):.3g} atoms; the limit is {MAX_TOTAL:,}")
        smallest = min(amounts.values())
        if smallest / total < Fraction(1, MAX_TOTAL):
            raise _NotAFormulaError("its smallest amount is too small beside the others")
        return amounts

    def _tokens(self) -> list[tuple[str, str]]:
        found = []
        at = 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                stray = self.text[at]
                why = "symbols begin with a capital letter" if stray.islower() else "what is it?"
                raise _NotAFormulaError(f"{stray!r} has no meaning there: {why}", case=stray.islower())
            kind = match.lastgroup or "separator"
            token = match[0]
            if kind == "symbol" and token not in SYMBOLS[1:] and token not in _ISOTOPES:
                raise _NotAFormulaError(f"{token!r} is not an element", "unknown-element", case=True)
            if kind == "open" and (roman := _ROMAN.match(self.text, at)):
                raise _NotAFormulaError(f"{roman[0]} reads as an oxidation state; leave it out")
            found.append((kind, token))
            at = match.end()
        return found

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self.at += 1
        return token

    def _sum(self, closing: str | None) -> dict[int, Fraction]:
        """Parts joined by middle dots, up to the closing bracket or the end."""
        amounts: dict[int, Fraction] = {}
        while True:
            factor = self._amount() if self._peek()[0] == "number" else Fraction(1)
            _add(amounts, self._part(), factor)
            kind, token = self._take()
            if kind == "separator":
                continue
            if kind == "end" and closing is None:
                return amounts
            if kind == "close" and token == closing:
                return amounts
            raise _NotAFormulaError("its brackets do not match")

    def _part(self) -> dict[int, Fraction]:
        amounts: dict[int, Fraction] = {}
        while self._peek()[0] in {"symbol", "open"}:
            kind, token = self._take()
            if kind == "symbol":
                if token in _ISOTOPES and token not in self.isotopes:
                    self.isotopes.append(token)
                group = {SYMBOLS.index(_ISOTOPES.get(token, token)): Fraction(1)}
            else:
                group = self._sum({"(": ")", "[": "]", "{": "}"}[token])
            _add(amounts, group, self._amount() if self._peek()[0] == "number" else Fraction(1))
            if self._peek()[0] == "number":
                raise _NotAFormulaError(f"two numbers follow each other before {self._peek()[1]}")
        if not amounts:
            raise _NotAFormulaError("a symbol is missing" if self.at else "it begins with no symbol")
        return amounts

    def _amount(self) -> Fraction:
        _, token = self._take()
        if re.match(r"0\d", token):
            raise _NotAFormulaError(f"the number {token} begins with a zero, where the letter O may be meant")
        try:
            amount = Fraction(token)
        except ZeroDivisionError as error:
            raise _NotAFormulaError(f"the amount {token} divides by zero") from error
        if not 0 < amount <= MAX_AMOUNT:
            raise _NotAFormulaError(f"the amount {token} is not above 0 and at most {MAX_AMOUNT:,}")
        return amount


def _add(amounts: dict[int, Fraction], more: Mapping[int, Fraction], factor: Fraction) -> None:
    for z, x in more.items():
        amounts[z] = amounts.get(z, Fraction(0)) + factor * x

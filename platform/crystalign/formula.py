"""Read chemical formulas as people write them, with hydrates, fractions, brackets, charges and typographic digits.

    formula  = part { "·" part } [ charge ]             each part may begin with a coefficient
    part     = [ amount ] group { group }
    group    = ( symbol | "(" formula without charge ")" ) [ amount ]     also [ ] and { }
    amount   = 2 | 0.5 | 1/3

Ambiguous formulas are refused, and the message names both readings where that helps. The time to read a formula is
proportional to its length.
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
"""Largest number of characters of a formula."""
MAX_AMOUNT = 1_000_000
"""Largest value of a single number in a formula."""
MAX_TOTAL = 10**9
"""Largest number of atoms in a formula, with brackets multiplied out."""

_ISOTOPES = {"D": "H", "T": "H"}
_TOKEN = re.compile(
    r"(?P<symbol>[A-Z][a-z]?)|(?P<number>\d+/\d+|\d+(?:\.\d+)?|\.\d+)|(?P<open>[(\[{])|(?P<close>[)\]}])|·"
)
_ROMAN = re.compile(r"[(\[{](?:I{1,3}|I?V|VI{1,3}|I?X)[)\]}]")
_VARIABLE = re.compile(r"(?<=[A-Z)\]\d+·-])[xyznmδ](?![a-z])|(?<=[a-z])[xyzδ](?![a-z])|[+±-][xyzδd](?![a-z])|δ|±")
_RARE = frozenset(["He", "Ne", "Ar", "Kr", "Xe", "Rn", "Tc", "Pm", "Po", "At", "Fr", "Ra", "Ac", "Pa", *SYMBOLS[93:]])
_MAX_SUGGESTED, _MAX_COST = 24, 6.0


class Formula(NamedTuple):
    """The content of a formula."""

    amounts: dict[int, Fraction]
    """Atomic number → number of atoms, as written."""
    notes: tuple[str, ...]
    """Notes on the interpretation, such as a charge that was left out or isotopes that were merged."""

    @property
    def reduced(self) -> str:
        """The reduced formula, as stored for crystals of this composition in an index."""
        whole = all(x.denominator == 1 for x in self.amounts.values())
        return reduced_formula({z: int(x) if whole else float(x) for z, x in self.amounts.items()})


def read_formula(text: str) -> Formula:
    """Read a formula such as `Fe2O3`, `CuSO4·5H2O`, `(La0.7Sr0.3)MnO3`, `LiNi1/3Mn1/3Co1/3O2` or `[Fe(CN)6]4-`.

    Raises:
        InputError: the text is not a formula, or an ambiguous one; the message suggests formulas that may be meant.
    """
    if not text.strip() or len(text) > MAX_FORMULA:
        raise InputError(
            f"a formula has 1 to {MAX_FORMULA} characters, this one {len(text.strip())}; write for instance Fe2O3",
            reason="bad-formula",
        )
    try:
        return _read(text)
    except _NotAFormulaError as error:
        system = chemical_system(text)
        suggestions = suggest(text) if error.case else []
        hint = f" Did you mean {' or '.join(suggestions)}?" if suggestions else ""
        if system:
            hint = (
                f' It looks like a chemical system: filter by it, _crystalign_chemsys="{"-".join(system)}", '
                f"or give a formula such as {''.join(system)}."
            )
        raise InputError(f"{text.strip()!r} is not a chemical formula: {error}.{hint}", reason=error.reason) from error


def chemical_system(text: str) -> list[str]:
    """The symbols of a chemical system such as `Fe-O` or `Li-Fe-P-O`, in alphabetical order; empty if it is none."""
    parts = [part.strip() for part in re.split(r"[-‐‑‒–—−,]", text.strip())]
    named = len(parts) > 1 and all(part in SYMBOLS[1:] for part in parts)
    return sorted(set(parts)) if named else []


def suggest(text: str) -> list[str]:
    """Up to three formulas that differ from a text only in upper and lower case, the likeliest first: `nacl` → NaCl."""
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
                ways += [(total + cost, start + symbol) for total, start in cheapest[end - length]]
        if not plain[end - 1].isalpha():
            ways += [(total, start + plain[end - 1]) for total, start in cheapest[end - 1]]
        cheapest[end] = sorted(ways)[:3]
    return [formula for cost, formula in cheapest[-1] if formula != plain and cost <= _MAX_COST and _readable(formula)]


def _readable(text: str) -> bool:
    try:
        _read(text)
    except _NotAFormulaError:
        return False
    return True


class _NotAFormulaError(Exception):
    """The reason why a text is not a formula."""

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
    """Whether a letter that could be a variable belongs to a symbol, of an element (Dy) or of none (Xx)."""
    before = text[match.start() - 1] if match.start() else ""
    return len(match[0]) == 1 and (before + match[0] in SYMBOLS[1:] or (before.isupper() and before not in SYMBOLS[1:]))


def _check_typing(text: str) -> None:
    """Refuse `Fe203` and `Cu20`, in which a zero was typed instead of the letter O."""
    match = re.fullmatch(r"([A-Z][a-z]?)(?:([1-9])0([1-9])|20)", text)
    if match:
        oxide = f"{match[1]}{match[2] or 2}O{match[3] or ''}"
        raise _NotAFormulaError(f"it contains the digit 0 where the letter O seems to be meant, as in {oxide}")


class _Parser:
    """Recursive-descent parser of one formula."""

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
            raise _NotAFormulaError("its smallest amount is too small compared with the others")
        return amounts

    def _tokens(self) -> list[tuple[str, str]]:
        tokens = []
        at = 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                stray = self.text[at]
                why = ": symbols begin with a capital letter" if stray.islower() else ""
                raise _NotAFormulaError(f"{stray!r} has no meaning there{why}", case=stray.islower())
            kind = match.lastgroup or "separator"
            token = match[0]
            if kind == "symbol" and token not in SYMBOLS[1:] and token not in _ISOTOPES:
                raise _NotAFormulaError(f"{token!r} is not an element", "unknown-element", case=True)
            if kind == "open" and (roman := _ROMAN.match(self.text, at)):
                raise _NotAFormulaError(f"{roman[0]} reads as an oxidation state; leave it out")
            tokens.append((kind, token))
            at = match.end()
        return tokens

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self.at += 1
        return token

    def _sum(self, closing: str | None) -> dict[int, Fraction]:
        """Parse parts joined by middle dots, up to the closing bracket or the end."""
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
            raise _NotAFormulaError("a symbol is missing" if self.at else "it does not begin with a symbol")
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
            raise _NotAFormulaError(f"the amount {token} must be above 0 and at most {MAX_AMOUNT:,}")
        return amount


def _add(amounts: dict[int, Fraction], more: Mapping[int, Fraction], factor: Fraction) -> None:
    for z, x in more.items():
        amounts[z] = amounts.get(z, Fraction(0)) + factor * x

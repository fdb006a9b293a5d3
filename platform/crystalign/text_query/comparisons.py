"""Comparisons in queries: `band gap between 1 and 2 eV`, `0.5 < Eg < 1 eV`, `K > 150 GPa`, `fewer than 10 atoms`."""

from __future__ import annotations

import re
from typing import NamedTuple

from crystalign.text.property_words import Range
from crystalign.text_query.chips import Meaning, range_label
from crystalign.text_query.property_words import size_meaning
from crystalign.text_query.words import Words, fold

_SCALES = {
    "energy": {"mev": 1e-3, "ev": 1.0},
    "pressure": {"gpa": 1.0, "mpa": 1e-3, "kbar": 0.1, "mbar": 100.0, "tpa": 1000.0},
}
"""Units that are converted; others are taken as the unit of the quantity."""
_UNIT = (
    r"(?:meV|eV|GPa|MPa|kbar|Mbar|TPa|g\s?/\s?cm\^?3|g\s?/\s?cc|g\s?cm\^?-3|kg\s?/\s?m\^?3|[µμ]B)"
    r"(?:\s?/\s?atom| per atom)?(?![\w])"
)
_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,9},\d{1,9}(?!,?\d)|\d{1,9}(?:\.\d{1,9})?)"
"""A comma without a space separates thousands before three digits, and decimals otherwise: 1,000 and 1,5."""
_SIGNS = {
    ">=": ">= ≥ => at-least minimum not-less-than no-less-than or-more min",
    "<=": "<= ≤ =< at-most maximum up-to not-more-than no-more-than max",
    ">": "> above over greater-than larger-than more-than higher-than bigger-than exceeding exceeds",
    "<": "< below under less-than smaller-than lower-than fewer-than beneath",
    "=": "= == equal-to equals exactly",
    "~": "~ ≈ about around near roughly circa approximately close-to",
}
_SIGN_OF = {words.replace("-", " "): sign for sign, listed in _SIGNS.items() for words in listed.split()}
_SIGN = "|".join(re.escape(words).replace(r"\ ", r"\s+") for words in sorted(_SIGN_OF, key=len, reverse=True))
_SYMBOL = r"(?:[\s,(]*(?:n|K|B|G|E_?g|ρ)(?=[\s)]*(?:[<>≤≥=≈~]|of\s))[\s)]*)?"
"""The symbol of a quantity behind its name: `refractive index n > 2`."""
_MORE = r"(?P<more>\s*(?:\+(?!\S)|(?:or|and)\s(?:more|greater|larger|higher|above|over)\b))"
_LESS = r"(?P<less>\s*(?:or|and)\s(?:fewer|less|smaller|lower|below)\b)"
_SECOND = (
    rf"(?:\s*(?:,|and|but|&)?\s*(?P<sign2>{_SIGN})\s*(?:than\s+)?(?P<value2>{_NUMBER})\s*(?P<unit2>{_UNIT})?"
    rf"|\s*(?:±|\+\s?/?\s?-)\s*(?P<width>{_NUMBER})\s*(?P<unit3>{_UNIT})?)?"
)
"""A second bound, `> 0.5 and < 2`, or a tolerance, `1.5 ± 0.1`."""
_COMPARED = re.compile(
    rf"{_SYMBOL}(?:[\s:]|\(eV\)|\(GPa\))*(?:(?:of|is|are|being|range|in the range|ranging|must be|should be)\s+){{0,2}}"
    rf"(?:(?:between|from)?\s*(?P<low>{_NUMBER})\s*(?P<lowunit>{_UNIT})?\s*(?:and|to|-|–|—|\.\.)\s*(?P<high>{_NUMBER})\s*(?P<highunit>{_UNIT})?"
    rf"|(?P<sign>{_SIGN})?\s*(?:than\s+)?(?P<value>{_NUMBER})(?:\s*(?P<unit>{_UNIT}))?+(?:{_MORE}|{_LESS}|{_SECOND}))"
    rf"(?![\w.]\w|\w|,\d|\s*or\s*(?:{_SIGN})\s*\d)",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    rf"(?:(?:between|from)\s+)?(?:(?P<low>{_NUMBER})\s*(?P<lowunit>{_UNIT})?\s*(?:and|to|-|–|—)\s*(?P<high>{_NUMBER})\s*(?P<highunit>{_UNIT})?"
    rf"|(?P<sign>{_SIGN})?\s*(?P<value>{_NUMBER})\s*(?P<unit>{_UNIT})?(?:{_MORE}|{_LESS})?)[\s-]*(?=[A-Za-z])",
    re.IGNORECASE,
)
_FIRST = re.compile(
    rf"(?P<value>{_NUMBER})\s*(?P<unit>{_UNIT})?\s*(?P<sign><=?|>=?|≤|≥)\s*(?=[A-Za-zρ])", re.IGNORECASE
)
"""The first half of `0.5 < Eg < 1 eV`."""
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "≤": ">=", "≥": "<="}
_PRESSURE = re.compile(r"[^A-Za-z]*(?:[a-z]+ ){0,3}[^A-Za-z]*(?:GPa|kbar|Mbar|TPa|MPa)\b")
_SIGNED = re.compile(r"\s*[<>≤≥=≈~]=?\s*\d+(?:\.\d+)?(?!\s?[A-Za-z\d.])")
SYMBOLS = {
    "K": ("bulk_modulus_vrh", _PRESSURE),
    "B": ("bulk_modulus_vrh", _PRESSURE),
    "G": ("shear_modulus_vrh", _PRESSURE),
}
SYMBOLS |= {
    "K0": SYMBOLS["K"],
    "B0": SYMBOLS["K"],
    "n": ("refractive_index", _SIGNED),
    "ρ": ("density", re.compile(r"")),
}
"""Symbol → the quantity, and what follows where it is no element: `K > 150 GPa`."""
_COUNTED = {"atom": "nsites", "site": "nsites", "element": "nelements"}
_NUMERALS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905 (words)
_SPELT = re.compile(
    rf"\b({'|'.join(_NUMERALS)})(?=[ -](?:or more |or fewer |or less )?(?:different |distinct |chemical )?"
    r"(?:elements?|atoms?|sites?|components?)\b)",
    re.IGNORECASE,
)
_PER_CELL = re.compile(
    r"\s?(?:per|in the|in a|in its|in|/)\s?(?:primitive |unit |conventional ){0,2}cells?\b", re.IGNORECASE
)
_TOLERANCE = 0.1
"""An exact number stands for values within this fraction of it."""
_NOTHING = 0.05
"""`band gap = 0` stands for values up to this."""


class Compared(NamedTuple):
    """A comparison that was read."""

    meaning: Meaning
    """What it means."""
    end: int
    """Where it ends in the plain text."""


def quantity_of_symbol(words: Words, at: int) -> str:
    """The quantity that a word stands for as its symbol, judged by what follows; empty if it is none."""
    word = words.words[at]
    quantity, follows = SYMBOLS.get(word.text, ("", _PRESSURE))
    return quantity if quantity and follows.match(words.text[: word.end + 40], word.end) else ""


def compared_after(words: Words, quantity: str, at: int) -> Compared | None:
    """A comparison behind the name of a quantity, which ends at `at`: `> 2 eV`, `of 1.5`, `> 0.5 and < 2 eV`."""
    match = _COMPARED.match(words.text[: at + 120], at)
    return None if match is None else Compared(_meaning(quantity, _tests(quantity, match)), match.end())


def compared_around(words: Words, at: int, names: dict[str, str]) -> Compared | None:
    """A comparison on both sides of the name of a quantity: `0.5 < Eg < 1 eV`."""
    first = _FIRST.match(words.text[: at + 120], at)
    if first is None:
        return None
    name = re.compile(r"[A-Za-zρ]+(?:[ _-][A-Za-z]+){0,3}").match(words.text, first.end())
    pieces = re.findall(r"[^\W_]+", name[0]) if name else []
    for count in range(len(pieces), 0, -1):
        quantity = names.get("".join(fold(piece) for piece in pieces[:count])) or SYMBOLS.get(pieces[0], ("",))[0]
        if not quantity:
            continue
        end = first.end() + sum(map(len, pieces[:count])) + count - 1
        second = _COMPARED.match(words.text[: end + 120], end)
        if second is None or second["sign"] is None:
            return None
        bound = (_MIRRORED[first["sign"]], _scaled(first["value"], first["unit"] or second["unit"]))
        return Compared(_meaning(quantity, (bound, *_tests(quantity, second))), second.end())
    return None


def compared_before(words: Words, at: int, names: dict[str, str]) -> Compared | None:
    """A comparison before the name of a quantity: `2 eV band gap`, `fewer than 10 atoms`, `3 elements`."""
    window = _SPELT.sub(lambda m: str(_NUMERALS.index(m[1].lower())), words.text[at : at + 120])
    longer = len(words.text[at : at + 120]) - len(window)
    match = _BEFORE.match(window)
    if match is None:
        return None
    behind = [m for m, _ in zip(re.finditer(r"[A-Za-z]+", window[match.end() :]), range(4), strict=False)]
    if len(behind) > 1 and behind[0][0].lower() in {"different", "distinct", "chemical"}:
        behind = behind[1:]
    for count in range(len(behind), 0, -1):
        key = "".join(fold(m[0]) for m in behind[:count])
        quantity = names.get(key) or (_COUNTED.get(key.rstrip("s")) if count == 1 else None)
        if quantity is not None:
            end = at + longer + match.end() + behind[count - 1].end()
            cell = _PER_CELL.match(words.text, end)
            return Compared(
                _meaning(quantity, _tests(quantity, match)), cell.end() if cell and quantity == "nsites" else end
            )
    return None


def _tests(quantity: str, match: re.Match[str]) -> tuple[tuple[str, float], ...]:
    """Comparison signs and values of a match of `_COMPARED` or `_BEFORE`."""
    found = match.groupdict()
    if found["value"] is None:
        units = found["lowunit"] or found["highunit"], found["highunit"] or found["lowunit"]
        bounds = sorted(_scaled(found[name], unit) for name, unit in zip(("low", "high"), units, strict=True))
        return ((">=", bounds[0]), ("<=", bounds[1]))
    value = _scaled(found["value"], found["unit"] or found.get("unit2") or found.get("unit3"))
    if found.get("width"):
        width = abs(_scaled(found["width"], found["unit3"] or found["unit"]))
        return ((">=", round(value - width, 6)), ("<=", round(value + width, 6)))
    sign = _SIGN_OF[" ".join((found["sign"] or "=").lower().split())]
    if found["sign"] is None and (found.get("more") or found.get("less")):
        sign = ">=" if found["more"] else "<="
    tests = ((sign, value),) if sign not in "~=" else _near(quantity, value, exact=sign == "=")
    if found.get("value2"):
        second = _SIGN_OF[" ".join(found["sign2"].lower().split())]
        other = _scaled(found["value2"], found["unit2"] or found["unit"])
        tests += ((second, other),) if second not in "~=" else _near(quantity, other, exact=second == "=")
    return tests


def _meaning(quantity: str, tests: tuple[tuple[str, float], ...]) -> Meaning:
    if quantity in {"nsites", "nelements"}:
        kind, noun = ("size", "atoms in the cell") if quantity == "nsites" else ("number of elements", "elements")
        whole = tuple((sign, round(value)) for sign, value in tests)
        shown = " and ".join(
            f"{ {'>=': '≥', '<=': '≤', '=': 'exactly'}.get(sign, sign) } {value}" for sign, value in whole
        )
        text = " AND ".join(f"{quantity}{sign}{value}" for sign, value in whole)
        return size_meaning(f"{shown} {noun}", text) if kind == "size" else Meaning(kind, f"{shown} {noun}", (text,))
    wanted = Range(quantity, tests)
    return Meaning("property", range_label(wanted), ranges=(wanted,))


def _near(quantity: str, value: float, *, exact: bool) -> tuple[tuple[str, float], ...]:
    if quantity in {"nsites", "nelements"}:
        return (("=", value),) if exact else ((">=", round(value * 0.9)), ("<=", round(value * 1.1)))
    if value == 0 and quantity not in {"formation_energy_per_atom", "efermi"}:
        return (("<=", _NOTHING),)
    if value == 0:
        return ((">=", -_NOTHING), ("<=", _NOTHING))
    width = abs(value) * _TOLERANCE
    return ((">=", round(value - width, 6)), ("<=", round(value + width, 6)))


def _scaled(number: str, unit: str | None) -> float:
    name = (unit or "").lower().split("/")[0].split(" ")[0].strip()
    if name.startswith("kg"):
        return _value(number) / 1000
    scale = next((scales[name] for scales in _SCALES.values() if name in scales), 1.0)
    if unit and unit.startswith("MPa"):
        scale = 1e-3
    return _value(number) * scale


def _value(number: str) -> float:
    """The value of a number with a point or commas: `1,5` is 1.5, `1,000` is 1000."""
    thousands = re.fullmatch(r"-?\d{1,3}(?:,\d{3})+", number)
    return float(number.replace(",", "" if thousands else "."))

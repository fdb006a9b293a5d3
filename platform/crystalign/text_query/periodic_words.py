"""Groups and periods of the periodic table in queries: `III-V semiconductor`, `group 14`, `group IVB`, `period 4`."""

from __future__ import annotations

import re
from typing import NamedTuple

from crystalign.text_query.chips import Meaning, all_of, has

GROUPS = (
    "H Li Na K Rb Cs Fr; Be Mg Ca Sr Ba Ra; Sc Y La Lu; Ti Zr Hf; V Nb Ta; Cr Mo W; Mn Tc Re; Fe Ru Os; Co Rh Ir; "
    "Ni Pd Pt; Cu Ag Au; Zn Cd Hg; B Al Ga In Tl; C Si Ge Sn Pb; N P As Sb Bi; O S Se Te Po; F Cl Br I At; "
    "He Ne Ar Kr Xe Rn"
)
"""Elements of the groups 1 to 18 (International Union of Pure and Applied Chemistry)."""
PERIODS = (
    "H He; Li Be B C N O F Ne; Na Mg Al Si P S Cl Ar; "
    "K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr; "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe; "
    "Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn"
)
"""Elements of the periods 1 to 6."""
VALENCES = {
    "I": "Li Na K Rb Cs Cu Ag Au",
    "II": "Be Mg Ca Sr Ba Zn Cd Hg",
    "III": "B Al Ga In Tl",
    "IV": "C Si Ge Sn Pb",
    "V": "N P As Sb Bi",
    "VI": "O S Se Te",
    "VII": "F Cl Br I",
}
"""Roman numeral → elements with so many valence electrons, as in `III-V semiconductor`."""
_SUBGROUPS = dict(zip("I II III IV V VI VII".split(), (11, 12, 3, 4, 5, 6, 7), strict=True))  # noqa: SIM905 (numerals)
_MAIN = dict(zip("I II III IV V VI VII VIII".split(), (1, 2, 13, 14, 15, 16, 17, 18), strict=True))  # noqa: SIM905
_NUMERAL = "VIII|VII|VI|IV|V|III|II|I"
_CHAIN = re.compile(
    rf"(?P<chain>(?:{_NUMERAL})\d?(?:\s?[-/]\s?(?:{_NUMERAL})\d?)+)(?![\w-])"
    r"(?P<noun>\s+(?:type\s+)?(?:semiconduct|compound|material|crystal|alloy|famil|chalcopyrite|group))?"
)
_GROUP = re.compile(
    rf"groups?[\s-]+(?:(?P<number>1[0-8]|[1-9])|(?P<roman>{_NUMERAL})[\s-]?(?P<half>[AB])?)(?![\w.])"
    r"(?:\s+elements?\b)?",
    re.IGNORECASE,
)
_PERIOD = re.compile(r"period[\s-]+(?P<number>[1-6])(?![\w.])(?:\s+elements?\b)?", re.IGNORECASE)
_LONGEST = 60


class Read(NamedTuple):
    """A phrase that was read."""

    meaning: Meaning
    """What it means."""
    end: int
    """Where it ends in the plain text."""


def read_periodic(text: str, start: int) -> Read | None:
    """A group, a period or a chain of Roman numerals at a place of the plain text; None if there is none."""
    window = text[start : start + _LONGEST]
    if period := _PERIOD.match(window):
        number = int(period["number"])
        return Read(_family(f"period-{number} element", _row(PERIODS, number)), start + period.end())
    if group := _GROUP.match(window):
        return Read(_group(group), start + group.end())
    chain = _CHAIN.match(window)
    if chain is None or (chain["noun"] is None and re.fullmatch("[IV]-[IV]", chain["chain"])):
        return None  # a current-voltage curve
    meaning = _chain(chain["chain"])
    return None if meaning is None else Read(meaning, start + chain.end("chain"))


def _row(table: str, number: int) -> list[str]:
    return table.split(";")[number - 1].split()


def _family(shown: str, symbols: list[str], note: str = "") -> Meaning:
    return Meaning("family", f"contains a {shown}", (has(symbols, "ANY"),), note=note or ", ".join(symbols))


def _group(match: re.Match[str]) -> Meaning:
    """A group by its number, or by a Roman numeral with A (main group) or B (d block), as in North America.

    A numeral alone may be either.
    """
    if match["number"]:
        number = int(match["number"])
        return _family(f"group-{number} element", _row(GROUPS, number))
    roman, half = match["roman"].upper(), (match["half"] or "").upper()
    main = _row(GROUPS, _MAIN[roman])
    block = _row(GROUPS, _SUBGROUPS[roman]) if roman in _SUBGROUPS else "Fe Co Ni Ru Rh Pd Os Ir Pt".split()  # noqa: SIM905
    if half:
        return _family(f"group-{roman}{half} element", main if half == "A" else block)
    note = f"main group or d block: {', '.join((*main, *block))}"
    return _family(f"group-{roman} element", [*main, *block], note)


def _chain(written: str) -> Meaning | None:
    """Compounds of one element of each numeral, with the amounts that are stated: `I-III-VI2`."""
    units = re.findall(rf"({_NUMERAL})(\d?)", written)
    if any(roman not in VALENCES or n == "0" for roman, n in units) or len({roman for roman, _ in units}) < len(units):
        return None
    elements = [has(VALENCES[roman].split(), "ANY") for roman, _ in units]
    every = [symbol for roman, _ in units for symbol in VALENCES[roman].split()]
    condition = all_of(f"nelements={len(units)}", *elements)
    wider = all_of(*elements, has(every, "ONLY"))
    if any(n for _, n in units) or len(units) == 2:
        counts = sorted((int(n or 1) for _, n in units), reverse=True)
        ratio = "".join("ABCDEFG"[i] + (str(n) if n > 1 else "") for i, n in enumerate(counts))
        stated = all_of(condition, f'chemical_formula_anonymous="{ratio}"')
        return Meaning("family", f"{written}: {ratio} of these groups first", (stated, wider))
    return Meaning("family", f"{written}: one element of each group first", (condition, wider))

"""Unit, zero and Fermi level of a density of states, from its header."""

from __future__ import annotations

import re
from typing import NamedTuple

from crystalign.errors import SpectrumError

HARTREE, RYDBERG = 27.211386245988, 13.605693122994
"""eV, CODATA 2018."""
_EV = {
    "ev": 1.0, "mev": 1e-3, "kev": 1e3, "ha": HARTREE, "hartree": HARTREE, "hartrees": HARTREE, "au": HARTREE,
    "a.u.": HARTREE, "a.u": HARTREE, "ry": RYDBERG, "ryd": RYDBERG, "rydberg": RYDBERG, "rydbergs": RYDBERG,
}  # fmt: skip
_UNIT = (
    r"(?:[mk]?ev|hartrees?|ha|a\.\s?u\.?|au|rydbergs?|ryd?|cm\s?\^?[({]?[-\u2212]1|cm\u207b\u00b9|1/cm|[tgm]hz|nm|"
    r"kj/mol|kcal/mol|kelvin|k|j)(?![A-Za-z])"
)
MAX_HEADER = 50_000
"""Characters of a header that are searched."""
_NUMBER = r"[-+\u2212]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eEdD][-+]?\d+)?"
_LEVEL = (
    r"(?:e[\s_-]?fermi(?:[\s_-]{0,3}(?:energy|level))?|fermi[\s_-]{0,3}(?:energy|level)|chemical\s+potential|"
    r"(?<![-\u2212\u2013\w])(?<![-\u2212\u2013]\s)e_?f(?![a-z]))"
)
_FERMI = re.compile(
    rf"(?<![A-Za-z]){_LEVEL}(?:\s?[\[(/_]?\s?(?P<before>{_UNIT})\s?[\])]?)?"
    rf"(?:\s*(?:[=:]|\bis\b|\bat\b)\s{{0,4}}(?:at\s)?(?P<said>[^\s,;]{{1,24}})|\s+(?P<bare>{_NUMBER}))"
    rf"(?:\s{{0,3}}[\[(]?(?P<unit>{_UNIT}))?",
    re.IGNORECASE,
)
_GIVEN = re.compile(rf"(?P<number>{_NUMBER})(?P<unit>[A-Za-z.]{{0,9}})[\])]?$")
_KEYS = re.compile(r"(?<![A-Za-z])(n_?atoms|zero)\s*[=:]\s*([-+.\w]+)", re.IGNORECASE)
_TO = (
    r"(?:(?:relative|referenced|aligned|shifted|respect|reference|zero|origin|0)\s{1,9}"
    r"(?:is\s{1,9}|was\s{1,9})?(?:set\s{1,9})?(?:to|at|is|=)\s{1,9}|w\.?r\.?t\.?\s{1,9}|"
    r"(?:counted|measured)\s{1,9}from\s{1,9})(?:the\s{1,9})?"
)
_FROM = rf"(?:{_TO}|(?<![A-Za-z])e(?:nergy|nergies|n)?(?:\s?[\[(/_]\s?ev\s?[\])]?)?\s?[-\u2212\u2013]\s?)"
_BAND = r"\{?(?:e[\s_]?\{?)?(?:vbm|v\.b\.m|homo|valence[\s_-]band|top\s+of\s+the\s+valence|ev(?![a-z]))"
_VBM = re.compile(_FROM + _BAND, re.IGNORECASE)
_OTHER_ZERO = re.compile(
    _FROM + r"\{?(?:e[\s_]?\{?)?(?:cbm|lumo|conduction|mid[\s_-]?gap|core|band\s+cent)", re.IGNORECASE
)
_RELATIVE = re.compile(
    r"\be\w{0,12}(?:\s?[\[(]ev[\])])?\s?[-\u2212\u2013]\s?(?:e_?\{?f|fermi|mu\b)"
    r"(?![^\n,;=:]{0,16}[=:]\s{0,4}[-+.\d])|"
    + _TO + r"(?:e_?f|fermi)|reference\s+for\s+this\s+output\s+is\s+the\s+fermi|"
    r"(?:fermi[\s_-]{0,3}(?:level|energy)|(?<![A-Za-z])e_?f(?:ermi)?)\s+(?:is\s+|was\s+)?(?:(?:set|shifted|aligned)\s+(?:to|at)|at|is)\s+(?:zero|0(?![.\d]))",
    re.IGNORECASE,
)  # fmt: skip
_ABSOLUTE = re.compile(
    r"int\s+dos\s*\(e\)|\bp?dos(?:up|dw)?\s*\(e\)|reference\s+for\s+this\s+output\s+is", re.IGNORECASE
)
_EDGE = re.compile(
    r"(?:vbm|homo|valence[\s_-]band[\s_-](?:max\w{0,6}|top|edge))(?:\s?[\[(]ev[\])])?\s?(?:[=:]|is|at)\s{0,4}"
    r"(?P<number>[-+]?\d{1,9}(?:\.\d{0,20})?)",
    re.IGNORECASE,
)
_UNCLEAR = re.compile(r"fermi(?![\s_-]*(?:dirac|smear|function|temp|broad))[^\n\d]{0,40}\d", re.IGNORECASE)
_OF_ENERGY = re.compile(
    r"(?:(?<![A-Za-z])energ(?:y|ies|ie)|(?<![A-Za-z])e)(?:\s?[-\u2212\u2013]\s?e?_?f(?:ermi)?)?"
    rf"[\s,_/\[(:]{{1,4}}(?:(?:are\s+)?in\s+|units?\s?[=:]?\s?)?(?P<unit>{_UNIT})",
    re.IGNORECASE,
)
_COLUMN = re.compile(rf"(?<![A-Za-z]){_UNIT}", re.IGNORECASE)
_NO_ENERGY = re.compile(
    r"^[^\w\n]{0,9}(?:wave\s?numbers?|wave\s?lengths?|frequenc(?:y|ies))\b(?!\s*[=:])", re.IGNORECASE | re.MULTILINE
)
_SAME_ZERO = {"efermi": "fermi", "ef": "fermi", "e_f": "fermi", "e_fermi": "fermi", "valence": "vbm", "e_vbm": "vbm"}


class Header(NamedTuple):
    """Statements of a header."""

    n_atoms: int | None
    efermi: float | None
    """eV."""
    zero: str | None
    """As stated: `fermi` or `vbm`."""
    relative: bool
    """Whether the energies are counted from a zero already, so that no Fermi level is subtracted."""
    notices: tuple[str, ...]


def read_header(header: str, first: str) -> Header:
    """Atoms, Fermi level and zero.

    Args:
        header: all its lines.
        first: the name of the first column; empty if it has none.

    Raises:
        SpectrumError: other units than eV, or a zero that cannot be told.
    """
    header = re.sub(r"[{}$\\]", "", re.sub(r"[ \t]{2,}", " ", header))
    if len(header) > MAX_HEADER:
        message = f"the header has {len(header)} characters; at most {MAX_HEADER} are read. Remove what is not needed"
        raise SpectrumError(message, reason="bad-header")
    in_ev = _check_units(header, first)
    stated: dict[str, str] = {}
    for match in _KEYS.finditer(header):
        stated.setdefault(match[1].lower().replace("_", ""), match[2])
    try:
        atoms = int(stated["natoms"]) if "natoms" in stated else None
    except ValueError as error:
        raise SpectrumError(f"the header is unclear: {stated}; write n_atoms = 8", reason="bad-header") from error
    zero = stated["zero"].lower() if "zero" in stated else None
    zero = _SAME_ZERO.get(zero or "", zero)
    if zero not in {None, "fermi", "vbm"}:
        raise SpectrumError(f"zero = {zero!r}; energies are counted from fermi or vbm", reason="bad-header")
    efermi = _fermi(header, in_ev)
    rest = _KEYS.sub("", header)
    relative = _RELATIVE.search(rest) is not None or _RELATIVE.search(rest.replace("_", " ")) is not None
    if zero == "fermi" and efermi and not relative:
        message = (
            f"the header states zero = fermi and a Fermi level of {efermi:g} eV: if the energies are absolute, remove "
            "the zero; if they are counted from the Fermi level, remove the level"
        )
        raise SpectrumError(message, reason="bad-header")
    if (other := _OTHER_ZERO.search(rest)) is not None:
        message = f"the header says {other[0]!r}; give energies from the Fermi level or from the valence-band maximum"
        raise SpectrumError(message, reason="no-fermi-level")
    if _VBM.search(rest) is not None:
        if zero == "fermi" or relative:
            message = "the header names both the Fermi level and the valence-band maximum as the zero; leave one"
            raise SpectrumError(message, reason="bad-header")
        zero = "vbm"
    if efermi is None and zero is None and not relative:
        _check_absolute(header)
    return Header(atoms, efermi, zero, relative or zero == "vbm", (_notice(efermi, zero, relative),))


def _notice(efermi: float | None, zero: str | None, relative: bool) -> str:
    """Notice that says which zero was assumed."""
    if zero == "vbm":
        return "the header says that energies are counted from the valence-band maximum; nothing was subtracted"
    if efermi is not None and not relative:
        return f"energies are counted from the stated Fermi level, {efermi:g} eV"
    if zero == "fermi" or relative:
        return "the header says that energies are counted from the Fermi level; nothing was subtracted"
    return (
        "no Fermi level is stated, so the energies were taken to be counted from it; if they are absolute, add "
        "`# efermi = ...` (eV) as the first line"
    )


def _check_absolute(header: str) -> None:
    """Refuse absolute energies without a Fermi level, and a Fermi level that is written in an unknown way.

    Raises:
        SpectrumError: such a header.
    """
    if _ABSOLUTE.search(header):
        message = (
            "the energies are absolute and the file does not state a Fermi level; add `# efermi = ...` (eV) as the "
            "first line"
        )
        raise SpectrumError(message, reason="no-fermi-level")
    if (edge := _EDGE.search(header)) is not None and float(edge["number"]) != 0.0:
        message = (
            f"the header states a valence-band maximum of {edge['number']} and no Fermi level, so the energies may be "
            "absolute; add `# efermi = ...` (eV), or count the energies from the maximum and write `# zero = vbm`"
        )
        raise SpectrumError(message, reason="no-fermi-level")
    if (unclear := _UNCLEAR.search(header)) is not None:
        message = f"the header is unclear about the Fermi level: {unclear[0][:60]!r}; write `# efermi = ...` (eV)"
        raise SpectrumError(message, reason="no-fermi-level")


def _fermi(header: str, in_ev: bool) -> float | None:
    """The Fermi level in eV; None if the header states none.

    Raises:
        SpectrumError: it is no number, has an unknown unit, or the header states two.
    """
    values: list[float] = []
    for match in _FERMI.finditer(header):
        word, unit = match["bare"] or match["said"], match["unit"] or match["before"] or ""
        given = _GIVEN.match(word.replace("\u2212", "-").rstrip(".,") if word[-1:] in ".," else word)
        if given is None:
            if re.match(r"(?i)set|zero|shift|align|the|a|not|taken", word):
                continue
            message = f"the header is unclear: the Fermi level is {word!r}; write efermi = 5.2 (eV)"
            raise SpectrumError(message, reason="bad-header")
        number = float(re.sub("[dD]", "e", given["number"].replace("\u2212", "-")))
        unit = (given["unit"] or unit).lower().replace(" ", "")
        if unit and unit not in _EV:
            message = f"the Fermi level is stated in {unit!r}; give it in eV"
            raise SpectrumError(message, reason="bad-unit")
        if unit not in {"", "ev"} and not in_ev:
            message = (
                f"the Fermi level is stated in {unit!r} and the header does not say that the energies are in eV; "
                "give both in eV"
            )
            raise SpectrumError(message, reason="bad-unit")
        values.append(number * _EV.get(unit, 1.0))
    if values and max(values) - min(values) > 0.01:
        message = f"the header states Fermi levels of {min(values):g} and {max(values):g} eV; leave one"
        raise SpectrumError(message, reason="bad-header")
    return values[0] if values else None


def _check_units(header: str, first: str) -> bool:
    """Refuse units other than eV and lists of single states; return whether the header states eV.

    Raises:
        SpectrumError: such a file.
    """
    without = _FERMI.sub("", header)
    units = [match["unit"] for match in _OF_ENERGY.finditer(without)]
    units += [match[0] for match in _COLUMN.finditer(first)]
    named: re.Match[str] | None = None
    other = next((unit for unit in units if unit.lower() != "ev"), None)
    if other is not None or (named := _NO_ENERGY.search(without)) is not None:
        what = f"in {other!r}" if named is None else f"called {named[0].strip(' #')!r}"
        message = f"the energies are {what}; give energies in eV and densities in states/eV"
        raise SpectrumError(message, reason="bad-unit")
    if re.search(r"(?i)(?:states?|1)\s*/\s*(?:ry|ha)\w*|\bnenrg\s*=", header):
        message = "the densities or the Fermi level are per Rydberg or Hartree; give energies in eV and states/eV"
        raise SpectrumError(message, reason="bad-unit")
    if re.search(r"(?i)eigenvalue|occupation|projected dos for atomic kind", header):
        message = "the file lists single states, not a density; give energies (eV) and states/eV, broadened"
        raise SpectrumError(message, reason="no-dos")
    return bool(units)

"""Wavelength of a measured pattern, from its file or from the user.

A header contains many numbers: dates, times, temperatures, voltages. A number is only taken as wavelength next to a
word for it and between 0.05 and 5 Å. If none is stated, none is guessed.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from crystalign.errors import SpectrumError
from crystalign.physics.diffraction import WAVELENGTHS, parse_wavelength

KEV_ANGSTROM = 12.398419843
"""keV Å: photon energy times wavelength, CODATA 2018."""
SAME = 0.01
"""Wavelengths that differ by less than this fraction belong to one anode."""
SHORTEST, LONGEST = 0.05, 5.0

_NUMBER = r"(?<![\w.])([-+]?\d*[.,]?\d+(?:[eE][-+]?\d+)?)"
_UNIT = r"(?:[\s\"'\])]{0,3}(nm|pm|keV|eV|meV|Angstroms?|Ang|\u00c5|\u212b|A(?![A-Za-z])|m(?![A-Za-z])))?"
_WORD = (
    r"wave[\s_-]*length|wellenl(?:\u00e4|ae|a)nge|longueur\s+d.onde|longitud\s+de\s+onda|lunghezza\s+d.onda|"
    r"comprimento\s+de\s+onda|\u6ce2\u9577|\u6ce2\u957f|lambda|\u03bb|(?<![A-Za-z])wl"
)
_LINE = (
    r"k[ \t_-]*(?:alpha|\u03b1|\u0251|a)[ \t_-]*(?P<alpha>[12\u2081\u2082]|average|mean|avg)?"
    r"|k[ \t_-]*(?P<beta>beta|\u03b2|b)"
    r"|wave[\s_-]*length[\s_-]*alpha[\s_-]*(?P<only>[12])|wave[\s_-]*length[\s_-]*(?P<wbeta>beta)"
    r"|(?<![A-Za-z])wl(?P<uxd>[123])"
)
_GAP = r"[^0-9\n]{0,32}?"
_STATED = re.compile(
    rf"(?:(?P<line>{_LINE})|(?P<word>{_WORD})(?P<index>[12\u2081\u2082])?)(?![A-Za-z])(?P<gap>{_GAP}){_NUMBER}{_UNIT}",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"\b(?:angstroms?|ang|a|nm|pm|m|in|is|of|the|used|wave[\s_-]*length|lambda|line|value|mean|average|weighted|avg|"
    r"k|alpha|ka|cu|mo|co|fe|cr|ag|radiation|x-?ray|units?|material)\b",
    re.IGNORECASE,
)
"""Words that may stand between a name of a wavelength and its number."""
_RATIO = re.compile(rf"(?:ratio|verh\u00e4ltnis|i2/i1)[^\n]{{0,60}}?{_NUMBER}", re.IGNORECASE)
_ENERGY = re.compile(
    rf"(?:energy|energie|photon|beam)\b[^0-9\n]{{0,24}}?{_NUMBER}\s*[\"'\])]?\s*\(?(keV|eV)\b"
    rf"|(?:energy|energie)\s*[\[(]\s*(keV|eV)\s*[\])]\s*[:=]?\s*{_NUMBER}",
    re.IGNORECASE,
)
_DETECTOR = re.compile(r"discriminat|window|thresh|lower|upper|resolution|cut-?off|phd|level|gap|edge", re.IGNORECASE)
_OF_SAMPLE = re.compile(
    r"fluoresc|absor|emission|detector|binding|ionis|ioniz|shell|\bring\b|electron|storage", re.IGNORECASE
)
"""Words beside an energy that is not that of the beam."""
_TUBE = re.compile(
    r"(?<![A-Za-z])(Cu|Mo|Co|Fe|Cr|Ag)\s*[-_,]?\s*K[-_\s]?(?:\u03b1|\u0251|alpha|a)[\s_-]*([12\u2081\u2082]?)(?![0-9A-Za-z])",
    re.IGNORECASE,
)
_ANODE = re.compile(
    r"(?:anode|target|tube|r\u00f6hre|x-?ray\s+source|radiation|strahlung)[\w\s]{0,20}?[\"'\s:=,;()\[\]]{1,6}"
    r"(Cu|Mo|Co|Fe|Cr|Ag|copper|molybdenum|cobalt|iron|chromium|silver|kupfer|molybd\u00e4n|kobalt)(?![A-Za-z])",
    re.IGNORECASE,
)
_TARGET = re.compile(
    r"(?<![A-Za-z])(Cu|Mo|Co|Fe|Cr|Ag|copper|molybdenum|cobalt|chromium)[\s-]+(?:target|anode|tube|radiation|source)\b",
    re.IGNORECASE,
)
_ELEMENTS = {
    "copper": "Cu", "molybdenum": "Mo", "cobalt": "Co", "iron": "Fe", "chromium": "Cr", "silver": "Ag",
    "kupfer": "Cu", "molybd\u00e4n": "Mo", "kobalt": "Co",
}  # fmt: skip
_UNITS = {"nm": 10.0, "pm": 0.01, "m": 1e10}
_SMALL = str.maketrans("₁₂", "12")


class Stated(NamedTuple):
    """Wavelength stated in a header."""

    value: float | None
    """Å."""
    exact: bool = True
    """Whether the header states which lines were recorded; False if it names only the anode or its Kα."""
    notices: tuple[str, ...] = ()
    """How the value was chosen, if there was a choice."""


def stated_wavelength(header: str) -> float | None:
    """Å, where a header says `wavelength = 1.5406`, `energy 20 keV`, or names a tube; None if it does not.

    Raises:
        SpectrumError: the header states two wavelengths of different tubes.
    """
    return find_wavelength(header).value


def find_wavelength(header: str) -> Stated:
    """The wavelength that a header states.

    A wavelength without the name of a line counts most; then Kα₁ or the stated mean of Kα₁ and Kα₂;
    then a photon energy; then the name of a tube. An anode without its lines means the mean of Kα₁ and Kα₂.

    Raises:
        SpectrumError: the header states two wavelengths of different tubes.
    """
    plain, lines = _labelled(header)
    energy = _energy(header)
    tube = _tube(header)
    for first, second in itertools.pairwise(plain):
        if not agree(first, second):
            raise _contradiction(first, second)
    if plain:
        value = plain[0]
        if energy is not None and not agree(energy, value):
            raise _contradiction(value, energy)
        if tube.value is not None and not agree(tube.value, value):
            notice = (
                f"the file names a tube of {tube.value:.5f} Å and a wavelength of {value:.5f} Å; the number was used"
            )
            return Stated(value, notices=(notice,))
        return Stated(value)
    if "mean" in lines:
        return Stated(lines["mean"])
    if "1" in lines:
        others = [f"Kα₂ {lines['2']:.5f}"] if "2" in lines else []
        others += [f"Kβ {lines['b']:.5f}"] if "b" in lines else []
        notice = f"of the wavelengths in the file, Kα₁ = {lines['1']:.5f} Å was used (not {', '.join(others)})"
        return Stated(lines["1"], notices=(notice,) if others else ())
    if energy is not None:
        return Stated(energy, notices=(f"wavelength {energy:.5f} Å from the photon energy in the file",))
    return tube


def agree(first: float, second: float) -> bool:
    """Whether two wavelengths may belong to one anode."""
    return abs(first - second) <= SAME * max(first, second)


def settle(stated: Stated, given: str | float | None) -> Stated:
    """The wavelength of a file to which a user gave one: the file's own wins.

    Raises:
        SpectrumError: the user's is no wavelength.
    """
    if given is None or given == "":
        return stated
    chosen = parse_wavelength(given)
    if stated.value is None:
        return Stated(chosen)
    if agree(chosen, stated.value):
        return stated if stated.exact else Stated(chosen)
    notice = (
        f"the file states a wavelength of {stated.value:.5f} Å, which was used; the {chosen:.5f} Å that you gave was "
        "not. If the file is wrong, correct its header"
    )
    return Stated(stated.value, stated.exact, (*stated.notices, notice))


def mean_of_lines(first: float, second: float, ratio: float = 0.5) -> float:
    """(λ₁ + r λ₂) / (1 + r), the mean of Kα₁ and Kα₂ weighted by their intensities."""
    return (first + ratio * second) / (1.0 + ratio)


def of_anode(symbol: str) -> Stated:
    """The mean of Kα₁ and Kα₂ of an anode; nothing of an unknown one."""
    element = _ELEMENTS.get(symbol.strip().lower(), symbol.strip().title())
    value = WAVELENGTHS.get(f"{element}Ka")
    notice = f"wavelength {value} Å: the file only names the anode {element}, so the mean of Kα₁ and Kα₂"
    return Stated(None) if value is None else Stated(value, exact=False, notices=(notice,))


def _contradiction(first: float, second: float) -> SpectrumError:
    message = f"the file states two wavelengths, {first:.5f} Å and {second:.5f} Å; leave one of them in its header"
    return SpectrumError(message, reason="wavelength-contradictory")


def _labelled(header: str) -> tuple[list[float], dict[str, float]]:
    """Return the wavelengths (Å) stated without a line, in order, and those of lines by `1`, `2`, `mean` and `b`."""
    plain: list[float] = []
    lines: dict[str, float] = {}
    for match in _STATED.finditer(_RATIO.sub("", header)):
        *_, number, unit = match.groups()
        value = _angstrom(number, unit, match["gap"])
        if value is None or re.search("[A-Za-z]", _BETWEEN.sub("", match["gap"].replace("_", " "))):
            continue
        if match["word"] and not match["index"]:
            plain.append(value)
        elif match["beta"] or match["wbeta"] or match["uxd"] == "3":
            lines.setdefault("b", value)
        else:
            which = (match["alpha"] or match["only"] or match["uxd"] or match["index"] or "mean").translate(_SMALL)
            lines.setdefault(which if which in {"1", "2"} else "mean", value)
    return plain, lines


def _angstrom(number: str, unit: str | None, gap: str) -> float | None:
    """Convert a number to Å by the unit after it or in brackets before it; None if it is no wavelength."""
    value = float(number.replace(",", "."))
    before = re.search(r"[\[(_\s]\s*(nm|pm|keV|eV|m)\s*[\])]?\s*[:=,\"']*\s*$", gap)
    unit = unit or (before[1] if before else None)
    if unit and unit.lower().endswith("ev"):
        return None
    if not unit and not re.search(r"[.,eE]", number) and not re.search(r"[:=]", gap):
        return None  # a whole number beside the word alone may be anything
    value *= _UNITS.get(unit or "", 1.0)
    if not unit and 0 < value < 1e-8:
        value *= 1e10  # pyFAI writes metres
    return value if SHORTEST <= value <= LONGEST else None


def _energy(header: str) -> float | None:
    """Return the wavelength (Å) of a stated photon energy between 2.5 and 250 keV; None if there is none.

    Raises:
        SpectrumError: the header states two of them.
    """
    values: list[float] = []
    of_beam = "\n".join(line for line in header.split("\n") if not _DETECTOR.search(line))
    for match in _ENERGY.finditer(of_beam):
        beside = re.split(r"[\n;,|]", of_beam[max(0, match.start() - 60) : match.start()])[-1] + match[0]
        if _OF_SAMPLE.search(beside):
            continue
        number, unit = (match[1], match[2]) if match[1] else (match[4], match[3])
        kev = float(number.replace(",", ".")) * (1.0 if unit.lower() == "kev" else 1e-3)
        if 2.5 <= kev <= 250.0:
            values.append(KEV_ANGSTROM / kev)
    for value in values[1:]:
        if not agree(value, values[0]):
            raise _contradiction(values[0], value)
    return values[0] if values else None


def _tube(header: str) -> Stated:
    """Return the wavelength of a line that the header names, such as `Cu Kα1`, or of an anode."""
    tubes = {f"{match[1].title()}Ka{match[2].translate(_SMALL)}" for match in _TUBE.finditer(header)}
    values = sorted({WAVELENGTHS[tube] for tube in tubes if tube in WAVELENGTHS})
    if values and not agree(values[0], values[-1]):
        raise _contradiction(values[0], values[-1])
    for line in ("Ka", "Ka1", "Ka2"):
        named = [tube for tube in sorted(tubes) if tube.endswith(line)]
        if named and named[0] in WAVELENGTHS:
            return Stated(WAVELENGTHS[named[0]], exact=line != "Ka")
    match = _ANODE.search(header) or _TARGET.search(header)
    return Stated(None) if match is None else of_anode(match[1])

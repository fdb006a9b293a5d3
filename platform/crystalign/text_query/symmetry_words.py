"""Words and symbols of symmetry: crystal systems, sets of space groups, and space groups in any notation."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from crystalign.text_query.chips import Meaning, numbers_in
from crystalign.text_query.lattice_words import centred_lattices
from crystalign.text_query.words import squeezed

SYSTEMS = {
    "triclinic, anorthic": range(1, 3),
    "monoclinic": range(3, 16),
    "orthorhombic": range(16, 75),
    "tetragonal": range(75, 143),
    "trigonal": range(143, 168),
    "rhombohedral": (146, 148, 155, 160, 161, 166, 167),
    "hexagonal": range(168, 195),
    "cubic, isometric": range(195, 231),
}
"""Crystal system → its space groups; rhombohedral means a rhombohedral lattice."""
_CLASSES = """C1 1 1, Ci 2 1, C2 3 3, Cs 6 4, C2h 10 6, D2 16 9, C2v 25 22, D2h 47 28, C4 75 6, S4 81 2, C4h 83 6,
D4 89 10, C4v 99 12, D2d 111 12, D4h 123 20, C3 143 4, C3i 147 2, S6 147 2, D3 149 7, C3v 156 6, D3d 162 6, C6 168 6,
C3h 174 1, C6h 175 2, D6 177 6, C6v 183 4, D3h 187 4, D6h 191 4, T 195 5, Th 200 7, O 207 8, Td 215 6, Oh 221 10"""
_POINT_POLAR = frozenset(["1", "2", "3", "4", "6", "m", "mm2", "3m", "4mm", "6mm"])
_SYMBOL = re.compile(r"[PIFABCRHpifabcrh](?:[ _]?(?:-?[1-6]|[mabcnde/MABCNDE]|\([1-5]\)|:[12HRh]))+")
_NUMBERED = re.compile(
    r"(?:space[ -]?group|sg|s\.g\.)s?[\s:=#(,]*(?:(?:no|number|nr|num)\b\.?|№)?[\s:=#]*(?P<first>\d{1,3})(?![\w.])"
    r"|(?:no\.?|nr\.?|№)\s?(?P<second>\d{1,3})(?![\w.%])(?!\s*(?:atoms?|elements?|sites?|ev|gpa)\b)"
    r"|#\s?(?P<third>\d{1,3})(?![\w.])",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?:space[ -]?group|sg|s\.g\.|symmetry)s?[\s:=,]*(?:symbol|type|of|is)?[\s:=]*", re.IGNORECASE)
_SCHOENFLIES = re.compile(r"(?P<family>[CDSTO])_?\{?(?P<sub>\d?[hvdis]?)\}?\^\{?(?P<number>\d{1,2})\}?(?![\w])")
_BEHIND = re.compile(r"\s?\(?(?:(?:space[ -]?group\s?)?(?:[Nn]o\.?\s?|#)?\d{1,3}\)|space[ -]?group\b)")
_LONGEST = 40


@functools.cache
def space_groups() -> dict[str, int]:
    """Hermann–Mauguin symbol without spaces, in every setting → number; cubic ones also as in `Fm3m`."""
    import gemmi

    symbols: dict[str, int] = {}
    for group in gemmi.spacegroup_table():
        for written in (group.short_name(), group.hm, group.xhm(), group.hm.replace(" 1", "")):
            symbols.setdefault(re.sub(r"[ _()]", "", written), group.number)
    symbols |= {"Cmce": 64, "Aem2": 39, "Aea2": 41, "Ccce": 68, "Cmme": 67}
    for symbol, number in list(symbols.items()):
        if number > 194 and "-3" in symbol[1:]:
            symbols.setdefault(symbol.replace("-3", "3"), number)
    return symbols


@functools.cache
def _lower_case() -> dict[str, int]:
    """Symbols in lower case that belong to one space group only."""
    found: dict[str, set[int]] = {}
    for symbol, number in space_groups().items():
        found.setdefault(symbol.lower(), set()).add(number)
    return {symbol: next(iter(numbers)) for symbol, numbers in found.items() if len(numbers) == 1}


@functools.cache
def pretty_symbol(number: int) -> str:
    """The symbol of a space group with underscores for screw axes: `P4_2/mnm`."""
    import gemmi

    group = gemmi.find_spacegroup_by_number(number)
    parts = [re.sub(r"^([2346])([1-5])", r"\1_\2", part) for part in group.hm.split()]
    middle = [part for part in parts[1:] if part != "1" or number > 15]  # P 1 21/c 1, but P 31 2 1
    return parts[0] + ("".join(middle) or "1")


def find_space_group(text: str, start: int) -> tuple[int, int] | None:
    """The number of the space group that is named at a place of a plain text, and where its name ends."""
    window = text[start : start + _LONGEST]
    if numbered := _NUMBERED.match(window):
        number = int(numbered["first"] or numbered["second"] or numbered["third"])
        return (number, start + numbered.end()) if 1 <= number <= 230 else None
    if schoenflies := _SCHOENFLIES.match(window):
        number = _from_schoenflies(schoenflies)
        return (number, start + schoenflies.end()) if number else None
    named = _NAMED.match(window)
    begin = named.end() if named and named[0][:1].lower() == "s" else 0
    match = _SYMBOL.match(window, begin)
    if match is None:
        return None
    for end in range(match.end(), match.start() + 1, -1):
        if window[end : end + 1].isalnum() or window[end - 1] in " /":
            continue
        symbol = re.sub(r"[ _()]", "", window[match.start() : end])
        number = space_groups().get(symbol, 0)
        lower = 0 if number else _lower_case().get(symbol.lower(), 0)
        if (number and (begin or _is_clear(symbol))) or (lower and (begin or (len(symbol) > 3 and _is_clear(symbol)))):
            behind = _BEHIND.match(window, end)
            return number or lower, start + (behind.end() if behind else end)
    return None


def _is_clear(symbol: str) -> bool:
    """Whether a symbol needs no `space group` before it; `Cc`, `C2`, `Pm` and `P4` are formulas or symbols too."""
    return (
        len(symbol) > 3
        or "/" in symbol
        or symbol[1:2] == "-"
        or symbol == "P1"
        or (len(symbol) == 3 and re.fullmatch(r"[A-Z](?:\d\d|\d[cm])", symbol) is not None and symbol[0] not in "CBH")
    )


@functools.cache
def schoenflies_classes() -> dict[str, range]:
    """Schoenflies symbol of a point group → its space groups."""
    rows = (row.split() for row in _CLASSES.split(","))
    return {name: range(int(first), int(first) + int(count)) for name, first, count in rows}


def _from_schoenflies(match: re.Match[str]) -> int:
    numbers = schoenflies_classes().get(match["family"] + match["sub"], range(0))
    at = int(match["number"]) - 1
    return numbers[at] if 0 <= at < len(numbers) else 0


def space_group_meaning(number: int) -> Meaning:
    """Crystals of one space group."""
    return Meaning(
        "space group", f"space group {pretty_symbol(number)} ({number})", (f"space_group_it_number={number}",)
    )


@functools.cache
def _numbers(kind: str) -> tuple[int, ...]:
    import gemmi

    tests: dict[str, Callable[[gemmi.SpaceGroup], bool]] = {
        "centrosymmetric": lambda group: group.is_centrosymmetric(),
        "noncentrosymmetric": lambda group: not group.is_centrosymmetric(),
        "chiral": lambda group: group.is_sohncke(),
        "polar": lambda group: group.point_group_hm() in _POINT_POLAR,
        "piezoelectric": lambda group: not group.is_centrosymmetric() and group.point_group_hm() != "432",
    }
    return tuple(n for n in range(1, 231) if tests[kind](gemmi.find_spacegroup_by_number(n)))


def symmetry_meanings() -> dict[str, Meaning]:
    """Squeezed word → space groups."""
    field = "space_group_it_number"
    found: dict[str, Meaning] = {}
    for names, numbers in SYSTEMS.items():
        shown = names.split(",")[0]
        label = f"{shown} lattice" if shown == "rhombohedral" else shown
        meaning = Meaning("crystal system", label, (numbers_in(field, numbers),))
        for name in names.split(","):
            found |= {
                squeezed(f"{name}{ending}"): meaning for ending in ("", " system", " lattice", " symmetry", " cell")
            }
    necessary = "necessary, not sufficient: the symmetry allows it"
    sets = {
        "centrosymmetric, inversion symmetric, with inversion symmetry": ("centrosymmetric", "centrosymmetric", ""),
        "noncentrosymmetric, acentric, without inversion symmetry, no inversion symmetry, without inversion center, "
        "no inversion center, inversion symmetry breaking, lacking inversion symmetry, non centric": (
            "noncentrosymmetric", "without a centre of inversion", "",
        ),
        "polar, polar space group": ("polar", "polar space groups", ""),
        "chiral, Sohncke, enantiomorphic, optically active": (
            "chiral", "chiral crystals", "the 65 space groups without rotoinversions (Sohncke groups)",
        ),
        "ferroelectric, pyroelectric": ("polar", "ferroelectric: polar space groups", necessary),
        "piezoelectric": ("piezoelectric", "piezoelectric: no centre of inversion", necessary),
        "nonlinear optical, NLO, second harmonic generation, SHG, nonlinear optics": (
            "noncentrosymmetric", "nonlinear optical: without a centre of inversion", necessary,
        ),
    }  # fmt: skip
    for names, (kind, label, note) in sets.items():
        meaning = Meaning("space group", label, (numbers_in(field, _numbers(kind)),), note=note)
        found |= {squeezed(name): meaning for name in names.split(",")}
    return found | centred_lattices()

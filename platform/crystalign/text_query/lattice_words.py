"""Point groups, centred lattices and Pearson symbols in queries, as sets of space groups."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from crystalign.text_query.chips import Meaning, all_of, any_of, numbers_in
from crystalign.text_query.words import squeezed

_FIELD = "space_group_it_number"
_FAMILIES = {
    "a": ("triclinic", range(1, 3)),
    "m": ("monoclinic", range(3, 16)),
    "o": ("orthorhombic", range(16, 75)),
    "t": ("tetragonal", range(75, 143)),
    "h": ("hexagonal", range(143, 195)),
    "c": ("cubic", range(195, 231)),
}
"""Letter of the crystal family in a Pearson symbol → its name and space groups."""
_MULTIPLES = {"P": 1, "I": 2, "F": 4, "R": 3, "S": 2}
"""Centring → number of lattice points in the conventional cell; S is any base."""
_CENTRED = {
    "body centered": "I",
    "face centered": "F",
    "base centered": "S",
    "side centered": "S",
    "C centered": "S",
    "primitive": "P",
}
_PEARSON = re.compile(
    r"(?:[Pp]earson\s(?:symbol|code|type)?\s?)?(?P<family>[amothc])(?P<centring>[PIFRSABC])(?P<atoms>\d{1,3})(?![\w.])"
)
_POINT_GROUP = re.compile(
    r"(?:crystallographic\s)?(?:point[ -]?group|crystal[ -]class)(?:\ssymmetry|\ssymbol|\sof|\sis)*[\s:=]+"
    r"(?P<symbol>-?[1-6m][-\dm/]{0,5}|[CDSTO]_?\d?[hvdi]?)(?![\w/])",
    re.IGNORECASE,
)
_ALIASES = {"-4m2": "-42m", "-6m2": "-62m", "m3": "m-3", "m3m": "m-3m", "43m": "-43m", "321": "32", "312": "32"}
_LONGEST = 60


class Read(NamedTuple):
    """A symbol that was read."""

    meaning: Meaning
    """What it means."""
    end: int
    """Where it ends in the plain text."""


def read_lattice(text: str, start: int, schoenflies: dict[str, range]) -> Read | None:
    """A Pearson symbol or a point group at a place of the plain text.

    Args:
        text: plain text.
        start: where the symbol begins.
        schoenflies: Schoenflies symbol of a point group → its space groups.
    """
    window = text[start : start + _LONGEST]
    if pearson := _PEARSON.match(window):
        meaning = pearson_meaning(pearson["family"], pearson["centring"], int(pearson["atoms"]))
        return Read(meaning, start + pearson.end()) if meaning else None
    point = _POINT_GROUP.match(window)
    if point is None:
        return None
    symbol = point["symbol"]
    numbers = point_groups().get(_ALIASES.get(symbol, symbol)) or tuple(schoenflies.get(symbol.replace("_", ""), ()))
    if not numbers:
        return None
    return Read(
        Meaning("space group", f"point group {symbol}", (numbers_in(_FIELD, numbers),)), start + point.end("symbol")
    )


def pearson_meaning(family: str, centring: str, atoms: int) -> Meaning | None:
    """Crystals with a Pearson symbol: crystal family, centring, and number of atoms in the conventional cell.

    Crystals are stored with some cell: those whose stored cell is primitive come first, then conventional cells. For
    `hR`, the number may be that of the hexagonal or of the rhombohedral cell. None if there is no such lattice.
    """
    kind = "S" if centring in "ABC" else centring
    system, of_family = _FAMILIES[family]
    numbers = [n for n in of_family if centring_of(n) == kind]
    if not numbers or atoms < 1:
        return None
    times = _MULTIPLES[kind]
    groups = numbers_in(_FIELD, numbers)
    sites = [atoms // times] if atoms % times == 0 else []
    if kind == "R" or not sites:
        sites.append(atoms)
    first = all_of(groups, any_of(*(f"nsites={n}" for n in sites)))
    then = all_of(groups, any_of(*(f"nsites={n}" for n in dict.fromkeys([*sites, atoms]))))
    return Meaning(
        "space group",
        f"Pearson symbol {family}{centring}{atoms}",
        tuple(dict.fromkeys((first, then))),
        note=f"{system} family, this lattice, and as many atoms in the stored cell, primitive cells first",
    )


@functools.cache
def point_groups() -> dict[str, tuple[int, ...]]:
    """Hermann–Mauguin symbol of each of the 32 point groups → its space groups."""
    import gemmi

    found: dict[str, list[int]] = {}
    for number in range(1, 231):
        found.setdefault(gemmi.find_spacegroup_by_number(number).point_group_hm(), []).append(number)
    return {symbol: tuple(numbers) for symbol, numbers in found.items()}


@functools.cache
def centring_of(number: int) -> str:
    """P, I, F, R, or S for the centring of a base."""
    import gemmi

    letter = gemmi.find_spacegroup_by_number(number).hm[0]
    return "S" if letter in "ABC" else letter


def centred_lattices() -> dict[str, Meaning]:
    """Squeezed phrase such as `body-centered tetragonal` → space groups; cubic lattices are structure types, too."""
    found: dict[str, Meaning] = {}
    for system, numbers in (pair for letter, pair in _FAMILIES.items() if letter in "mot"):
        for name, centring in _CENTRED.items():
            chosen = [n for n in numbers if centring_of(n) == centring]
            if not chosen:
                continue
            meaning = Meaning("space group", f"{name} {system}", (numbers_in(_FIELD, chosen),))
            found |= {squeezed(f"{name} {system}{end}"): meaning for end in ("", " lattice", " cell")}
    if bct := found.get("bodycenteredtetragonal"):
        found["bct"] = bct
    return found

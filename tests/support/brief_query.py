"""What a query was understood as, in a few words that a table of a test can hold."""

from __future__ import annotations

from typing import Any

from crystalign.text_query.understanding import understand

SHORT = {
    "_crystalign_keywords": "kw",
    "_crystalign_chemsys": "chemsys",
    "_crystalign_": "",
    "space_group_it_number": "sg",
    "chemical_formula_reduced": "formula",
    "chemical_formula_anonymous": "ratio",
}


LISTS = {
    'kw HAS ANY "type:cubic perovskite","type:orthorhombic perovskite","type:rhombohedral perovskite",'
    '"type:tetragonal perovskite","type:hexagonal perovskite","type:cubic double perovskite",'
    '"type:monoclinic double perovskite","type:rhombohedral double perovskite","type:tetragonal double perovskite",'
    '"type:quadruple perovskite"': "PEROVSKITES",
    'kw HAS ANY "type:cubic perovskite","type:orthorhombic perovskite","type:rhombohedral perovskite",'
    '"type:tetragonal perovskite"': "SIMPLE PEROVSKITES",
    '"class:fluoride","class:chloride","class:bromide","class:iodide"': "HALIDES",
    '"Sc","Y","La","Ce","Pr","Nd","Pm","Sm","Eu","Gd","Tb","Dy","Ho","Er","Tm","Yb","Lu"': "RARE EARTHS",
    '"La","Ce","Pr","Nd","Pm","Sm","Eu","Gd","Tb","Dy","Ho","Er","Tm","Yb","Lu"': "LANTHANIDES",
    '"Sc","Ti","V","Cr","Mn","Fe","Co","Ni","Cu","Y","Zr","Nb","Mo","Tc","Ru","Rh","Pd","Ag","Hf","Ta","W","Re",'
    '"Os","Ir","Pt","Au"': "TRANSITION METALS",
}
"""Long lists → their names in tables of tests."""


def brief(text: str, fields: Any, level: int = 0) -> list[str]:
    """The filter of each chip at a level, `~` before those that only come first, and the rest behind `rest:`."""
    found = understand(text, fields)
    lines = [("" if chip.strict else "~") + short(chip.level(level)) for chip in found.chips]
    return lines + ([f"rest: {found.rest}"] if found.rest else [])


def short(filter_text: str) -> str:
    """A filter with short names of its fields."""
    for name, abbreviated in SHORT.items():
        filter_text = filter_text.replace(name, abbreviated)
    for listed, name in LISTS.items():
        filter_text = filter_text.replace(listed, name)
    return filter_text

"""Prototypes by formula: the structure type of the table, else crystals of the same ratio and space group."""

from __future__ import annotations

import functools
import re

from crystalign.text_query.chips import Meaning, all_of, any_of
from crystalign.text_query.structure_words import prototypes, type_meaning
from crystalign.text_query.words import squeezed

SPACE_GROUPS = """
Th2Zn17 166, Th2Ni17 194, TiNiSi 62, Co2Si 62, Mn5Si3 193, W5Si3 140, Cr5B3 140, Nd2Fe14B 136, CoSn 191, Fe2P 189,
ZrNiAl 189, MnP 62, FeB 62, CrB 63, PuNi3 166, CeNi3 194, Ce2Ni7 194, Gd2Co7 166, Ni2In 194, CaIn2 194, LiGaGe 186,
Cu2Sb 129, CeCu2 74, KHg2 74, YCrB4 55, YbFe2Al10 63, CaBe2Ge2 129, BaNiSn3 107, CeNiSi2 63, HoCoGa5 123, CeCoIn5 123,
U3Si2 127, Mo2FeB2 127, Mo2NiB2 71, Cr23C6 225, Th6Mn23 225, Mg2Cu 70, Ti2Ni 227, Cu5Zn8 217, Mg17Al12 217, W6Fe7 166,
ZrSi2 63, TiSi2 70, GdSi2 74, FeOCl 59, K2SO4 62, Na2IrO3 12, Li2MnO3 12, CaFe2O4 62, CaTi2O4 63, Fe2TiO5 63,
CrVO4 63, YMnO3 185, LuFe2O4 166, YbFe2O4 166, BaFe12O19 194, TbMn2O5 55, Cr3C2 62, La2O2S 164, Sc2S3 70, U3S5 62,
Mg3N2 206, ZrAl3 139, Mn23Th6 225, CuZr2 139, Ni3Ti 194, TiCu3 59, Ni3V 139, CrSi2 180, NbAs2 12, PdF2 205,
ThSi2 141, LaPtSi 109, TiFeSi 46, Sc2CoSi2 12, Y2BaNiO5 71, Ba2YCu3O7 47, Ca2Nb2O7 4, K2MgF4 139, Na3N 221, K3C60 225
"""
"""Prototype and its space group (Villars and Calvert, Pearson's Handbook); those of structure types that crystals are
recognised as are in `structure_words`."""

STRUKTURBERICHT = """
B27 FeB, B31 MnP, B33 CrB, B35 CoSn, B82 Ni2In, C22 Fe2P, C37 Co2Si, C38 Cu2Sb, C40 CrSi2, C49 ZrSi2, C54 TiSi2,
D0a TiCu3, D023 ZrAl3, D024 Ni3Ti, D5a U3Si2, D510 Cr3C2, D82 Cu5Zn8, D84 Cr23C6, D85 W6Fe7, D88 Mn5Si3, D8a Th6Mn23,
D8l Cr5B3, D8m W5Si3
"""
"""Strukturbericht symbol and its prototype (Mehl et al., Comput. Mater. Sci. 136, S1 (2017)); others are in
`structure_words`."""


@functools.cache
def strukturbericht_prototypes() -> dict[str, Meaning]:
    """Squeezed Strukturbericht symbol of a prototype that crystals are not recognised as → ratio and space group."""
    from crystalign.formula import read_formula

    rows = (row.split() for row in STRUKTURBERICHT.split(","))
    return {squeezed(symbol): prototype_meaning(formula, read_formula(formula).reduced) for symbol, formula in rows}


@functools.cache
def _space_groups() -> dict[str, int]:
    from crystalign.formula import read_formula

    rows = (row.split() for row in SPACE_GROUPS.split(","))
    return {read_formula(formula).reduced: int(number) for formula, number in rows}


def prototype_meaning(written: str, reduced: str) -> Meaning:
    """Crystals of the structure type of a compound.

    Args:
        written: the formula as typed.
        reduced: the reduced formula.
    """
    types = prototypes().get(reduced)
    return type_meaning(written, types) if types else _like(written, reduced)


def _like(written: str, reduced: str) -> Meaning:
    counts = sorted((int(n or 1) for n in re.findall(r"[A-Z][a-z]?(\d*)", reduced)), reverse=True)
    anonymous = "".join("ABCDEFGHIJ"[i] + (str(n) if n > 1 else "") for i, n in enumerate(counts[:10]))
    own, ratio = f'chemical_formula_reduced="{reduced}"', f'chemical_formula_anonymous="{anonymous}"'
    if number := _space_groups().get(reduced):
        first = all_of(ratio, f"space_group_it_number={number}")
        return Meaning(
            "structure type",
            f"{written} type: same ratio and space group",
            (first, any_of(first, own)),
            note="this structure type is not in the table of types; the atoms' places are not compared",
        )
    return Meaning(
        "structure type",
        f"{written} first, then compounds of the same ratio",
        (own, any_of(own, ratio)),
        note="this structure type is not in the table of types",
    )

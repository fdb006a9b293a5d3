"""Names of compounds: `sodium chloride`, `titanium dioxide`, `iron(III) oxide`, `lithium iron phosphate`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from crystalign.errors import InputError
from crystalign.formula import read_formula
from crystalign.text_query.anion_words import Anion, anion_filter, oxide_first, pure, ratio_filter
from crystalign.text_query.chips import Meaning, all_of, any_of, has
from crystalign.text_query.element_words import Element

_VALENCES = {
    1: "H Li Na K Rb Cs Ag",
    2: "Be Mg Ca Sr Ba Ra Zn Cd Pb Fe Co Ni Mn",
    3: "B Al Ga In Sc Y La Pr Nd Sm Gd Tb Dy Ho Er Tm Yb Lu Bi",
    4: "C Si Ge Zr Hf Th Ti",
    5: "Nb Ta",
}
_VALENCE = {symbol: valence for valence, symbols in _VALENCES.items() for symbol in symbols.split()}
_SEVERAL = frozenset(["Pb", "Fe", "Co", "Ni", "Mn", "Ti", "Ge"])
"""Elements whose valence is taken only beside an oxyanion or another cation."""


def compound_formula(cations: Sequence[Element], anion: Anion) -> str:
    """The formula that the name of a compound states or that follows from the usual valences; empty if there is none.

    `titanium dioxide` → TiO2, `vanadium pentoxide` → V2O5, `iron(III) oxide` → Fe2O3, `barium titanate` → BaTiO3.
    """
    formula = _formula(cations, anion)
    try:
        if formula:
            read_formula(formula)
    except InputError:
        return ""  # nobelium dioxide
    return formula


def _formula(cations: Sequence[Element], anion: Anion) -> str:
    symbols = [cation.symbol for cation in cations]
    if not anion.formula or len(set(symbols)) != len(symbols) or set(symbols) & set(anion.elements):
        return ""
    if anion.number and len(cations) == 1:
        return _counted(cations[0], anion)
    valences = [_valence(cation, simple=len(cations) == 1 and len(anion.elements) == 1) for cation in cations]
    if not anion.charge or not all(valences):
        return ""
    if any(cation.number for cation in cations):
        valences = [v * (c.number or 1) for v, c in zip(valences, cations, strict=True)]
    total = sum(valences)
    divisor = math.gcd(total, anion.charge)
    times, amount = anion.charge // divisor, total // divisor
    if len(cations) > (2 if len(anion.elements) == 1 else 3):
        return ""  # Li7La3Zr2O12 does not follow from valences
    if len(cations) > 1 and times > 1:
        return ""  # which of them occurs more often is not said
    group = (
        anion.formula if amount == 1 or (len(anion.formula) <= 2 and len(anion.elements) == 1) else f"({anion.formula})"
    )
    counts = [times * (cation.number or 1) for cation in cations]
    return "".join(_unit(s, n) for s, n in zip(symbols, counts, strict=True)) + _unit(group, amount)


def _counted(cation: Element, anion: Anion) -> str:
    """The formula of a name with a number: `dioxide` is one cation and two anions unless the cation has a number."""
    if anion.number < 0:  # sesquioxide
        return f"{cation.symbol}2{anion.formula}3"
    first = cation.number or 1
    valence = cation.valence or _VALENCE.get(cation.symbol, 0)
    if not cation.number and anion.number == 5 and anion.elements == ("O",):
        first = 2  # pentoxides are M2O5
    if not cation.number and anion.number == 3 and anion.elements == ("O",) and valence == 3:
        first = 2  # aluminium trioxide is Al2O3
    return _unit(cation.symbol, first) + _unit(anion.formula, anion.number)


def _valence(cation: Element, *, simple: bool) -> int:
    if cation.valence:
        return cation.valence
    return 0 if simple and cation.symbol in _SEVERAL - {"Ge"} else _VALENCE.get(cation.symbol, 0)


def _unit(group: str, amount: int) -> str:
    return group if amount == 1 else f"{group}{amount}"


def compound_meaning(
    cations: Sequence[Element], groups: Sequence[Meaning], anions: Sequence[Anion], *, either: bool, plural: bool
) -> Meaning:
    """The meaning of a name: its formula first, then crystals of only these elements, then all that contain them.

    Args:
        cations: the elements before the anion.
        groups: families of elements before the anion, as in `alkali metal halide`.
        anions: one or more anions, as in `chloride fluoride`.
        either: whether the cations are alternatives, joined by `or`.
        plural: whether the name is in the plural, as in `lithium oxides`: then no single formula is meant.
    """
    symbols = list(dict.fromkeys(cation.symbol for cation in cations))
    by_class, by_element = [], []
    remark = ""
    for anion in anions:
        first, second, remark = anion_filter(anion)
        by_class.append(first)
        by_element.append(second)
    if symbols:
        own = has(symbols, "ANY" if either else "ALL")
        by_class, by_element = [own, *by_class], [own, *by_element]
    families = [meaning.filters[0] for meaning in groups]
    contains, without_classes = all_of(*by_class, *families), all_of(*by_element, *families)
    strictest: list[str] = []
    elements = list(dict.fromkeys([*symbols, *(e for anion in anions for e in anion.elements)]))
    named = bool(symbols) and not either and not groups and not any(anion.group for anion in anions)
    label = _label(symbols, groups, anions, either=either)
    only = f'_crystalign_chemsys="{"-".join(sorted(elements))}"'
    if named and not plural:
        formula = compound_formula(cations, anions[0]) if len(anions) == 1 else ""
        strictest = [*([f'chemical_formula_reduced="{formula}"'] if formula else []), only]
        contains, without_classes = any_of(only, contains), any_of(only, without_classes)
        label = f"{label}; {formula or 'only these elements'} first"
    ratios = [ratio for anion in anions if (ratio := ratio_filter(anion))]
    best = oxide_first(anions[0], contains) if len(anions) == 1 else pure(contains)
    counted = [all_of(*ratios, best)] if ratios and (plural or not named) else []
    binary = [all_of(only, contains)] if named and plural and contains != without_classes else []
    return Meaning(
        "class",
        label,
        (*strictest, *counted, *([] if counted else binary), best, contains),
        fallback=(*strictest, without_classes),
        fallback_note=remark if contains != without_classes else "",
    )


def _label(symbols: Sequence[str], groups: Sequence[Meaning], anions: Sequence[Anion], *, either: bool) -> str:
    of = [(" or " if either else ", ").join(symbols)] if symbols else []
    of += [re.sub(r"^contains ", "", meaning.label) for meaning in groups]
    named = " ".join(anion.word for anion in anions)
    return f"{named} of {' and '.join(of)}" if of else named


def only_elements(symbols: Sequence[str]) -> tuple[str, str]:
    """Filters for crystals of exactly these elements, and for all that contain them."""
    return f'_crystalign_chemsys="{"-".join(sorted(set(symbols)))}"', has(list(dict.fromkeys(symbols)))

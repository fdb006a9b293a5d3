"""Words for compound classes: anions such as `dioxide` and `sulphates`, and families of classes such as `halides`."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from crystalign.text_query.chips import Meaning, all_of, any_of, has, keyword, none_of
from crystalign.text_query.words import squeezed


class Anion(NamedTuple):
    """An anion in the name of a compound."""

    word: str
    """The word that is shown, in the singular."""
    formula: str
    """Its formula, such as `O`, `SO4` or `TiO3`; empty if the name stands for several."""
    charge: int
    """Its charge without the sign: 2 for O²⁻; 0 if it varies."""
    elements: tuple[str, ...]
    """Its elements."""
    classes: tuple[str, ...]
    """Names of compound classes of which one must hold; empty if the class is not named after it."""
    number: int = 0
    """The number that the prefix states: 2 for `dioxide`, 0 without a prefix, −2 for `sesqui`."""
    group: tuple[str, ...] = ()
    """For a family such as `halide`: elements of which one must be there."""


_MONATOMIC = """
oxide O 2, sulfide S 2, selenide Se 2, telluride Te 2, nitride N 3, phosphide P 3, arsenide As 3, antimonide Sb 3,
fluoride F 1, chloride Cl 1, bromide Br 1, iodide I 1, carbide C 4, hydride H 1, boride B 0, silicide Si 0,
germanide Ge 0
"""
_POLYATOMIC = """
carbonate CO3 2 carbonate, sulfate SO4 2 sulfate, phosphate PO4 3 phosphate, nitrate NO3 1 nitrate,
nitrite NO2 1 nitrite, sulfite SO3 2 sulfite, silicate - 0 silicate, borate - 0 borate, hydroxide OH 1 hydroxide,
arsenate AsO4 3 arsenate, selenate SeO4 2 selenate, selenite SeO3 2 selenite, tellurite TeO3 2 tellurite,
tellurate - 0 tellurate, perchlorate ClO4 1 perchlorate, chlorate ClO3 1 chlorate, bromate BrO3 1 bromate,
iodate IO3 1 iodate, periodate - 0 periodate, vanadate VO4 3 -, chromate CrO4 2 -, molybdate MoO4 2 -,
tungstate WO4 2 -, wolframate WO4 2 -, permanganate MnO4 1 permanganate, germanate - 0 germanate,
oxalate C2O4 2 oxalate, cyanide CN 1 cyanide, thiocyanate SCN 1 thiocyanate, azide N3 1 azide, amide NH2 1 amide,
imide NH 2 imide, peroxide O2 2 peroxide, superoxide O2 1 superoxide, borohydride BH4 1 borohydride,
titanate TiO3 2 -, zirconate ZrO3 2 -, hafnate HfO3 2 -, niobate NbO3 1 -, tantalate TaO3 1 -, stannate SnO3 2 -,
plumbate PbO3 2 -, aluminate - 0 -, gallate - 0 -, indate - 0 -, ferrate - 0 -, cobaltate - 0 -, nickelate - 0 -,
cuprate - 0 -, manganate - 0 -, ruthenate - 0 -, rhodate - 0 -, iridate - 0 -, osmate - 0 -, zincate - 0 -,
uranate - 0 -, antimonate - 0 -, bismuthate - 0 -, rhenate - 0 -, palladate - 0 -, platinate - 0 -, scandate - 0 -,
cobaltite - 0 -, manganite - 0 -, chromite - 0 -, ferrite - 0 -, nickelite - 0 -, oxyhydroxide OOH 3 oxyhydroxide,
aluminosilicate - 0 silicate, borosilicate - 0 silicate, hydrogenphosphate HPO4 2 phosphate,
hydrogencarbonate HCO3 1 carbonate, bicarbonate HCO3 1 carbonate, dihydrogenphosphate H2PO4 1 phosphate,
pyrophosphate P2O7 4 phosphate, diphosphate P2O7 4 phosphate, metaphosphate PO3 1 phosphate,
fluorophosphate - 0 phosphate, thiosulfate S2O3 2 -, thiophosphate - 0 -, hexafluorophosphate PF6 1 -,
tetrafluoroborate BF4 1 -, thiogermanate - 0 -, carbonitride - 0 -,
borocarbide - 0 -, boronitride - 0 -, cyanamide CN2 2 cyanamide
"""
_METALLIDES = """
stannide Sn, plumbide Pb, bismuthide Bi, bismide Bi, aluminide Al, gallide Ga, indide In, thallide Tl, beryllide Be,
auride Au, platinide Pt, zincide Zn, cadmide Cd, mercuride Hg
"""
"""Names of compounds of two metals after the more electronegative one."""
_PREFIXES = {"mono": 1, "di": 2, "tri": 3, "tetra": 4, "tetr": 4, "penta": 5, "pent": 5, "hexa": 6, "hepta": 7}
_PREFIXES |= {"octa": 8, "dodeca": 12, "mon": 1, "hex": 6}
_METALLATES = {
    "titanate": "Ti", "zirconate": "Zr", "hafnate": "Hf", "niobate": "Nb", "tantalate": "Ta", "stannate": "Sn",
    "plumbate": "Pb", "aluminate": "Al", "gallate": "Ga", "indate": "In", "ferrate": "Fe", "cobaltate": "Co",
    "nickelate": "Ni", "cuprate": "Cu", "manganate": "Mn", "ruthenate": "Ru", "rhodate": "Rh", "iridate": "Ir",
    "osmate": "Os", "zincate": "Zn", "uranate": "U", "antimonate": "Sb", "bismuthate": "Bi", "rhenate": "Re",
    "palladate": "Pd", "platinate": "Pt", "scandate": "Sc", "cobaltite": "Co", "manganite": "Mn", "chromite": "Cr",
    "ferrite": "Fe", "nickelite": "Ni", "vanadate": "V", "chromate": "Cr", "molybdate": "Mo", "tungstate": "W",
    "wolframate": "W", "silicate": "Si", "borate": "B", "germanate": "Ge", "tellurate": "Te", "periodate": "I",
}  # fmt: skip
_EXTRA = {
    "aluminosilicate": ("Al", "Si", "O"), "borosilicate": ("B", "Si", "O"), "fluorophosphate": ("F", "P", "O"),
    "thiophosphate": ("P", "S"), "thiogermanate": ("Ge", "S"),
    "carbonitride": ("C", "N"), "borocarbide": ("B", "C"), "boronitride": ("B", "N"), "hydroxide": ("O", "H"),
}  # fmt: skip
"""Elements of anions without a single formula."""
_OXY = "oxyfluoride oxychloride oxybromide oxyiodide oxysulfide oxyselenide oxytelluride oxynitride oxyphosphide"
_OXY += " oxyarsenide oxyantimonide oxycarbide oxyhydride"
FAMILIES = {
    "halide": "fluoride chloride bromide iodide",
    "chalcogenide": "sulfide selenide telluride",
    "pnictide": "nitride phosphide arsenide antimonide",
    "oxyhalide": "oxyfluoride oxychloride oxybromide oxyiodide",
    "oxychalcogenide": "oxysulfide oxyselenide oxytelluride",
    "oxypnictide": "oxynitride oxyphosphide oxyarsenide oxyantimonide",
    "chalcohalide": "sulfide selenide telluride",
}
"""Family of anions → compound classes of its members."""
_OF_CLASS = {name: symbol for name, symbol, _ in (row.split() for row in _MONATOMIC.split(","))}
NONMETALS = "H B C N O F Si P S Cl Ge As Se Br Sb Te I He Ne Ar Kr Xe Rn".split()  # noqa: SIM905 (symbols)
"""Elements without which a compound of several elements is intermetallic, as in `physics.compound_classes`."""


@functools.cache
def anions() -> dict[str, Anion]:
    """Folded word → anion, with every prefix that states a number."""
    found: dict[str, Anion] = {}
    for word, symbol, charge in (row.split() for row in _MONATOMIC.split(",")):
        found[word] = Anion(word, symbol, int(charge), (symbol,), (word,))
    for word, formula, charge, name in (row.split() for row in _POLYATOMIC.split(",")):
        elements = _EXTRA.get(word) or ((_METALLATES[word], "O") if word in _METALLATES else _symbols(formula))
        found[word] = Anion(word, formula.strip("-"), int(charge), tuple(elements), () if name == "-" else (name,))
    for word in _OXY.split():
        symbol = _OF_CLASS[word.removeprefix("oxy")]
        found[word] = Anion(word, "", 0, ("O", symbol), (word,))
        found[f"oxide{word.removeprefix('oxy')}"] = found[word]
    for word, names in FAMILIES.items():
        members = tuple(_OF_CLASS[name.removeprefix("oxy")] for name in names.split())
        elements = ("O",) if word.startswith("oxy") else ()
        found[word] = Anion(word, "", 0, elements, tuple(names.split()), group=members)
    for word in [*_OF_CLASS, *FAMILIES]:
        for prefix, count in _PREFIXES.items():
            found[f"{prefix}{word}"] = found[word]._replace(number=count)
    for word in ("oxide", "sulfide", "selenide", "telluride"):
        found[f"sesqui{word}"] = found[word]._replace(number=-2)
    return found


def _symbols(formula: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(r"[A-Z][a-z]?", formula)))


def anion_filter(anion: Anion) -> tuple[str, str, str]:
    """Filters of the crystals with an anion: by compound class, without classes, and a remark on the latter."""
    parts = []
    if anion.elements:
        parts.append(has(anion.elements))
    if anion.group:
        parts.append(has(anion.group, "ANY"))
    if anion.word == "chalcohalide":
        parts.append(has(["F", "Cl", "Br", "I"], "ANY"))
    by_element = all_of(*parts)
    if not anion.classes:
        return by_element, by_element, ""
    also = ("oxyhydroxide",) if anion.word == "hydroxide" else ()
    with_class = keyword("class", [*anion.classes, *also])
    whole = bool(anion.group) and anion.word != "chalcohalide"
    by_class = with_class if whole else all_of(by_element, with_class)
    return by_class, by_element, f"this index has no compound classes: {anion.word}s are found by their elements"


def ratio_filter(anion: Anion) -> str:
    """A filter for the ratio of atoms that the name of an anion states; empty if it states none.

    A prefix states it for one metal: `dichalcogenide` is MX2, `sesquioxide` is M2X3. An ion such as P2O7 states the
    ratio of its own elements.
    """
    units = re.findall(r"([A-Z][a-z]?)(\d*)", anion.formula)
    if not anion.number and len(units) == 2 and all(n.isdigit() for _, n in units) and _is_reduced(units):
        return all_of(*(_contains(symbol, int(n)) for symbol, n in units))
    symbols = anion.group or anion.elements
    if not anion.number or (anion.group and anion.elements):
        return ""
    metals, count = (2, 3) if anion.number < 0 else (1, anion.number)
    anonymous = {(2, 3): "A3B2", (1, 1): "AB"}.get((metals, count), f"A{count}B")
    ratio = all_of("nelements=2", f'chemical_formula_anonymous="{anonymous}"')
    return ratio if count == 1 else all_of(ratio, any_of(*(_contains(symbol, count) for symbol in symbols)))


def _is_reduced(units: Sequence[tuple[str, str]]) -> bool:
    return math.gcd(*(int(n) for _, n in units)) == 1


def _contains(symbol: str, count: int) -> str:
    return f'chemical_formula_reduced CONTAINS "{symbol}{count}"'


def oxide_first(anion: Anion, text: str) -> str:
    """For a metallate, such as a titanate, the filter of those that are oxides and nothing else; else the filter."""
    oxo = not anion.classes and anion.word in _METALLATES and not anion.formula.endswith("O4")
    return all_of(text, keyword("whole", ["oxide"])) if oxo else pure(text)


def class_meaning(anion: Anion) -> Meaning:
    """A class alone: `oxides`, `silicates`."""
    by_class, by_element, remark = anion_filter(anion)
    label = f"{anion.word}"
    if not anion.classes:
        label = f"{anion.word}: contains {', '.join(anion.elements)}"
    elif anion.group:
        label = f"{anion.word}: {' or '.join(anion.classes)}"
    best = oxide_first(anion, by_class)
    ratio = ratio_filter(anion)
    first = [all_of(ratio, best)] if ratio else []
    fallback = [all_of(ratio, by_element)] if ratio else []
    return Meaning("class", label, (*first, best, by_class), fallback=(*fallback, by_element), fallback_note=remark)


def pure(text: str) -> str:
    """A filter by classes, for compounds that are nothing else: a nitride but no chloride nitride, no oxyhydroxide."""
    text = text.replace('HAS ANY "class:hydroxide","class:oxyhydroxide"', 'HAS "class:hydroxide"')
    return text.replace('"class:', '"whole:')


def class_meanings() -> dict[str, Meaning]:
    """Squeezed name → classes that are not named after an anion that a cation may precede."""
    metals = all_of("nelements>1", none_of(has(NONMETALS, "ANY")))
    mixed = "oxyfluoride oxychloride oxybromide oxyiodide oxysulfide oxyselenide oxynitride".split()  # noqa: SIM905
    inorganic = none_of(all_of(has(["C", "H"]), keyword("class", ["organic compound", "metal-organic compound"])))
    rows = {
        "intermetallic, intermetallic compound, alloy, alloyed, intermetallic phase": Meaning(
            "class",
            "intermetallic compound",
            (keyword("class", ["intermetallic compound"]),),
            fallback=(metals,),
            fallback_note="without nonmetals and metalloids",
        ),
        "mixed anion, multi anion, heteroanionic, mixed anion compound": Meaning(
            "class",
            "mixed-anion compound",
            (keyword("class", [*mixed, "mixed-anion compound"]),),
            fallback=(
                any_of(
                    all_of(has(["O"]), has(["N", "F", "Cl", "Br", "I", "S", "Se", "Te"], "ANY")),
                    all_of(has(["S", "Se", "Te"], "ANY"), has(["F", "Cl", "Br", "I"], "ANY")),
                ),
            ),
            fallback_note="by the elements, so that sulfates and nitrates are among them",
        ),
        "hydrate, hydrated, hydrous, monohydrate, dihydrate, trihydrate, tetrahydrate, pentahydrate, hexahydrate, "
        "heptahydrate, octahydrate, nonahydrate, decahydrate, dodecahydrate, hemihydrate": Meaning(
            "class", "hydrate", (keyword("class", ["hydrate"]),), fallback=(has(["H", "O"]),)
        ),
        "ammonium": Meaning("family", "ammonium: contains N and H", (has(["N", "H"]),)),
        "methylammonium, formamidinium, guanidinium": Meaning(
            "family", "organic cation: contains C, N and H", (has(["C", "N", "H"]),)
        ),
        "anhydrous, water free, without water, no water": Meaning("without", "contains no H", (none_of(has(["H"])),)),
        "organic, organic compound, organic crystal, molecular organic": Meaning(
            "class",
            "organic compound",
            (keyword("class", ["organic compound", "hydrocarbon"]),),
            fallback=(all_of(has(["C", "H"]), has("H B C N O F Si P S Cl Br I".split(), "ONLY")),),  # noqa: SIM905
        ),
        "hydrocarbon": Meaning("class", "hydrocarbon", (all_of("nelements=2", has(["C", "H"])),)),
        "metal organic, metal organic compound, metal organic framework, organometallic, MOF, coordination polymer": (
            Meaning(
                "class",
                "metal-organic compound",
                (keyword("class", ["metal-organic compound"]),),
                fallback=(all_of(has(["C", "H"]), none_of(has("H B C N O F Si P S Cl Br I".split(), "ONLY"))),),  # noqa: SIM905
            )
        ),
        "inorganic, inorganic compound": Meaning(
            "class", "not organic", (inorganic,), fallback=(none_of(has(["C", "H"])),)
        ),
        "oxoanion, polyanion, polyanionic, polyanion compound": Meaning(
            "class",
            "polyanionic: phosphate, sulfate, silicate, borate or carbonate",
            (keyword("class", ["phosphate", "sulfate", "silicate", "borate", "carbonate"]),),
            fallback=(all_of(has(["O"]), has(["P", "S", "Si", "B", "C"], "ANY")),),
        ),
    }
    return {squeezed(name): meaning for names, meaning in rows.items() for name in names.split(",")} | _metallides()


def _metallides() -> dict[str, Meaning]:
    return {
        word: Meaning("class", f"{word}: {symbol} and a metal", (_with_metals(symbol),))
        for word, symbol in (row.split() for row in _METALLIDES.split(","))
    }


def _with_metals(symbol: str) -> str:
    others = [one for one in NONMETALS if one not in {"Si", "Ge", "B"}]
    return all_of("nelements>1", has([symbol]), none_of(has(others, "ANY")))

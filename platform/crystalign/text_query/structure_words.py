"""Words for structure types: names, prototypes such as `NaCl type`, Strukturbericht symbols, and lattices."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import replace

from crystalign.physics.structure_type_table import TABLE
from crystalign.text_query.chips import Meaning, all_of, any_of, keyword, numbers_in
from crystalign.text_query.words import squeezed

TYPE_NAMES = tuple(sorted({name for name, *_ in TABLE}))
"""Every structure type that a crystal can have."""

_SIMPLE_PEROVSKITES = "cubic perovskite, orthorhombic perovskite, rhombohedral perovskite, tetragonal perovskite"
_DOUBLE_PEROVSKITES = (
    "cubic double perovskite, monoclinic double perovskite, rhombohedral double perovskite, "
    "tetragonal double perovskite"
)
_PEROVSKITES = f"{_SIMPLE_PEROVSKITES} | hexagonal perovskite, {_DOUBLE_PEROVSKITES}, quadruple perovskite"
GROUPS = {
    "perovskite, perowskite, perovskyte": _PEROVSKITES,
    "simple perovskite, ABO3 perovskite, ABX3 perovskite": f"{_SIMPLE_PEROVSKITES}, hexagonal perovskite",
    "double perovskite, elpasolite type, ordered perovskite, ordered double perovskite": _DOUBLE_PEROVSKITES,
    "anti perovskite, inverse perovskite": "anti-perovskite",
    "layered perovskite, Ruddlesden Popper, Ruddlesden Popper phase": "Ruddlesden-Popper n=1, Ruddlesden-Popper n=2",
    "Heusler, Heusler alloy, Heusler compound, Heusler phase": (
        "full-Heusler, half-Heusler, inverse Heusler, quaternary Heusler"
    ),
    "full Heusler, full Heusler alloy": "full-Heusler, inverse Heusler",
    "MAX phase, MAX": "211 MAX phase, 312 MAX phase, 413 MAX phase",
    "Laves phase, Laves, Friauf Laves": "C14 Laves phase, C15 Laves phase, C36 Laves phase",
    "skutterudite": "skutterudite, filled skutterudite",
    "close packed, close packed metal": (
        "face-centered cubic, hexagonal close-packed, double hexagonal close-packed, samarium-type"
    ),
    "cristobalite type": "alpha cristobalite, beta cristobalite",
    "quartz type": "alpha quartz, beta quartz",
    "sphalerite type, zincblende, zinc blende, zinc blend, diamond like": "zinc blende",
    "nickeline": "nickel arsenide",
    "NaSICON, sodium superionic conductor": "NASICON",
    "perovskite like": f"{_PEROVSKITES}, Ruddlesden-Popper n=1, Ruddlesden-Popper n=2",
    "transition metal dichalcogenide type": "molybdenite, cadmium iodide",
    "pyrochlore lattice": "pyrochlore",
    "hexagonal diamond": "lonsdaleite",
    "phosphorene": "black phosphorus",
    "layered rock salt, layered rocksalt, O3 type": "alpha-NaFeO2",
    "Cu Au ordered": "ordered CuAu",
    "dhcp": "double hexagonal close-packed",
    "vacancy ordered double perovskite, vacancy ordered perovskite": "potassium hexachloroplatinate",
    "kesterite type, stannite type": "stannite",
    "moissanite type": "moissanite-4H, moissanite-6H",
}
"""Names of a group of structure types, the first being shown → its types; those behind a bar come last."""
PROTOTYPES = """
NaCl: rock salt; CsCl: cesium chloride; ZnS: zinc blende, wurtzite; GaAs: zinc blende; NiAs: nickel arsenide;
TiNiSi: -; CaF2: fluorite; Li2O: antifluorite; K2O: antifluorite; TiO2: rutile; CdI2: cadmium iodide;
CdCl2: cadmium chloride; MoS2: molybdenite; Al2O3: corundum; Fe2O3: corundum; MgAl2O4: spinel;
K2NiF4: Ruddlesden-Popper n=1; La2CuO4: Ruddlesden-Popper n=1; Sr3Ti2O7: Ruddlesden-Popper n=2;
ThCr2Si2: ThCr2Si2; BaFe2As2: ThCr2Si2; CaTiO3: @perovskite; GdFeO3: orthorhombic perovskite;
SrTiO3: cubic perovskite; BaNiO3: hexagonal perovskite; LaAlO3: rhombohedral perovskite;
PbTiO3: tetragonal perovskite; Cu3Au: ordered Cu3Au; AuCu3: ordered Cu3Au; CuAu: ordered CuAu; AuCu: ordered CuAu;
Ni3Sn: ordered Ni3Sn; TiAl3: ordered TiAl3; Al3Ti: ordered TiAl3; AlB2: aluminum diboride; MgB2: aluminum diboride;
ReO3: rhenium trioxide; Cr3Si: A15; Nb3Sn: A15; Mg2SiO4: olivine; LiFePO4: olivine; CaCu5: CaCu5; LaNi5: CaCu5;
MgCu2: C15 Laves phase; MgZn2: C14 Laves phase; MgNi2: C36 Laves phase; FeSi: iron monosilicide;
BiF3: bismuth trifluoride;
MnP: -; PtS: cooperite; CuO: tenorite; PbO: litharge; HgS: cinnabar; NiS: millerite; NaTl: sodium thallide;
WC: tungsten carbide; BN: hexagonal boron nitride; FeS2: pyrite, marcasite; Cu2O: cuprite; PbCl2: cotunnite;
ZrO2: baddeleyite; CaC2: calcium carbide; MoSi2: molybdenum disilicide; ThSi2: thorium disilicide;
CuAl2: khatyrkite; Al2Cu: khatyrkite; Na3As: sodium arsenide; Li3N: lithium nitride; CoAs3: @skutterudite;
BiI3: bismuth triiodide; CrCl3: aluminum trichloride; AlCl3: aluminum trichloride; UCl3: uranium trichloride;
Fe3C: cementite; BaAl4: BaAl4; CaB6: calcium hexaboride; UB12: uranium dodecaboride; ThMn12: ThMn12; NaZn13: NaZn13;
Mn2O3: bixbyite; Bi2Te3: tetradymite; Bi2Se3: tetradymite; La2O3: lanthanum sesquioxide; Th3P4: thorium phosphide;
MgAgAs: half-Heusler; LiAlSi: half-Heusler; PbFCl: matlockite; PbClF: matlockite; Cu2MnAl: full-Heusler;
AlCu2Mn: full-Heusler; CuFeO2: delafossite; NaFeO2: alpha-NaFeO2; LiCoO2: alpha-NaFeO2; Cr2AlC: 211 MAX phase;
Ti3SiC2: 312 MAX phase; Ti4AlN3: 413 MAX phase; CuFeS2: chalcopyrite; CaCO3: calcite, aragonite; FeTiO3: ilmenite;
LiNbO3: lithium niobate; CaWO4: scheelite; ZrSiO4: zircon; CePO4: monazite; BaSO4: barite; YNbO4: fergusonite;
FeWO4: wolframite; CaAl2Si2: CaAl2Si2; ZrCuSiAs: ZrCuSiAs; LaFeAsO: ZrCuSiAs; Cu3VS4: sulvanite; Cu3AsS4: enargite;
Cu2FeSnS4: stannite; K2PtCl6: potassium hexachloroplatinate; K2NaAlF6: cubic double perovskite;
FeNb2O6: columbite; CaMg(CO3)2: dolomite; LaFe4P12: filled skutterudite; Y3Al5O12: garnet; PbI2: cadmium iodide;
FeOCl: -; SiO2: alpha quartz, beta quartz; MnO2: rutile; SnO2: rutile; Mg: hexagonal close-packed;
Cu: face-centered cubic; W: body-centered cubic; C: diamond; Po: simple cubic; Sm: samarium-type
"""
STRUKTURBERICHT = """
A1 face-centered cubic, A2 body-centered cubic, A3 hexagonal close-packed, A4 diamond, A5 white tin, A7 gray arsenic,
A8 trigonal selenium, A9 graphite, A11 black phosphorus, A12 alpha manganese, A13 beta manganese, A15 A15,
Ah simple cubic, B1 rock salt, B2 cesium chloride, B3 zinc blende, B4 wurtzite, B8 nickel arsenide,
B81 nickel arsenide, B9 cinnabar, B10 litharge, B13 millerite, B17 cooperite, B20 iron monosilicide, B26 tenorite,
B32 sodium thallide, Bh tungsten carbide, Bk hexagonal boron nitride, C1 fluorite, C1b half-Heusler, C2 pyrite,
C3 cuprite, C4 rutile, C5 anatase, C6 cadmium iodide, C7 molybdenite, C8 beta quartz, C9 beta cristobalite,
C11a calcium carbide, C11b molybdenum disilicide, C14 C14 Laves phase, C15 C15 Laves phase, C16 khatyrkite,
C18 marcasite, C19 cadmium chloride, C21 brookite, C23 cotunnite, C32 aluminum diboride, C35 hydrophilite,
C36 C36 Laves phase, C43 baddeleyite, Cc thorium disilicide, D02 skutterudite, D03 bismuth trifluoride,
D09 rhenium trioxide, D011 cementite, D018 sodium arsenide, D019 ordered Ni3Sn, D022 ordered TiAl3, D13 BaAl4,
D21 calcium hexaboride, D23 NaZn13, D2b ThMn12, D2d CaCu5, D2f uranium dodecaboride, D51 corundum,
D52 lanthanum sesquioxide, D53 bixbyite, D73 thorium phosphide, E11 chalcopyrite, E21 cubic perovskite,
G01 calcite, G02 aragonite, H02 barite, H04 scheelite, H11 spinel, L10 ordered CuAu, L12 ordered Cu3Au,
L1o ordered CuAu, L21 full-Heusler, DO3 bismuth trifluoride, DO19 ordered Ni3Sn, DO22 ordered TiAl3
"""
LATTICES = {
    "face centered cubic, fcc, ccp, cubic close packed, cubic closest packed": (
        "face-centered cubic",
        (196, 202, 203, 209, 210, 216, 219, 225, 226, 227, 228),
        "fcc",
    ),
    "body centered cubic, bcc": ("body-centered cubic", (197, 199, 204, 206, 211, 214, 217, 220, 229, 230), "bcc"),
    "simple cubic, primitive cubic": (
        "simple cubic",
        (195, 198, 200, 201, 205, 207, 208, 212, 213, 215, 218, 221, 222, 223, 224),
        "primitive cubic",
    ),
    "hexagonal close packed, hexagonal closest packed, hcp": ("hexagonal close-packed", (), "hcp"),
}
"""Names of a lattice → structure type of the elements, space groups with this lattice, shown name."""
_AMBIGUOUS = re.compile(r"(?:[BC]\d{1,2}|D\d{1,2}|H\d{1,2}|Cc|Bh|Bk|Ah)")


def type_filter(names: Iterable[str]) -> str:
    """The filter of some structure types."""
    return keyword("type", list(names))


def type_fallback(names: Iterable[str]) -> str:
    """The filter of some structure types by Wyckoff positions, for an index without types."""
    wanted = set(names)
    keys = sorted({key for name, listed, *_ in TABLE if name in wanted for key in listed.split()})
    return any_of(*(f'_crystalign_prototype="{key}"' for key in keys[:12]))


BY_POSITIONS = "this index has no structure types: found by space group and Wyckoff positions alone"
"""Remark on types in an index without keywords."""


def type_meaning(label: str, names: Iterable[str]) -> Meaning:
    """Crystals that have any of the structure types `names`; `label` is what the chip calls them."""
    listed = list(names)
    label = listed[0] if squeezed(label) == squeezed(listed[0]) else label
    shown = label if listed == [label] else f"{label}: {', '.join(listed)}" if len(listed) < 4 else label
    return Meaning(
        "structure type",
        shown if "phase" in shown or "Heusler" in shown else f"{shown} type" if len(listed) == 1 else f"{shown} types",
        (type_filter(listed),),
        fallback=(type_fallback(listed),),
        fallback_note=BY_POSITIONS,
    )


@functools.cache
def groups() -> dict[str, tuple[str, ...]]:
    """Squeezed name of a group → its structure types."""
    return {squeezed(name): tuple(_listed(types)) for names, types in GROUPS.items() for name in names.split(",")}


def _listed(types: str) -> list[str]:
    return [name.strip() for name in re.split(r"[,|]", types)]


def structure_meanings() -> dict[str, Meaning]:
    """Squeezed name → structure types; names of minerals are not among them, `mineral_words` joins both."""
    found = {squeezed(name): type_meaning(name, [name]) for name in TYPE_NAMES if not name.endswith(" perovskite")}
    found |= {squeezed(name): type_meaning(name, [name]) for name in TYPE_NAMES if "quadruple" in name}
    for names, types in GROUPS.items():
        meaning = type_meaning(names.split(",")[0], _listed(types))
        if "|" in types:
            meaning = replace(meaning, filters=(type_filter(_listed(types.partition("|")[0])), *meaning.filters))
        found |= {squeezed(name): meaning for name in names.split(",")}
    for names, (type_name, numbers, shown) in LATTICES.items():
        first, last = type_filter([type_name]), numbers_in("space_group_it_number", numbers) if numbers else ""
        elements = all_of("nelements=1", type_fallback([type_name]))
        meaning = Meaning(
            "structure type",
            f"{shown}: elements of this structure first" if numbers else f"{shown} elements",
            (first, any_of(first, last)) if last else (first,),
            fallback=(elements, any_of(elements, last)) if last else (elements,),
            fallback_note=BY_POSITIONS,
        )
        found |= {squeezed(name): meaning for name in names.split(",")}
    return found | {
        symbol: type_meaning(types[0], types) for symbol, types in strukturbericht().items() if _clear(symbol)
    }


def _clear(symbol: str) -> bool:
    """Whether a squeezed Strukturbericht symbol means nothing else, such as a formula."""
    return _AMBIGUOUS.fullmatch(symbol.upper() if len(symbol) > 2 else symbol.capitalize()) is None or symbol in {
        "b20", "c14", "c15", "c16", "c32", "c36", "b32", "c11a", "b1", "d019", "d022", "d03",
    }  # fmt: skip


@functools.cache
def strukturbericht() -> dict[str, tuple[str, ...]]:
    """Squeezed Strukturbericht symbol → structure types."""
    rows = (row.strip().split(" ", 1) for row in STRUKTURBERICHT.split(","))
    return {squeezed(symbol): (name.replace("\n", " "),) for symbol, name in rows}


@functools.cache
def prototypes() -> dict[str, tuple[str, ...]]:
    """Reduced formula of a prototype → structure types; used in `NaCl type`."""
    from crystalign.formula import read_formula

    found: dict[str, tuple[str, ...]] = {}
    for row in PROTOTYPES.split(";"):
        formula, _, types = row.strip().partition(":")
        names = tuple(t.strip() for t in types.split(",") if t.strip() != "-")
        if names and names[0].startswith("@"):
            names = groups()[names[0][1:]]
        if names:
            found[read_formula(formula).reduced] = names
    return found

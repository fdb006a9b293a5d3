"""Names of minerals, varieties, polymorphs, trivial names and abbreviations of compounds."""

from __future__ import annotations

import functools
from dataclasses import replace

from crystalign.formula import read_formula
from crystalign.minerals import Mineral, minerals
from crystalign.text_query.chips import Meaning, all_of, any_of, has, keyword, numbers_in
from crystalign.text_query.compounds import only_elements
from crystalign.text_query.structure_words import BY_POSITIONS, TYPE_NAMES, type_fallback, type_filter, type_meaning
from crystalign.text_query.symmetry_words import pretty_symbol
from crystalign.text_query.words import squeezed

SYNONYMS = """
ruby corundum, sapphire corundum, rocksalt halite, rock salt halite, table salt halite, blende sphalerite, zincblende
sphalerite, zinc blende sphalerite, cubic zinc sulfide sphalerite, fluorspar fluorite, fluorspath fluorite, fools gold
pyrite, iron pyrites pyrite, amethyst quartz, citrine quartz, rock crystal quartz, alpha quartz quartz, low quartz
quartz, agate quartz, chalcedony quartz, emerald beryl, aquamarine beryl, heliodor beryl, sphene titanite, barites
barite, heavy spar barite, iceland spar calcite, limestone calcite, marble calcite, chalk calcite, lodestone
magnetite, haematite hematite, specularite hematite, celestite celestine, tinstone cassiterite, epsom salt epsomite,
niccolite nickeline, hydroxyapatite hydroxylapatite, HAp hydroxylapatite, saltpeter niter, saltpetre niter, chile
saltpeter nitratine, glaubers salt mirabilite, cinnabarite cinnabar, galenite galena, lead glance galena, copper
glance chalcocite, chalcosine chalcocite, covelline covellite, antimonite stibnite, molybdenum glance molybdenite,
copper pyrites chalcopyrite, kesterit kesterite, zinc spinel gahnite, alexandrite chrysoberyl, cymophane chrysoberyl,
sylvine sylvite, wuestite wustite, wüstite wustite, zinkite zincite, horn silver chlorargyrite, cerargyrite
chlorargyrite, argentite acanthite, tungstenit tungstenite, green vitriol melanterite, blue vitriol chalcanthite,
copper vitriol chalcanthite, sal ammoniac salammoniac, trolleite troilite, mispickel arsenopyrite, lollingite
loellingite, löllingite loellingite, carborundum moissanite, kunzite spodumene, hiddenite spodumene, kaolin kaolinite,
white mica muscovite, tanzanite zoisite, disthene kyanite, cyanite kyanite, lapis lazuli lazurite, selenite gypsum
gypsum, alabaster gypsum, quicklime lime, burnt lime lime, slaked lime portlandite, hydrated lime portlandite,
bromyrite bromargyrite, iodyrite iodargyrite, hausmanite hausmannite, alpha alumina corundum, alpha al2o3 corundum
"""
"""Variety or synonym, then the mineral of the table, which is the last word."""
NAMED_FORMS = """
diamond C 227 diamond; cubic diamond C 227 diamond; graphite C 194 graphite; hexagonal diamond C 194 lonsdaleite;
hexagonal boron nitride BN 194 hexagonal boron nitride; hBN BN 194 hexagonal boron nitride;
cubic boron nitride BN 216 zinc blende; cBN BN 216 zinc blende; c BN BN 216 zinc blende;
h BN BN 194 hexagonal boron nitride;
wurtzite boron nitride BN 186 wurtzite; wBN BN 186 wurtzite; black phosphorus P 64 black phosphorus;
white tin Sn 141 white tin; beta tin Sn 141 white tin; gray tin Sn 227 diamond; alpha tin Sn 227 diamond;
gray arsenic As 166 gray arsenic; trigonal selenium Se 152 trigonal selenium; gray selenium Se 152 trigonal selenium;
alpha iron Fe 229 body-centered cubic; gamma iron Fe 225 face-centered cubic; ferrite iron Fe 229 body-centered cubic;
austenite Fe 225 face-centered cubic; alpha manganese Mn 217 alpha manganese; beta manganese Mn 213 beta manganese;
alpha titanium Ti 194 hexagonal close-packed; beta titanium Ti 229 body-centered cubic;
beta quartz SiO2 180 beta quartz; high quartz SiO2 180 beta quartz; alpha cristobalite SiO2 92 alpha cristobalite;
beta cristobalite SiO2 227 beta cristobalite; hexagonal ice H2O 194 -; cubic ice H2O 227 -; dry ice CO2 205 -;
cubic zirconia ZrO2 225 fluorite; tetragonal zirconia ZrO2 137 -; monoclinic zirconia ZrO2 14 baddeleyite;
gamma alumina Al2O3 227 -; cementite Fe3C 62 cementite; sanidine KAlSi3O8 12 -; microcline KAlSi3O8 2 -;
peridot Mg2SiO4 62 olivine; jade NaAlSi2O6 15 -; akaganeite FeO(OH) 12 -; feroxyhyte FeO(OH) 164 -;
bixbyite Mn2O3 206 bixbyite;
vaterite CaCO3 - -; melilite Ca2MgSi2O7 113 -; cubic silicon carbide SiC 216 zinc blende;
beta silicon carbide SiC 216 zinc blende; beta SiC SiC 216 zinc blende;
3C SiC SiC 216 zinc blende; 4H SiC SiC 186 moissanite-4H; 6H SiC SiC 186 moissanite-6H; 2H SiC SiC 186 wurtzite;
3C silicon carbide SiC 216 zinc blende; 4H silicon carbide SiC 186 moissanite-4H;
6H silicon carbide SiC 186 moissanite-6H;
2H MoS2 MoS2 194 molybdenite; 1T MoS2 MoS2 164 cadmium iodide; 2H WSe2 WSe2 194 molybdenite;
alpha silicon nitride Si3N4 159 -; beta silicon nitride Si3N4 176 -; beta gallium oxide Ga2O3 12 -;
beta Ga2O3 Ga2O3 12 -; TiO2 B TiO2 12 -; bronze titanium dioxide TiO2 12 -;
alpha gallium oxide Ga2O3 167 corundum; epsilon gallium oxide Ga2O3 33 -; prussian blue Fe7C18N18 225 -
"""
"""Name of a polymorph or element, formula, space group or `-`, structure type or `-`."""
COMMON = """
alumina Al2O3, silica SiO2, titania TiO2, zirconia ZrO2, hafnia HfO2, magnesia MgO, ceria CeO2, yttria Y2O3,
thoria ThO2, urania UO2, baria BaO, strontia SrO, lanthana La2O3, scandia Sc2O3, germania GeO2, beryllia BeO,
erbia Er2O3, gallia Ga2O3, niobia Nb2O5, vanadia V2O5, chromia Cr2O3, lithia Li2O, ice H2O, water ice H2O,
water H2O, ammonia NH3,
LFP LiFePO4, LCO LiCoO2, LMO LiMn2O4, LMP LiMnPO4, LNO LiNiO2, LTO Li4Ti5O12, LLZO Li7La3Zr2O12,
LLTO Li3La5Ti8O24, LGPS Li10GeP2S12, LPS Li3PS4, NVP Na3V2P3O12, KDP KH2PO4, DKDP KH2PO4, ADP NH4H2PO4, KTP KTiOPO4,
BBO BaB2O4, LBO LiB3O5, BTO BaTiO3, STO SrTiO3, PTO PbTiO3, PZO PbZrO3, CTO CaTiO3, BZO BaZrO3, BFO BiFeO3,
LAO LaAlO3, LTaO LiTaO3, LCMO LaMnO3, SRO SrRuO3, SBT SrBi2Ta2O9, YAG Y3Al5O12, YIG Y3Fe5O12,
GGG Gd3Ga5O12, LuAG Lu3Al5O12, YAP YAlO3, BGO Bi4Ge3O12, GSO Gd2SiO5, LSO Lu2SiO5, YSO Y2SiO5, YVO YVO4, YLF LiYF4,
CZTS Cu2ZnSnS4, CZTSe Cu2ZnSnSe4, CIS CuInS2, CGS CuGaS2, GST Ge2Sb2Te5, MAPI CH3NH3PbI3,
methylammonium lead iodide CH3NH3PbI3,
methylammonium lead bromide CH3NH3PbBr3, formamidinium lead iodide CH5N2PbI3, MAPbI3 CH3NH3PbI3,
MAPbBr3 CH3NH3PbBr3, FAPI CH5N2PbI3, FAPbI3 CH5N2PbI3, PBO PbO, ZTO Zn2SnO4, NTO Na2Ti3O7
"""
"""Trivial name or abbreviation → formula."""
SYSTEMS = """
YBCO Y Ba Cu O, REBCO Y Ba Cu O, BSCCO Bi Sr Ca Cu O, TBCCO Tl Ba Ca Cu O, HBCCO Hg Ba Ca Cu O, LSCO La Sr Cu O,
LBCO La Ba Cu O, NCCO Nd Ce Cu O, NMC Li Ni Mn Co O, NCM Li Ni Mn Co O, NCA Li Ni Co Al O, LNMO Li Ni Mn O,
LATP Li Al Ti P O, LAGP Li Al Ge P O, LiPON Li P O N, LSMO La Sr Mn O, LSGM La Sr Ga Mg O, LSCF La Sr Co Fe O,
BSCF Ba Sr Co Fe O, PZT Pb Zr Ti O, PLZT Pb La Zr Ti O, PMN Pb Mg Nb O, PMN PT Pb Mg Nb Ti O, KNN K Na Nb O,
BST Ba Sr Ti O, BNT Bi Na Ti O, BCZT Ba Ca Zr Ti O, ITO In Sn O, IGZO In Ga Zn O, AZO Al Zn O, FTO F Sn O,
YSZ Y Zr O, GDC Gd Ce O, SDC Sm Ce O, BZY Ba Zr Y O, CIGS Cu In Ga Se, MCT Hg Cd Te, CZT Cd Zn Te, SiAlON Si Al O N,
sialon Si Al O N, InGaAs In Ga As, AlGaAs Al Ga As, InGaN In Ga N, AlGaN Al Ga N, InGaP In Ga P, SiGe Si Ge,
HgCdTe Hg Cd Te, NdFeB Nd Fe B, SmCo Sm Co, AlNiCo Al Ni Co, nitinol Ni Ti, brass Cu Zn, bronze Cu Sn,
steel Fe C, pentlandite group Fe Ni S
"""
"""Abbreviation or name → elements of which the crystals consist."""
_GROUPS = ("garnet", "spinel", "olivine", "apatite", "pyrochlore", "perovskite", "clinopyroxene")
"""Minerals that are groups, each of one structure type or group of types of the same name."""
_LOOSER = {
    "apatite": all_of(
        'chemical_formula_anonymous="A12B5C3D"',
        has(["P", "As", "V", "Si", "Ge", "S"], "ANY"),
        has(["O"]),
        numbers_in("space_group_it_number", (4, 11, 14, 147, 173, 174, 176)),
    )
}
"""Group of minerals → those that follow: the same ratio in the subgroups of P6_3/m that apatites have."""
_PARTNERS: tuple[tuple[int, ...], ...] = (
    (76, 78),
    (91, 95),
    (92, 96),
    (144, 145),
    (151, 153),
    (152, 154),
    (169, 170),
    (171, 172),
    (178, 179),
)
_PARTNERS += ((180, 181), (212, 213))


@functools.cache
def _minerals() -> dict[str, Mineral]:
    return {mineral.name: mineral for mineral in minerals()}


def mineral_meanings() -> dict[str, Meaning]:
    """Squeezed name → a mineral, its structure type if it has the same name, and its composition."""
    types = {squeezed(name): name for name in TYPE_NAMES} | {"elpasolite": "cubic double perovskite"}
    found = {
        squeezed(m.name): crystal_meaning(m.name, m.formula, m.spacegroup_number, types.get(squeezed(m.name), ""))
        for m in _minerals().values()
        if m.name not in {"perovskite", "spinel"}
    }
    for row in SYNONYMS.split(","):
        name, _, target = " ".join(row.split()).rpartition(" ")
        if target in _minerals() and squeezed(name) not in found:
            m = _minerals()[target]
            type_name = types.get(squeezed(name), types.get(squeezed(target), ""))
            found[squeezed(name)] = crystal_meaning(name, m.formula, m.spacegroup_number, type_name)
    for row in NAMED_FORMS.split(";"):
        name, formula, number, type_name = _form(" ".join(row.split()))
        found[squeezed(name)] = crystal_meaning(name, formula, number, type_name)
    return found | _group_meanings()


def _form(row: str) -> tuple[str, str, int, str]:
    """Split `white tin Sn 141 white tin` at its number."""
    parts = row.split(" ")
    at = max(i for i, part in enumerate(parts[:6]) if i > 1 and (part.isdigit() or part == "-") and i <= len(parts) - 2)
    at = next(i for i, part in enumerate(parts) if i > 1 and (part.isdigit() or part == "-") and i <= at)
    number = int(parts[at]) if parts[at].isdigit() else 0
    return " ".join(parts[: at - 1]), parts[at - 1], number, " ".join(parts[at + 1 :]).strip("-")


def crystal_meaning(name: str, formula: str, number: int, type_name: str) -> Meaning:
    """A compound in one structure: it comes first, then its structure type, then its other structures."""
    plain = formula if formula[0].isalpha() else read_formula(formula).reduced
    own = f'chemical_formula_reduced="{plain}"'
    groups = next((pair for pair in _PARTNERS if number in pair), (number,))
    first = all_of(own, numbers_in("space_group_it_number", groups)) if number else own
    with_type = (any_of(first, type_filter([type_name])),) if type_name else ()
    without = (any_of(first, type_fallback([type_name])),) if type_name else ()
    last = any_of(own, type_filter([type_name])) if type_name else own
    last_without = any_of(own, type_fallback([type_name])) if type_name else own
    symbols = f", {' or '.join(pretty_symbol(n) for n in groups)}" if number else ""
    return Meaning(
        "mineral",
        f"{name}: {formula}{symbols}",
        (first, *with_type, last),
        strict=False,
        fallback=(first, *without, last_without),
        fallback_note=BY_POSITIONS if type_name else "",
    )


def _group_meanings() -> dict[str, Meaning]:
    """Minerals that are groups: the structure type, or the class and the ratio of the elements."""
    from crystalign.text_query.structure_words import groups

    found = {}
    for name in _GROUPS:
        meaning = type_meaning(name, groups().get(name, (name,)))
        if name in _LOOSER:
            label = f"{meaning.label}, then the same ratio in its subgroups"
            meaning = replace(meaning, label=label, filters=(*meaning.filters, any_of(*meaning.filters, _LOOSER[name])))
        found[name] = meaning
    silicate = keyword("class", ["silicate"])
    pyroxene = any_of('chemical_formula_anonymous="A6B2CD"', 'chemical_formula_anonymous="A3BC"')
    feldspar = any_of('chemical_formula_anonymous="A8B3CD"', 'chemical_formula_anonymous="A8B2C2D"')
    rows = {
        "pyroxene": ("pyroxene: silicates ABSi2O6 and ASiO3", all_of(has(["Si", "O"]), pyroxene)),
        "feldspar": (
            "feldspar: aluminosilicates of the ratios 1:1:3:8 and 1:2:2:8", all_of(has(["Al", "Si", "O"]), feldspar),
        ),
        "zeolite": (
            "zeolite: framework silicates with Al and at least 20 atoms",
            all_of(has(["Al", "Si", "O"]), "nsites>=20"),
        ),
        "mica": ("mica: silicates with Al or Mg, K or Na, and H or F", all_of(
            has(["Si", "O"]), has(["K", "Na", "Ca"], "ANY"), has(["Al", "Mg"], "ANY"), has(["H", "F"], "ANY"))),
        "amphibole": ("amphibole: silicates with the ratio Si:O of 8:24", all_of(
            has(["Si", "O"]), 'chemical_formula_reduced CONTAINS "O24"', 'chemical_formula_reduced CONTAINS "Si8"')),
        "tourmaline": ("tourmaline: silicates with B and Al", all_of(has(["B", "Al", "Si", "O"]), "nsites>=30")),
    }  # fmt: skip
    for name, (label, elements) in rows.items():
        framework = keyword("dimensionality", ["framework"]) if name == "zeolite" else ""
        layers = keyword("dimensionality", ["layered"]) if name == "mica" else ""
        best = all_of(*(part for part in (elements, silicate, framework, layers) if part))
        found[name] = Meaning("mineral", label, (best, elements), fallback=(elements,))
    return found


def compound_names() -> dict[str, Meaning]:
    """Squeezed trivial name → formula, or the elements of a mixture such as YBCO."""
    found: dict[str, Meaning] = {}
    for row in COMMON.split(","):
        name, _, formula = " ".join(row.split()).rpartition(" ")
        found.setdefault(squeezed(name), formula_meaning(formula, f"{name}: {formula}"))
    for row in SYSTEMS.split(","):
        names: list[str] = []
        symbols: list[str] = []
        for part in row.split():
            (symbols if names and part in _SYMBOLS else names).append(part)
        name = " ".join(names)
        label = f"{name}: only {', '.join(symbols)} first"
        found[squeezed(name)] = Meaning("chemical system", label, only_elements(symbols))
    return found | {
        f"{name.lower()}{grade}": found[name.lower()] for name in ("NMC", "NCM") for grade in _GRADES.split()
    }


_GRADES = "111 333 442 523 532 622 71515 811 9055 955"
"""Amounts of Ni, Mn and Co, in tenths or thirds, behind the name of a cathode material: `NMC811`."""
_SYMBOLS = frozenset(
    """Y Ba Cu O Bi Sr Ca Tl Hg La Nd Ce Li Ni Mn Co Al Ti P Ge N Mg Ga Fe Pb Zr Nb K Na In Sn Zn F Gd Sm Cd Te Se As
    Si C B S""".split()  # noqa: SIM905 (symbols)
)  # fmt: skip


def formula_meaning(formula: str, label: str = "") -> Meaning:
    """A formula: its rows come first."""
    text = f'chemical_formula_reduced="{formula}"'
    return Meaning("formula", label or f"formula {formula}", (text,), strict=False)


CASE_SENSITIVE = frozenset("MAX RE LN LSO CIS SRO PBO PTO HAp CGS TM Ln BST PMN GST".split())  # noqa: SIM905 (words)
"""Abbreviations that are understood only with these capitals, because in others they are words: `MAX` and `max`."""

"""Number words, dimensionality, and phrases whose parts together mean something else."""

from __future__ import annotations

from crystalign.text_query.chips import Meaning, all_of, any_of, has, keyword, none_of
from crystalign.text_query.element_words import group_elements
from crystalign.text_query.words import squeezed

COUNTS = {
    "elemental, unary, pure element, single element, monoelemental, elemental solid": 1,
    "binary, binary compound, binaries": 2,
    "ternary, ternary compound, ternaries": 3,
    "quaternary, quaternary compound, quaternaries": 4,
    "quinary, quinternary, pentanary": 5,
    "senary, hexanary": 6,
}
DIMENSIONS = {
    "layered, layer, 2D, two dimensional, van der Waals, vdW, lamellar, layered material, 2D material, quasi 2D, "
    "layered structure, layered crystal, exfoliable, van der Waals layered, sheet": ("layered", "layered"),
    "1D, one dimensional, chain, chain like, quasi 1D, chainlike, nanowire like": ("chains", "chains"),
    "molecular, molecular crystal, 0D, zero dimensional, molecule, molecular solid": ("molecular", "molecules"),
    "framework, 3D, three dimensional, framework structure, 3D framework, network, porous framework, nonmolecular": (
        "framework",
        "framework",
    ),
}
"""Names → keyword of the dimensionality, and what it is called."""
_REDOX = "Ti V Cr Mn Fe Co Ni Cu Nb Mo"
_ANIONS = "O F S Cl Br I N P Se"
_ARGYRODITE = all_of(
    any_of('chemical_formula_anonymous="A8B6C"', 'chemical_formula_anonymous="A6B5CD"'),
    has(["S", "Se", "Te"], "ANY"),
    has(["Li", "Na", "Cu", "Ag"], "ANY"),
    has(["P", "As", "Sb", "Si", "Ge", "Sn"], "ANY"),
)
NO_CHIP = (
    "topological insulator, Mott insulator, Chern insulator, Kondo insulator, charge transfer insulator, half "
    "metal, half metallic, Weyl semimetal, Dirac semimetal, nodal line semimetal, spin glass, spin liquid, heavy "
    "fermion, antiferromagnetic, antiferromagnet, superconductor, superconducting, superconductivity, metal "
    "insulator transition, phase change, shape memory, soft magnetic, hard magnetic, hard magnet, soft magnet, "
    "single crystal, light emitting, hard carbon, dense packing, light absorption, gap state, electron gas, large "
    "scale, metal to insulator, hard sphere, density functional, density of states, ionic conductor, proton "
    "conductor, mixed conductor, oxide ion conductor, fast ion conductor, thermal conductor, thermal insulator, "
    "high temperature superconductor, high Tc, low Tc, high k, low k, dielectric constant, lattice constant, elastic "
    "constant, piezoelectric constant, water splitting, water stable, water soluble, lead me, lead us, lead to, leads "
    "to, lead time, Hubbard U, vitamin B, vitamin C, vitamin K, "
    "I V curve, I V characteristic, C V curve, P N junction, P T diagram"
)
"""Phrases whose parts are known words that mean something else here; they are searched as text."""
CARRIERS = {"Li": "lithium", "Na": "sodium", "K": "potassium", "Mg": "magnesium", "Zn": "zinc", "Ca": "calcium"}


def _cathode(symbols: list[str], shown: str) -> Meaning:
    text = all_of(has(symbols, "ANY"), has(_REDOX.split(), "ANY"), has(["O", "F", "S"], "ANY"))
    return Meaning(
        "application",
        f"{shown} cathode: {' or '.join(symbols)}, a redox-active transition metal, and O, F or S",
        (text,),
        note="what cathode materials have in common, not a measured property",
    )


def _electrolyte(symbols: list[str], shown: str) -> Meaning:
    text = all_of(has(symbols, "ANY"), has(_ANIONS.split(), "ANY"), none_of(has([*_REDOX.split(), "W"], "ANY")))
    without_ti = text.replace('"Ti",', "")
    return Meaning(
        "application",
        f"{shown}: {' or '.join(symbols)} and an anion, without redox-active transition metals",
        (without_ti,),
        note="what solid electrolytes have in common, not a measured conductivity",
    )


def phrase_meanings() -> dict[str, Meaning]:
    """Squeezed phrase → number of elements, dimensionality, or what materials of an application have in common."""
    found: dict[str, Meaning] = {}
    for names, count in COUNTS.items():
        shown = names.split(",")[0]
        meaning = Meaning("number of elements", f"{shown}: {count} element{'s' * (count > 1)}", (f"nelements={count}",))
        found |= {squeezed(name): meaning for name in names.split(",")}
    many = Meaning("number of elements", "at least 5 elements", ("nelements>=5",))
    found |= {squeezed(n): many for n in ("high entropy", "high-entropy alloy", "multicomponent", "multi component")}
    for names, (value, shown) in DIMENSIONS.items():
        meaning = Meaning("dimensionality", shown, (keyword("dimensionality", [value]),))
        found |= {squeezed(name): meaning for name in names.split(",")}
    low = Meaning("dimensionality", "layered or chains", (keyword("dimensionality", ["layered", "chains"]),))
    found |= {"lowdimensional": low, "reduceddimensional": low}
    found["argyrodite"] = Meaning(
        "structure type", "argyrodite: A8BX6 or A6BX5Y of sulfur, selenium or tellurium", (_ARGYRODITE,)
    )
    found["postperovskite"] = Meaning(
        "structure type",
        "post-perovskite (CaIrO3) type: same ratio and space group",
        (all_of('chemical_formula_anonymous="A3BC"', "space_group_it_number=63"),),
        note="this structure type is not in the table of types; the atoms' places are not compared",
    )
    for word, symbol in (("thiospinel", "S"), ("selenospinel", "Se"), ("sulfospinel", "S")):
        text = all_of(keyword("type", ["spinel"]), has([symbol]))
        found[word] = Meaning("structure type", f"spinel type with {symbol}", (text,))
    return found | _applications()


def _applications() -> dict[str, Meaning]:
    found: dict[str, Meaning] = {}
    cells = ("cathode", "battery cathode", "cathode material", "positive electrode")
    solid = ("solid electrolyte", "superionic conductor", "solid state electrolyte", "ion conductor", "ionic conductor")
    for symbol, name in CARRIERS.items():
        for start in (f"{name} ion", name, f"{symbol} ion", symbol):
            found |= {squeezed(f"{start} {end}"): _cathode([symbol], f"{name}-ion") for end in cells}
            found |= {squeezed(f"{start} {end}"): _electrolyte([symbol], f"{name} solid electrolyte") for end in solid}
    found |= {squeezed(end): _cathode(["Li", "Na", "K", "Mg"], "battery") for end in cells}
    found |= {squeezed(end): _electrolyte(["Li", "Na"], "solid electrolyte") for end in solid[:3]}
    rows = _families() | _sulfides() | _uses()
    return found | {squeezed(name): meaning for names, meaning in rows.items() for name in names.split(",")}


def _families() -> dict[str, Meaning]:
    """Names of families of compounds that are defined by their elements and their ratio."""
    groups = group_elements()
    metals = [*groups["alkali metal"], *groups["alkaline earth metal"]]
    partners = "Al Ga In Tl Si Ge Sn Pb P As Sb Bi".split()  # noqa: SIM905 (symbols)
    ionic = "H C N O F S Cl Se Br Te I".split()  # noqa: SIM905 (symbols)
    dichalcogenide = all_of(
        has(list(groups["transition metal"]), "ANY"),
        has(["S", "Se", "Te"], "ANY"),
        'chemical_formula_anonymous="A2B"',
        any_of(*(f'chemical_formula_reduced CONTAINS "{symbol}2"' for symbol in ("S", "Se", "Te"))),
    )
    hybrid = all_of(has(["C", "H", "N"]), has(["Cl", "Br", "I"], "ANY"), has(["Pb", "Sn", "Ge", "Bi"], "ANY"))
    return {
        "transition metal dichalcogenide, TMD, TMDC, transition metal dichalcogenides, metal dichalcogenide": Meaning(
            "family", "transition-metal dichalcogenide: MX2 with S, Se or Te", (dichalcogenide,)
        ),
        "Zintl, Zintl phase, Zintl compound": Meaning(
            "family",
            "Zintl phase: alkali or alkaline-earth metal with Al, Si, P or their homologues; then with others",
            (
                all_of(has(metals, "ANY"), has(partners, "ANY"), has([*metals, *partners], "ONLY")),
                all_of(has([*metals, *groups["lanthanide"]], "ANY"), has(partners, "ANY"), none_of(has(ionic, "ANY"))),
            ),
        ),
        "MXene": Meaning(
            "family",
            "MXene: layered carbides and nitrides of early transition metals",
            (
                all_of(
                    has(["C", "N"], "ANY"),
                    has(["Ti", "V", "Cr", "Mo", "Nb", "Ta", "Zr", "Hf", "Sc", "W"], "ANY"),
                    keyword("dimensionality", ["layered"]),
                ),
            ),
        ),
        "hybrid perovskite, hybrid halide perovskite, organic inorganic perovskite, hybrid organic perovskite": (
            Meaning("family", "hybrid perovskite: C, H, N, a halogen, and Pb, Sn, Ge or Bi", (hybrid,))
        ),
        "iron based superconductor, iron pnictide superconductor, iron superconductor": Meaning(
            "family", "iron with P, As, S, Se or Te", (all_of(has(["Fe"]), has(["P", "As", "S", "Se", "Te"], "ANY")),)
        ),
        "cuprate superconductor, high Tc cuprate": Meaning(
            "family",
            "cuprate: Cu, O and Ba, Sr, Ca or a rare earth",
            (all_of(has(["Cu", "O"]), has(["Ba", "Sr", "Ca", "La", "Nd", "Y"], "ANY")),),
        ),
    }


def _sulfides() -> dict[str, Meaning]:
    """Families of sulfides and their kin."""
    return {
        "sulfosalt, sulphosalt": Meaning(
            "family",
            "sulfosalt: S, a metal and As, Sb or Bi, without O",
            (
                all_of(
                    has(["S"]),
                    has(["As", "Sb", "Bi"], "ANY"),
                    has("Cu Ag Pb Tl Hg Fe Zn Sn Mn Ni".split(), "ANY"),  # noqa: SIM905 (symbols)
                    none_of(has(["O", "H"], "ANY")),
                ),
            ),
        ),
        "Chevrel, Chevrel phase, Chevrel compound": Meaning(
            "family",
            "Chevrel phase: clusters Mo6X8 with S, Se or Te",
            (all_of(has(["Mo"]), any_of(*_chevrel_ratios()), none_of(has(["O"]))),),
        ),
    }


def _chevrel_ratios() -> list[str]:
    ratios = ((("Mo6", f"{x}8"), ("Mo3", f"{x}4")) for x in ("S", "Se", "Te"))
    contains = "chemical_formula_reduced CONTAINS"
    return [f'({contains} "{mo}" AND {contains} "{anion}")' for pair in ratios for mo, anion in pair]


def _uses() -> dict[str, Meaning]:
    """Applications, as what their materials have in common."""
    groups = group_elements()
    conducting = ["Zn", "Ga", "Cd", "In", "Sn"]
    transparent = all_of(has(["O"]), has(conducting, "ANY"), none_of(has(["H", "P", "S", "C", "N", "Si", "B"], "ANY")))
    return {
        "transparent conducting oxide, transparent conductive oxide, transparent conductor, TCO": Meaning(
            "application",
            f"transparent conducting oxide: O and {', '.join(conducting)}",
            (transparent,),
            note="what transparent conductors are made of; their calculated gaps are too small to ask for",
        ),
        "hydrogen storage, hydrogen storage material": Meaning(
            "application",
            "hydrogen storage: hydrides and borohydrides",
            (keyword("class", ["hydride", "borohydride", "hydroborate", "amide"]),),
            fallback=(all_of(has(["H"]), none_of(has(["O", "C"], "ANY"))),),
        ),
        "rare earth magnet, rare earth permanent magnet": Meaning(
            "application",
            "rare-earth magnet: a rare earth with Fe, Co or Mn",
            (all_of(has(list(groups["rare earth"]), "ANY"), has(["Fe", "Co", "Mn"], "ANY")),),
        ),
    }

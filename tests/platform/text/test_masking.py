from __future__ import annotations

import re

import gemmi
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crystalign.crystal import SYMBOLS, Crystal, pretty_formula
from crystalign.formula import read_formula
from crystalign.minerals import minerals
from crystalign.physics.caption import ELEMENTS, caption
from crystalign.physics.compound_classes import CLASS_NAMES
from crystalign.physics.structure_types import TYPE_NAMES
from crystalign.physics.symmetry import symbol_of, symmetry
from crystalign.text.masking import mask_text

RARE = {"Tc", "Pm", "Po", "At", "Rn", "Fr", "Ra", "Ac", "Pa", "Np"}
COMMON = [symbol for symbol in SYMBOLS[1:95] if symbol not in RARE]
MARKS = re.compile(r"\[(?:formula|element|class|type|system|group)\]")


def made_of(*symbols: str) -> Crystal:
    numbers = np.array([SYMBOLS.index(symbol) for symbol in symbols])
    return Crystal(9 * np.eye(3), np.linspace(0, 0.9, len(numbers))[:, None] * np.ones(3), numbers)


def of_formula(text: str) -> Crystal:
    return made_of(*(SYMBOLS[z] for z, amount in read_formula(text).amounts.items() for _ in range(int(amount))))


# --- formulas ------------------------------------------------------------------------------------------------------

NOTATIONS = {
    "plain": "{}",
    "TeX": "$_{{{}}}$",
    "TeX, roman": r"$_{{\rm {}}}$",
    "TeX, bare": "_{{{}}}",
    "HTML": "<sub>{}</sub>",
    "Unicode": "{}",
}
LOWERED = str.maketrans("0123456789+-x", "₀₁₂₃₄₅₆₇₈₉₊₋ₓ")
amounts = st.sampled_from(["", "2", "3", "4", "7", "12", "0.5", "1.85", "x", "1-x", "2-x", "3+x", "1-x-y"])


@st.composite
def formulas(draw: st.DrawFn) -> tuple[list[str], str, str]:
    """Symbols, and their formula in a notation."""
    symbols = draw(st.lists(st.sampled_from(COMMON), min_size=2, max_size=5, unique=True))
    written = [draw(amounts) for _ in symbols]
    name = draw(st.sampled_from(sorted(NOTATIONS)))
    text = ""
    for symbol, amount in zip(symbols, written, strict=True):
        shown = amount.translate(LOWERED) if name == "Unicode" and "." not in amount and "y" not in amount else amount
        text += symbol + (NOTATIONS[name].format(shown) if shown else "")
    return symbols, text, name


@settings(deadline=None, max_examples=600)
@given(formulas())
def test_a_formula_is_masked_in_every_notation(drawn):
    symbols, text, _ = drawn
    assume(any(len(s) == 2 for s in symbols) or re.search(r"\d", text))  # capitals alone may be an abbreviation
    assume(not re.fullmatch("[A-Z]{3,}s", text))  # as may their plural
    for elements in (symbols, symbols[:1]):
        masked = mask_text(f"the growth of thin {text} films, below room temperature", made_of(*elements))
        assert masked == "the growth of thin [formula] films, below room temperature"


@pytest.mark.parametrize(
    "text",
    [
        "Li1-xFePO4",
        "Li_{1-x}FePO_4",
        r"$\mathrm{TiO}_2$",
        r"$\rm TiO_2$",
        "TiO₂",
        "TiO<sub>2</sub>",
        "(Bi,Sb)2Te3",
        r"(Bi$_{1-x}$Sb$_x$)$_2$Te$_3$",
        "CuSO4·5H2O",
        "CuSO$_4$ $\\cdot$ 5H$_2$O",
        "KTi(SO4)2.H2O",
        "0.67Pb(Mg1/3Nb2/3)O3-0.33PbTiO3",
        "(1-x)PbMg(1/3)Nb(2/3)O3-xPbTiO3",
        r"YBa_2Cu_3O_{7-\delta}",
        "Fe3+:ZnO",
        "Fe$^{3+}$:ZnO",
        "Nd:YAG",
        r"La$_{2-x}$Sr$_x$CuO$_{4+\delta}$",
        "RNi2B2C",
        "LnFeAsO",
        "CH3NH3PbI3",
        "MAPbI3",
        "ABO3",
        "AV3Sb5",
        r"Tb$\_2$Sn$\_2$O$\_7$",
        "PrOs_4_Sb_12",
        "Cs2Au$^{I}$Au$^{III}$Cl6",
        "2H-MoS2",
        "1T'-WTe$_2$",
        "α-Fe2O3",
        r"$\alpha$-Fe$_2$O$_3$",
        "PdH(D)",
        "D2O",
        "GaAs/AlxGa1-xAs",
        "n-GaAs",
        "YBCO",
        "(BEDT-TTF)2Cu(SCN)2",
        "PbFe$_{1 / 2}$Ta$_{1 / 2}$O$_{3}$",
    ],
)
def test_formulas_of_papers_are_masked_whole(text):
    assert mask_text(f"We study {text} here", of_formula("NaCl")) == "We study [formula] here"


def test_a_formula_of_small_letters_or_of_capitals_is_masked_in_its_own_crystal():
    assert mask_text("superconductivity in mgb2", of_formula("MgB2")) == "superconductivity in [formula]"
    assert mask_text("A REFINEMENT OF SIC", of_formula("SiC")) == "A REFINEMENT OF [formula]"
    assert mask_text("the gap of sic", of_formula("SiC")) == "the gap of sic"


def test_ambiguous_capitals_are_a_formula_in_their_own_crystal_alone():
    assert mask_text("the CO molecule", made_of("C", "O")) == "the [formula] molecule"
    assert mask_text("charge order (CO)", made_of("Ni", "S")) == "charge order (CO)"
    numerals = "BCS theory and type-II, III-V"
    assert mask_text(numerals, made_of("B", "C", "S", "I", "V")) == numerals
    assert mask_text("BN and WC", made_of("Na")) == "[formula]"


def test_miller_indices_and_groups_of_matrices_are_no_amounts():
    assert mask_text("SU(2), O(3), U(1)", made_of("S", "O", "U")) == "SU(2), O(3), U(1)"
    assert mask_text("on Si(111) and GaAs(110)", made_of("Na")) == "on [element](111) and [formula](110)"


# --- elements ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", range(1, 95))
def test_names_of_all_elements_are_masked(z):
    name = ELEMENTS[z - 1]
    for text in (f"an excess of {name} ions", f"{name.capitalize()} ions in excess"):
        masked = mask_text(text, made_of(SYMBOLS[z]))
        assert name not in masked.lower()
        assert "excess" in masked


SPELT = "aluminium sulphur caesium ferric cuprous plumbic argentic wolfram deuterated lithiated hydrogenated"
CLASSES = """dioxide carbonate phosphates titanate oxychloride oxypnictides dihydrogenphosphate cuprates pentoxide
monoxides sesquisulphide hexaboride borocarbide peroxide orthosilicate metavanadate hydroxide alumina zirconia uranyl
dichalcogenides iridate nickelate thiophosphate hydrate"""
VARIANTS = "anti-perovskites Halite zincblende zinc-blende rocksalt thiospinel nyerereite"
SYSTEMS = ["cubic", "Tetragonal", "orthorhombicity", "pseudo-cubic", "fcc", "body-centred tetragonal"]


@pytest.mark.parametrize("word", SPELT.split())
def test_other_spellings_and_adjectives_are_masked(word):
    assert mask_text(f"an {word} phase", made_of("Na")) == "an [element] phase"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("In-doped and As-rich films", "[element]-doped and [element]-rich films"),
        ("In this work we show As-grown films in MnSi", "In this work we show As-grown films in [formula]"),
        ("Superconductivity In Layered Crystals As A Probe", "Superconductivity In Layered Crystals As A Probe"),
        ("vacancies of As and In in this crystal", "vacancies of [element] in this crystal"),
        ("the As 4p states", "the [element] 4p states"),
        ("layers of Ga, In, with X = As, Sb", "layers of [element], with X = [element]"),
        ("No change At all, He said; I see", "No change At all, He said; I see"),
    ],
)
def test_symbols_that_are_words_are_told_from_words(text, masked):
    assert mask_text(text, made_of("In", "As", "Ga")).replace("[formula]", "[element]") == masked.replace(
        "[formula]", "[element]"
    )


@pytest.mark.parametrize(
    "text",
    [
        "below 4.2 K and 300K, at 5 V, in 25 °C",
        "the C-axis, a K-edge, an S-wave and a V-shaped gap",
        "S = 1/2, H || c, U/t, LDA+U, the O(N) model",
        "type I and phase V, III-V and II-VI",
        "T_c, H_{c2} and E_F, $T_N$",
    ],
)
def test_units_quantities_and_numerals_stay(text):
    assert mask_text(text, made_of("K", "V", "C", "S", "H", "U", "O", "I")) == text


def test_a_coordination_by_potassium_is_no_temperature():
    masked = mask_text("K is bonded to 6 K and 2 V (8-fold, 2.90 Å)", made_of("K", "V"))
    assert masked == "[element] is bonded to 6 [element] and 2 [element] (8-fold, 2.90 Å)"


def test_lead_is_a_metal_beside_chemistry_and_else_a_verb():
    lead = made_of("Pb", "O")
    assert mask_text("lead-free and lead titanate, which lead to gaps", lead) == (
        "[element]-free and [formula], which lead to gaps"
    )
    assert mask_text("a replacement of lead in solar cells", lead) == "a replacement of [element] in solar cells"
    assert mask_text("defects that lead the way", made_of("Na")) == "defects that lead the way"


def test_isotopes_and_ions_are_masked():
    text = "^{63}Cu NMR, 75As NQR, Fe3+ beside Mn(IV) beside $^{3}$He"
    assert MARKS.sub("·", mask_text(text, made_of("Na"))) == "· NMR, · NQR, · beside · beside ·"


# --- classes, types and systems ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", CLASSES.split())
def test_classes_of_compounds_are_masked(word):
    for spelt in (word, word.capitalize(), word.upper()):
        assert mask_text(f"this {spelt} crystal", made_of("Na")) == "this [class] crystal"


def test_the_number_of_elements_is_masked_where_a_class_follows():
    assert mask_text("a ternary oxide, a binary compound", made_of("Na")) == "a [class], a [class]"
    assert mask_text("a binary search of quaternary rocks", made_of("Na")) == "a binary search of quaternary rocks"


SALTS = {"borax", "chromite", "cobaltite", "manganite", "paratellurite", "tellurite"}
NAMES = [*TYPE_NAMES, *(m.name for m in minerals() if m.name not in SALTS | {"lime"})]


@pytest.mark.parametrize("name", NAMES)
def test_structure_types_and_minerals_are_masked(name):
    for spelt in (name, name.replace(" ", "-"), name[0].upper() + name[1:]):
        assert mask_text(f"has the {spelt} structure", made_of("Na")) == "has the [type] structure"


@pytest.mark.parametrize("word", VARIANTS.split())
def test_variants_of_types_and_minerals_nobody_listed_are_masked(word):
    assert mask_text(f"the {word} phase", made_of("Na")) == "the [type] phase"


@pytest.mark.parametrize("word", SYSTEMS)
def test_crystal_systems_are_masked(word):
    assert mask_text(f"the {word} phase", made_of("Na")) == "the [system] phase"


def test_shapes_of_a_coordination_stay():
    text = "octahedral, trigonal planar, trigonal-bipyramidal and hexagonal prismatic, 2.82 Å"
    assert mask_text(text, made_of("Na")) == text


# --- symmetry ------------------------------------------------------------------------------------------------------

SPELLINGS = {
    "as it is": lambda s: s,
    "without spaces": lambda s: s.replace(" ", ""),
    "underscores": lambda s: re.sub(r"(\d)(\d)", r"\1_\2", s.replace(" ", "")),
    "TeX": lambda s: "$" + re.sub(r"-(\d)", r"\\bar{\1}", re.sub(r"(\d)(\d)", r"\1_{\2}", s.replace(" ", ""))) + "$",
    "overline": lambda s: re.sub(r"-(\d)", r"$\\overline{\1}$", s.replace(" ", "")),
    "combining": lambda s: re.sub(r"-(\d)", "\\1\u0305", s.replace(" ", "")),
    "brackets": lambda s: re.sub(r"(\d)(\d)", r"\1(\2)", s.replace(" ", "")),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_space_groups_are_masked_in_every_spelling(spelling):
    crystal = made_of("Cu", "O")
    for group in gemmi.spacegroup_table():
        for name in {group.hm, group.short_name()}:
            if ")" in name:
                continue  # two settings of gemmi's own
            symbol = SPELLINGS[spelling](name)
            assert mask_text(f"It has the space group {symbol}, as expected.", crystal) == (
                "It has the space group [group], as expected."
            ), symbol


def test_symbols_that_nothing_else_looks_like_need_no_context():
    crystal = made_of("Cu", "O")
    for number in range(1, 231):
        symbol = symbol_of(number)
        masked = mask_text(f"crystals ({symbol}) grow", crystal)
        if len(symbol.replace("_", "")) > 3:
            assert masked == "crystals ([group]) grow", symbol
    assert mask_text("I am in P1 of the Pa scale at C2", crystal) == "I am in P1 of the Pa scale at C2"


@pytest.mark.parametrize(
    "text",
    [
        "space group No. {}",
        "space group number {}",
        "space group {}",
        "space-group #{}",
        "Space group: {}",
        "SG = {}",
    ],
)
def test_numbers_of_space_groups_are_masked_behind_their_words(text):
    for number in (1, 14, 225):
        masked = mask_text("the " + text.format(number) + ", and 225 more", made_of("Na"))
        assert masked == "the " + text.format("[group]") + ", and 225 more"


def test_point_groups_and_letters_of_structures_are_masked():
    text = "D$_{6h}$, C2v, $O_h^7$, point group 4/mmm, L1$_0$, D0_22, A15, cF8"
    assert MARKS.sub("·", mask_text(text, made_of("Na"))) == "·, ·, ·, point group ·, ·, ·, ·, ·"


# --- captions and ordinary text ------------------------------------------------------------------------------------


def test_a_masked_caption_keeps_only_what_is_no_composition_and_no_symmetry(known):
    found = symmetry(known)
    masked = mask_text(caption(known, found), known)
    names = [ELEMENTS[z - 1] for z in known.composition]
    formulas_of_it = [known.formula, pretty_formula(known.formula)] if len(known.composition) > 1 else []
    for word in (*formulas_of_it, found.symbol, str(found.number), found.crystal_system, *names, *TYPE_NAMES):
        assert word not in masked
    assert not re.search(rf"(?<![A-Za-z])(?:{'|'.join(SYMBOLS[z] for z in known.composition)})(?![A-Za-z])", masked)
    assert "Å" in masked
    assert "bonded to" in masked
    assert re.search(r"bonded to \d+ \[element\]", masked)


@pytest.mark.parametrize("z", range(1, 95))
def test_masked_captions_of_elements_and_of_binaries_name_no_element(z):
    for other in ({z}, {z, 8}, {z, 49}, {z, 19}):
        numbers = sorted(other)
        crystal = Crystal(4 * np.eye(3), np.array([[0, 0, 0], [0.5, 0.5, 0.5]])[: len(numbers)], np.array(numbers))
        named = " and ".join(ELEMENTS[n - 1] for n in numbers)
        kind = "a form" if len(numbers) == 1 else "a binary compound"
        symbols = [SYMBOLS[n] for n in numbers]
        bonds = "; ".join(
            f"{s} is mostly bonded to 8 {symbols[-1]} (2.50 Å) and 1 {symbols[0]} (2.61 Å)" for s in symbols
        )
        text = f"{crystal.formula} is {kind} of {named}. It crystallizes in the cubic space group Pm-3m (221). {bonds}."
        masked = mask_text(text, crystal)
        assert masked.startswith("[formula] is a [formula]. It crystallizes in the [system] space group [group]. "), (
            masked
        )
        left = MARKS.sub("", masked)
        assert not re.search(rf"(?<![A-Za-z])(?:{'|'.join(symbols)})(?![A-Za-z])", left.replace("In the", "")), masked


def test_the_clause_that_names_the_structure_type_goes():
    crystal = of_formula("NaCl")
    with_type = "It crystallizes in the cubic space group Fm-3m (225) with the rock salt structure."
    without = "It crystallizes in the cubic space group Fm-3m (225)."
    assert mask_text(with_type, crystal) == mask_text(without, crystal)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_the_classes_of_our_captions_are_masked(name):
    assert mask_text(f"NaCl is a ternary {name} of sodium.", of_formula("NaCl")) == "[formula] is a [formula]."


ORDINARY = """
the of and to in is that we as at no be he on by so if are was for with from this these which both can may lead leads
led In As At No He Be I On By A An Am Us Or So It Is If Do Go Can Man Pa Ma Candy Cosmic Nice Pony Sixty
effect field theory spin magnetic electron quantum wave density state transition temperature measurement model finite
infinite site definite composite white write satellite dendrite crystallite despite opposite state rate gate substrate
degenerate coordinate moderate estimate provide inside wide side guide hide decide outside candidate climate private
periodic aromatic chromatic ferromagnetic ferroelectric phosphorescence fluorescence titanic osmotic golden ironic
electronic ionic atomic critical symmetry lattice layered structure surface interface sample crystal crystals
DFT STM NMR ARPES BCS CDW SDW DOS LDA GGA PBE MBE CVD UHV SQUID Tc Hc2 EF Phys Rev Lett GHz meV nm GPa kbar mK
"""


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.sampled_from(ORDINARY.split()), min_size=1, max_size=12),
    st.sampled_from(["NaCl", "TiO2", "KV2O5", "FeSe", "C60"]),
)
def test_text_without_chemistry_is_unchanged(words, formula):
    text = " ".join(words) + "."
    assert mask_text(text, of_formula(formula)) == text


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=300)
def test_any_text_is_accepted_and_masking_twice_changes_nothing(text):
    crystal = of_formula("InAs")
    once = mask_text(text, crystal)
    assert mask_text(once, crystal) == once

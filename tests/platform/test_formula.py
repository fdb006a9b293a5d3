"""Formulas as people write them, and the one form in which they are kept."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalign.crystal import SYMBOLS, Crystal, pretty_formula, reduced_formula
from crystalign.errors import InputError
from crystalign.formula import MAX_FORMULA, chemical_system, read_formula, suggest
from crystalign.ratios import whole_ratio

SULPHATE = "CuH10O9S"
READ = {
    **dict.fromkeys(["CuSO4·5H2O", "CuSO4.5H2O", "CuSO4*5H2O", "CuSO4 5H2O", "CuSO4 · 5 H2O"], SULPHATE),
    **dict.fromkeys(
        ["CuSO₄•5H₂O", "CuSO4⋅5H2O", "CuSO4∙5H2O", "CuSO4.5(H2O)", "(CuSO4.5H2O)2", "5H2O·CuSO4"], SULPHATE
    ),
    **dict.fromkeys(
        ["Fe₂O₃", "Fe2 O3", "Fe 2 O 3", "Fe_2O_3", "Fe$_2$O$_3$", "Fe_{2}O_{3}", "O3Fe2", "Fe4O6"], "Fe2O3"
    ),
    **dict.fromkeys(["Fe3+", "Fe^3+", "Fe³⁺", "Fe 3+", "Fe(3+)", "Fe^{3+}", "Fe+", "Fe++"], "Fe"),
    **dict.fromkeys(["SO4 2-", "SO₄²⁻", "SO4^2-", "(SO4)^2-", "SO4--", "SO4²⁻"], "O4S"),
    **dict.fromkeys(["[Fe(CN)6]4-", "[Fe(CN)6]^4-", "[Fe(CN)6]", "Fe(CN)6"], "C6FeN6"),
    **dict.fromkeys(["D2O", "H2O", "HDO", "T2O", "²H2O"], "H2O"),
    **dict.fromkeys(["LiNi1/3Mn1/3Co1/3O2", "LiNi⅓Mn⅓Co⅓O2", "LiNi0.333Mn0.333Co0.334O2"], "CoLi3MnNiO6"),
    **dict.fromkeys(["Li0.5CoO2", "Li.5CoO2", "Li1/2CoO2"], "Co2LiO4"),
    **dict.fromkeys(["CaSO4.0.5H2O", "CaSO4·0.5H2O", "CaSO4·½H2O", "CaSO4.1/2H2O"], "Ca2H2O9S2"),
    "Ca(OH)2": "CaH2O2",
    "(La0.7Sr0.3)MnO3": "La7Mn10O30Sr3",
    "YBa2Cu3O6.95": "Ba40Cu60O139Y20",
    "La1.5Sr0.5NiO4": "La3Ni2O8Sr",
    "Na2CO3.10H2O": "CH20Na2O13",
    "3CdSO4·8H2O": "Cd3H16O20S3",
    "Zn(NO3)2.6H2O": "H12N2O12Zn",
    "Ca2.832Fe0.6285Mg2.5395(CO3)6": "C697Ca329Fe73Mg295O2091",
    "(NH4)2[FeCl5(H2O)]": "Cl5FeH10N2O",
    "((Bi2(Mg0.667Nb1.333)O7)0.9(SrCO3)0.1)2": None,
    "⁵⁸NiCl₂⋅6H₂O": "Cl2H12NiO6",
    "KCr(SO4)2*12H2O": "CrH24KO20S2",
    "C₁₀H₁₄N₅O₈P": "C10H14N5O8P",
    "K4[Fe(CN)6]·3H2O": "C6FeH6K4N6O3",
    "{[Co(NH3)6]Cl3}2": "Cl3CoH18N6",
    "NH4+": "H4N",
    **dict.fromkeys(["C60", "C70", "Si8", "Si10", "Fe48"], None),
    "NaBr.2H2O": "BrH4NaO2",
    "CaCl2.H2O": "CaCl2H2O",
    **dict.fromkeys(["VI3", "V1I3"], "I3V"),
    "CsVI3": "CsI3V",
    **dict.fromkeys(("InI", "CsI", "TlI", "CuI", "AgI", "InI3", "LiIO3", "FeI2", "IV", "BiVO4")),
    **dict.fromkeys(("Ac2O3", "AcOF", "AcBrO", "Ac1OH", "NaOAc1", "AcNa", "OPr", "PrOCl", "Zn(OC2H3O)2")),
    **dict.fromkeys(("No", "Fm", "ZnPo", "PoCl4", "CaSO4(2H2O)", "CuSO4(5H2O)", "Al2O3(3CaO)")),
    "[^13C]H4": "CH4",
}
REFUSED = {
    **dict.fromkeys(["YBa2Cu3O7-x", "Fe1-xO", "YBa2Cu3O7-δ", "LixCoO2", "O7±δ", "MnO2·nH2O", "UO2+x"], "varies"),
    **dict.fromkeys(["Na0", "Fe0O", "NaCl0.0", "Fe0/3O"], "must be above 0"),
    **dict.fromkeys(["VO2+", "UO22+", "SO42-", "YBa2Cu3O7-"], "may be amount and charge"),
    **dict.fromkeys(["Al2O3.2SiO2.2H2O", "CuCl2.2NH3", "Na1.5H2O", "K2O.Al2O3.6SiO2"], "one number, or end one"),
    **dict.fromkeys(["Na0.35CoO2.1.3H2O", "Fe1.2.3.4O"], "more than one reading"),
    **dict.fromkeys(["Fe-O", "Li–Fe–P–O", "O - Fe", "Fe,O"], "chemical system"),
    **dict.fromkeys(["nacl", "NACL", "Nacl", "naCl"], "Did you mean NaCl"),
    **dict.fromkeys(["fe2o3", "FE2O3", "fE2o3"], "Did you mean Fe2O3"),
    **dict.fromkeys(["Fe203", "Cu20", "TiO02", "Ti02"], "letter O"),
    **dict.fromkeys(["Fe(III)2O3", "Cu(II)O"], "oxidation state"),
    **dict.fromkeys(["Fe 2O3", "NaBr 2 H2O"], "either side"),
    **dict.fromkeys(["Fe[CN]6-3", "Ag[NH3]+2", "[Ni(NH3)6]2+[PtCl6]", "Fe-1", "SiO2-Al2O3"], "charge at the end"),
    **dict.fromkeys(["Fe(O", "Fe)", "(Fe]", "[Fe(O])", "Fe((O)"], "brackets|symbol"),
    **dict.fromkeys(["", "  ", "Fe2O3" * 100], "characters"),
    **dict.fromkeys(["12", "()", "2", ".5", "+", "Fe()"], "symbol|charge"),
    **dict.fromkeys(["FeII", "Fe II", "FeIIFeIII2O4", "CuII", "VII", "Fe2IIIO3"], r"oxidation state .*write \w*I[23]"),
    **dict.fromkeys(["FeIII", "CoIII", "FeIIICl3", "VIII", "InIII"], r"oxidation state \w+\(III\).*write \w+I3"),
    **dict.fromkeys(["SnIVO2", "TiIV", "VIV", "MnIVO2", "(CeIV)O2"], r"oxidation state \w+\(IV\).*I1V1"),
    **dict.fromkeys(["UVIO3", "MoVI", "SVIF6", "WVI2O6"], r"oxidation state \w+\(VI\).*V1I1"),
    **dict.fromkeys(["Zn(OAc)2", "NaOAc", "Cu(OAc)2·H2O", "AcOH", "Pb(Ac)2", "HAc", "(AcO)2Pb"], "acetate"),
    **dict.fromkeys(["Ti(OPr)4", "Al(OPr)3"], "propoxide"),
    **dict.fromkeys(["KNo3", "AgNo3", "HNo3"], "element 102.* Did you mean (K|Ag|H)NO3"),
    "Fe(No3)3": "Did you mean Fe",
    **dict.fromkeys(["No2", "NaCn", "NaOTs", "K3Fe(Cn)6", "FmCl3"], "no crystal is known"),
    **dict.fromkeys(["LiFePo4", "Na3Po4", "Ca3(Po4)2", "NaPo3"], "phosphate"),
    **dict.fromkeys(["[13C]H4", "(2H)2O", "[18O]H2", "[57Fe]2O3", "[13CO2]", "{15NH4}Cl"], "isotope"),
    "Xx2O3": "'Xx' is not an element",
    "Na+Cl-": "no meaning",
    "Fe1/0O": "divides by zero",
    "Fe99999999O": "at most",
    "Fe2\ud800O3": "U\\+D800",
    "Li0,5CoO2": "comma",
    "NaCl; DROP": "';'",
    "Fe1e5": "capital",
    "perovskite": "capital",
    "Fe1½": "whole number stands before",
    "(" * 90 + "Fe" + ")999999" * 9: "symbol|brackets",
    "((((Fe999999)999999)999999)999999)": "atoms",
    "Fe999999O0.000001": "smallest amount",
}


@pytest.mark.parametrize("text", READ)
def test_formulas_are_read_as_chemists_mean_them(text):
    found = read_formula(text).reduced
    assert found == (READ[text] or found)
    assert read_formula(found).reduced == found


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_what_has_two_readings_or_none_is_refused_with_the_reason(text):
    with pytest.raises(InputError, match=REFUSED[text]) as caught:
        read_formula(text)
    assert caught.value.reason in {"bad-formula", "unknown-element"}
    str(caught.value).encode()


def test_amounts_are_those_that_stand_there():
    amounts = read_formula("CuSO4.5H2O").amounts
    assert amounts == {1: Fraction(10), 8: Fraction(9), 16: Fraction(1), 29: Fraction(1)}
    assert read_formula("Ni1/3Co2/3").amounts == {27: Fraction(2, 3), 28: Fraction(1, 3)}


def test_what_is_left_out_or_read_in_some_way_is_noted():
    assert read_formula("Fe3+").notes == ("the charge 3+ is left out",)
    assert read_formula("D2O").notes == ("D is read as H",)
    assert read_formula("CuSO4.5H2O").notes == ("read as CuSO4·5H2O",)
    assert read_formula("Fe2O3").notes == ()


@pytest.mark.parametrize(
    ("refused", "written"),
    [("FeIV", "FeI1V1"), ("FeII", "FeI2"), ("UVI", "UV1I1"), ("NaPo4", "Po4Na"), ("HAc", "HAc1"), ("[6Li]", "[Li]6")],
)
def test_what_is_refused_as_doubtful_can_be_written_in_another_way(refused, written):
    with pytest.raises(InputError):
        read_formula(refused)
    assert len(read_formula(written).amounts) == len([letter for letter in written if letter.isupper()])


@pytest.mark.parametrize("text", ["CaCo3", "Na2Co3", "Ni(Co)4", "Pb(Co)3", "NaHCo3"])
def test_cobalt_where_carbon_and_oxygen_are_likely_is_noted(text):
    assert read_formula(text).notes == ("Co is read as cobalt; carbon and oxygen are CO",)
    assert read_formula("YCo5").notes == read_formula("LiCoO2").notes == read_formula("CeCo3").notes == ()


def test_lower_case_letters_suggest_formulas():
    assert suggest("nacl") == ["NaCl"]
    assert suggest("licoo2")[0] == "LiCoO2"
    assert "CaCO3" in suggest("caco3")
    assert suggest("xyz") == suggest("layered oxide") == suggest("perovskite") == suggest("NaCl") == []


def test_a_chemical_system_is_told_from_a_formula():
    assert chemical_system("O-Fe") == chemical_system("Fe – O") == chemical_system("Fe, O") == ["Fe", "O"]
    assert chemical_system("Fe") == chemical_system("Fe-x") == chemical_system("FeO") == []


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.text(max_size=MAX_FORMULA) | st.text("FeONaCl()[]{}.·0123456789/+-^ xδ", max_size=MAX_FORMULA))
def test_any_text_is_read_or_refused_at_once(text):
    started = time.perf_counter()
    try:
        read_formula(text)
    except InputError as error:
        str(error).encode()
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "text", ["(" * 99 + "Fe" + ")" * 99, "Fe" * 100, "[" * 200, "1." * 100, "Fe1/3" * 40, "nacl" * 50]
)
def test_the_worst_formulas_are_read_in_an_instant(text):
    started = time.perf_counter()
    with contextlib.suppress(InputError):
        read_formula(text)
    assert time.perf_counter() - started < 1


# --- the one form of a composition ------------------------------------------------------------------------------------


def crystal(sites):
    """One site per entry, in a cube; an entry is `{Z: occupancy}`."""
    n = len(sites)
    frac = np.array([[i / n, 0.0, 0.0] for i in range(n)])
    occupancies = tuple(tuple(sorted(site.items())) for site in sites)
    return Crystal(4.0 * n * np.eye(3), frac, np.array([max(site, key=site.get) for site in sites]), occupancies)


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 7, 32])
def test_copper_gold_is_one_formula_mixed_or_ordered_in_any_cell(cells):
    ordered = Crystal(4.0 * np.eye(3), np.zeros((4, 3)), np.array([79, 29, 29, 29]))
    assert ordered.formula == crystal([{29: 0.75, 79: 0.25}] * cells).formula == "AuCu3"
    assert crystal([{26: 0.945}, {8: 1.0}] * cells).formula == "Fe189O200"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.integers(1, 94), st.integers(1, 1000), min_size=1, max_size=5),
    st.integers(1, 60),
    st.lists(st.floats(-1e-9, 1e-9), min_size=5, max_size=5),
)
def test_a_composition_has_one_formula_in_any_supercell(thousandths, cells, noise):
    mixed = {z: x / 1000 for z, x in thousandths.items()}
    larger = {z: cells * x * (1 + e) for (z, x), e in zip(mixed.items(), noise, strict=False)}
    assert reduced_formula(mixed) == reduced_formula(larger)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.integers(1, 94), st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 12))
def test_mixed_and_ordered_crystals_of_a_composition_share_their_formula(counts, cells):
    total = sum(counts.values())
    ordered = reduced_formula({z: cells * n for z, n in counts.items()})
    assert reduced_formula({z: n / total for z, n in counts.items()}) == ordered
    divisor = np.gcd.reduce(list(counts.values()))
    spelt = sorted((SYMBOLS[z], n // divisor) for z, n in counts.items())
    assert ordered == "".join(f"{s}{n if n > 1 else ''}" for s, n in spelt)


@pytest.mark.parametrize("digits", [3, 4])
def test_rounded_thirds_and_sixths_are_thirds_and_sixths(digits):
    for parts in (3, 6):
        for n in range(1, parts):
            share = round(n / parts, digits)
            alloy = reduced_formula({29: share, 79: round(1 - share, digits)})
            assert alloy == reduced_formula({29: n, 79: parts - n})
            assert reduced_formula({57: share, 38: 1 - share, 25: 1.0, 8: 3.0}) == reduced_formula(
                {57: n, 38: parts - n, 25: parts, 8: 3 * parts}
            )


def test_small_differences_of_composition_are_kept():
    names = [reduced_formula({26: x, 8: 1.0}) for x in (0.94, 0.945, 0.95, 0.98, 0.99, 0.995, 0.998, 1.0)]
    assert len(set(names)) == len(names)
    assert reduced_formula({26: 501, 8: 500}) == "Fe501O500"


def test_whole_numbers_are_counts_and_never_approximated():
    assert whole_ratio([9_999, 10_000]) == (9_999, 10_000)
    assert whole_ratio([0.333, 0.667]) == (1, 2)
    assert whole_ratio([1e-7, 1.0])[0] == 1


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        ("La7Mn10O30Sr3", "Sr0.3La0.7MnO3"),
        ("Fe189O200", "Fe0.945O"),
        ("Ba40Cu60O139Y20", "Ba2YCu3O6.95"),
        ("AuCu3", "Cu3Au"),
        ("ClNa", "NaCl"),
        ("Al12Mg17", "Mg17Al12"),
        ("CoLi3MnNiO6", "Li3MnCoNiO6"),
        ("C20H12O5", "H12(C4O)5"),
    ],
)
def test_formulas_are_shown_with_decimals_where_sites_are_shared(formula, shown):
    assert pretty_formula(formula) == shown
    assert read_formula(shown).reduced == formula

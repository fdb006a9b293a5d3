"""What strangers type is not taken for something else: negations, units, terms with a letter, commas, groups."""

from __future__ import annotations

import time

import pytest

from crystalign.text_query.lexicon import lexicon
from crystalign.text_query.mineral_words import COMMON, SYNONYMS, SYSTEMS
from crystalign.text_query.prototype_words import STRUKTURBERICHT
from crystalign.text_query.structure_words import STRUKTURBERICHT as RECOGNISED
from crystalign.text_query.understanding import understand
from crystalign.text_query.words import squeezed

NO_LEAD = 'NOT elements HAS "Pb"'


def filters(text, fields):
    return [chip.filter for chip in understand(text, fields).chips]


@pytest.mark.parametrize(
    "text",
    [
        "materials in which lead is absent",
        "lead excluded",
        "nothing with lead",
        "I don't want lead",
        "doesn't contain lead",
        "do not contain lead",
        "avoid lead",
        "anything but lead",
        "instead of lead",
        "rather than lead",
        "apart from lead",
    ],
)
def test_a_sentence_that_excludes_an_element_is_a_negation(text, fields):
    assert filters(text, fields) == [NO_LEAD]


def test_each_of_several_elements_must_be_absent(fields):
    assert filters("lead and tin must be absent", fields) == ['NOT elements HAS ANY "Pb","Sn"']


@pytest.mark.parametrize(
    "text",
    """Tc > 77 K|K > 77 K|high-Tc superconductor|vitamin C|U-turn|K-edge|F-center|S-wave|Y-junction|B-site|H-bond
    |heavier than lead|harder than diamond|lead me to|dielectric constant > 20|I-V curve|P-N junction|AK47|AZ91
    |ICSD 12345|2H|3C|group theory""".replace("\n    ", "").split("|"),
)
def test_a_term_of_another_kind_gives_no_condition(text, fields):
    assert filters(text, fields) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("N-doped", 'elements HAS "N"'),
        ("K-containing", 'elements HAS "K"'),
        ("B-rich", 'elements HAS "B"'),
        ("P-based", 'elements HAS "P"'),
        ("V-substituted", 'elements HAS "V"'),
    ],
)
def test_a_letter_before_a_word_for_its_part_is_an_element(text, expected, fields):
    assert understand(text, fields).chips[0].level(9) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("gap > 1,5 eV", "1.5"),
        ("gap > 1.5 eV", "1.5"),
        ("gap > 1,500 meV", "1.5"),
        ("gap > 2, cubic", "2"),
        ("gap > 2,cubic", "2"),
    ],
)
def test_a_comma_is_a_decimal_sign_or_separates_thousands_or_conditions(text, value, fields):
    assert filters(text, fields)[0].endswith(f">{value}")


@pytest.mark.parametrize("text", ["gap > 2 eV or < 1 eV", "gap > 1,234,5"])
def test_a_comparison_that_is_not_read_whole_gives_no_condition(text, fields):
    found = understand(text, fields)
    assert not found.chips
    assert "gap" in found.rest


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("III-V semiconductor", 'chemical_formula_anonymous="AB"', 'elements HAS ANY "N","P","As","Sb","Bi"'),
        ("II-VI", 'elements HAS ANY "O","S","Se","Te"', 'elements HAS ANY "Be","Mg","Ca","Sr","Ba","Zn","Cd","Hg"'),
        ("I-III-VI2", 'chemical_formula_anonymous="A2BC"', "elements HAS ONLY"),
        ("group 14 elements", '"C","Si","Ge","Sn","Pb"', "elements"),
        ("group IVB", '"Ti","Zr","Hf"', "elements"),
        ("group IVA", '"C","Si","Ge","Sn","Pb"', "elements"),
        ("period 2 elements", '"Li","Be","B","C","N","O","F","Ne"', "elements"),
    ],
)
def test_groups_and_periods_of_the_periodic_table(text, first, last, fields):
    chip = understand(text, fields).chips[0]
    assert first in chip.filter
    assert last in chip.level(9)


def test_a_group_is_a_constituent_and_can_be_excluded(fields):
    assert understand("oxides of group 4", fields).chips[0].label == "oxide of a group-4 element"
    assert filters("without group 16 elements", fields) == ['NOT elements HAS ANY "O","S","Se","Te","Po"']
    assert filters("space group 14", fields) == ["space_group_it_number=14"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NMC811", '_crystalign_chemsys="Co-Li-Mn-Ni-O"'),
        ("SrTiO3-δ", '_crystalign_chemsys="O-Sr-Ti"'),
        ("SiC-6H", 'chemical_formula_reduced="SiC"'),
        ("WC-Co", 'chemical_formula_reduced="WC"'),
        ("TiO2-B", 'chemical_formula_reduced="TiO2" AND space_group_it_number=12'),
        ("C40 structure", 'chemical_formula_anonymous="A2B" AND space_group_it_number=180'),
        ("D8_8 structure", 'chemical_formula_anonymous="A5B3" AND space_group_it_number=193'),
        ("fool's gold", 'chemical_formula_reduced="FeS2" AND space_group_it_number=205'),
        ("post-perovskite", 'chemical_formula_anonymous="A3BC" AND space_group_it_number=63'),
        ("La0.7Sr0.3MnO3", 'chemical_formula_reduced="La0.7Sr0.3MnO3"'),
    ],
)
def test_names_of_materials_with_numbers_and_hyphens(text, expected, fields):
    assert filters(text, fields)[0] == expected


def test_a_mixed_site_is_followed_by_crystals_of_its_elements(fields):
    (chip,) = understand("La0.7Sr0.3MnO3", fields).chips
    assert chip.then[0] == '_crystalign_chemsys="La-Mn-O-Sr"'


def test_each_letter_of_a_formula_keeps_its_own_elements(fields):
    assert [chip.label for chip in understand("ABX3 with A=Cs, B=Pb", fields).chips][1:] == ["A is Cs", "B is Pb"]


def test_every_row_of_the_tables_of_names_is_known():
    rows = [" ".join(row.split()[:-1]) for table in (SYNONYMS, COMMON) for row in table.split(",")]
    rows += [row.split()[0] for row in SYSTEMS.split(",")]
    unknown = [row for row in rows if not lexicon().knows(squeezed(row)) and not lexicon().knows(squeezed(row)[:-1])]
    assert unknown == []


def test_no_symbol_has_two_prototypes():
    symbols = [row.split()[0] for table in (STRUKTURBERICHT, RECOGNISED) for row in table.split(",")]
    assert len(set(symbols)) == len(symbols)


def test_prototypes_agree_with_the_aflow_library():
    """Where the library has a prototype of the same formula, one of these has our space group."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    from crystalign.formula import read_formula
    from crystalign.text_query.prototype_words import _space_groups

    known: dict[str, set[int]] = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        formula = read_formula(entry["snl"].structure.composition.reduced_formula).reduced
        known.setdefault(formula, set()).add(int(entry["tags"]["aflow"].split("_")[2]))
    compared = {formula: number for formula, number in _space_groups().items() if formula in known}
    assert len(compared) > 15
    assert [formula for formula, number in compared.items() if number not in known[formula]] == []


def test_brackets_that_do_not_close_are_read_in_bounded_time(fields):
    understand("NaCl", fields)
    start = time.process_time()
    understand("Li(" * 1300, fields)
    assert time.process_time() - start < 3

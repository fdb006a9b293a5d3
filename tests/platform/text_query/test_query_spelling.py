"""Misspelled words, letters of formulas, ratios and alternatives in queries."""

from __future__ import annotations

import pytest

from brief_query import brief
from crystalign.text_query.spelling import corrected
from crystalign.text_query.understanding import understand
from crystalign.text_query.words import split_words

MISSPELLED = {
    "pervoskite": "perovskite",
    "galium": "gallium",
    "flourite": "fluorite",
    "titanum": "titanium",
    "orthorombic": "orthorhombic",
    "phospates": "phosphates",
    "potasium": "potassium",
    "intermetalics": "intermetallics",
    "semiconducter": "semiconductor",
    "magnessium": "magnesium",
}
RIGHT = """ferroic caloric oxides sodium solver octahedra isolated crystals glasses element strange magneto hexaganol
berovskite seleniye oxode"""

COMPOSITION = [
    ("rare earth sesquioxides", ['ratio="A3B2"', '"O3"', "RARE EARTHS"]),
    ("hexaborides", ["nelements=2", 'ratio="A6B"', '"B6"']),
    ("dichalcogenides", ['ratio="A2B"', '"S2"', '"Se2"', '"Te2"']),
    ("pyrophosphates", ['"P2"', '"O7"']),
    ("titanates", ['elements HAS ALL "Ti","O"', "whole:oxide"]),
    ("chlorides and bromides", ["whole:chloride", " OR ", "whole:bromide"]),
    ("nitride or carbide of tantalum", ['formula="Ta3N5" OR formula="Ta4C5"']),
    ("zinc oxide or sulfide", ['formula="ZnO" OR formula="ZnS"']),
    ("stannides", ['elements HAS "Sn"', 'NOT elements HAS ANY "H"']),
    ("Chevrel phases", ['elements HAS "Mo"', '"Mo6"', '"Se8"', 'NOT elements HAS "O"']),
    ("sulfosalts", ['elements HAS "S"', '"As","Sb","Bi"', 'NOT elements HAS ANY "O"']),
]
"""Typed text → parts of the filter of the rows that come first."""

LETTERS = [
    ("ABO3 with B = Ti", 'elements HAS "Ti"'),
    ("CsPbX3 with X = Cl, Br or iodine", 'elements HAS ANY "Cl","Br","I"'),
    ("RMn2O5, R = rare earth", "elements HAS ANY RARE EARTHS"),
]


@pytest.mark.parametrize("typed", MISSPELLED)
def test_a_word_one_edit_away_is_read_as_the_known_one(typed):
    assert corrected(split_words(typed)).words[0].folded == MISSPELLED[typed]


def test_a_correction_is_said_on_the_chip(fields):
    (chip,) = understand("galium nitride", fields).chips
    assert chip.words == "galium nitride"
    assert chip.note == "'galium' is read as gallium"
    assert understand("gallium nitride", fields).chips[0].filter == chip.filter


@pytest.mark.parametrize("word", RIGHT.split())
def test_other_words_stay_as_they_are(word):
    assert corrected(split_words(word)).words[0].folded == word


def test_short_words_and_symbols_stay_as_they_are():
    typed = "zink LiFePO4 FLOURITE garne"
    assert [w.folded for w in corrected(split_words(typed)).words] == [w.folded for w in split_words(typed).words]


@pytest.mark.parametrize(("typed", "parts"), COMPOSITION, ids=[typed for typed, _ in COMPOSITION])
def test_ratios_and_alternatives_come_first(typed, parts, fields):
    (line,) = brief(typed, fields)
    assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize(("typed", "expected"), LETTERS, ids=[typed for typed, _ in LETTERS])
def test_a_letter_of_a_formula_stands_for_elements(typed, expected, fields):
    ratio, letter = brief(typed, fields)
    assert ratio.startswith(("ratio=", "elements HAS"))
    assert letter == expected


def test_a_letter_without_a_formula_is_no_variable(fields):
    assert "B is Ti" not in [chip.label for chip in understand("steel with B = Ti", fields).chips]


def test_alloys_of_several_elements_have_no_others(fields):
    lines = brief("alloys of Nb, Mo and W", fields, level=9)
    assert lines == ['kw HAS "class:intermetallic compound"', 'nelements>=2 AND elements HAS ONLY "Nb","Mo","W"']


def test_neither_nor_excludes_both(fields):
    assert brief("Ge but neither O nor S", fields, level=9) == ['elements HAS "Ge"', 'NOT elements HAS ANY "O","S"']


def test_a_symbol_and_a_word_are_no_mineral(fields):
    (chip,) = understand("Li thiophosphates", fields).chips
    assert chip.kind == "class"

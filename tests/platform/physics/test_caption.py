from __future__ import annotations

import numpy as np

from crystalign.crystal import Crystal
from crystalign.physics.caption import ELEMENTS, caption
from crystalign.physics.symmetry import symmetry
from crystalign.sources.prototypes import library


def test_captions_say_what_a_crystallographer_says_first(textbook):
    text = caption(textbook["NaCl"], symmetry(textbook["NaCl"]))
    for word in ("NaCl", "sodium", "chlorine", "rock salt", "cubic", "Fm-3m (225)", "6 Cl", "octahedral", "2.82 Å"):
        assert word in text
    assert "tetrahedral, 2.35 Å" in caption(textbook["Si"], symmetry(textbook["Si"]))
    assert "12 O (cuboctahedral, 2.76 Å)" in caption(textbook["SrTiO3"], symmetry(textbook["SrTiO3"]))


def test_another_cell_has_the_same_caption(known, cell, transform):
    other = transform(known, cell)
    assert caption(other, symmetry(other)) == caption(known, symmetry(known))


def test_each_kind_of_partner_has_its_own_length():
    label, calcite = next((label, c) for label, c in library() if c.formula == "CCaO3")
    text = caption(calcite, symmetry(calcite))
    assert "ternary carbonate" in text, label
    assert "with the calcite structure" in text
    assert "C is bonded to 3 O (trigonal planar, 1.28 Å)" in text
    assert "O is bonded to 1 C (1.28 Å) and 2 Ca (2.36 Å)" in text


def test_a_caption_has_four_sentences_below_a_thousand_characters():
    for label, crystal in library():
        text = caption(crystal, symmetry(crystal))
        assert len(text) < 1000, label
        assert text.count(". ") == 3, label


def test_an_atom_without_bonds_is_said_to_have_none():
    helium = Crystal(4.2 * np.eye(3), np.zeros((1, 3)), np.array([2]))
    assert "He is not bonded." in caption(helium, symmetry(helium))


def test_element_names_agree_with_pymatgen():
    from pymatgen.core import Element

    assert [Element.from_Z(z).long_name.lower() for z in range(1, 119)] == ELEMENTS

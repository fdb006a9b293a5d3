from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.physics.caption import ELEMENTS, caption
from crystalign.physics.coordination import bonds
from crystalign.physics.split_sites import one_of_each
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


def test_a_caption_has_four_sentences_and_a_fifth_about_unique_lengths():
    for label, crystal in library():
        found = symmetry(crystal)
        text = caption(crystal, found)
        has_axes = found.crystal_system not in {"monoclinic", "triclinic"}
        assert len(text) < 1000, label
        assert text.count(". ") == (4 if has_axes else 3), label
        assert ("The lattice parameter" in text) == has_axes


def test_the_lattice_parameters_are_those_of_the_conventional_cell(textbook):
    assert "The lattice parameter is 5.64 Å." in caption(textbook["NaCl"], symmetry(textbook["NaCl"]))
    _, rutile = next((label, c) for label, c in library() if c.formula == "O2Ti" and symmetry(c).number == 136)
    assert "The lattice parameters are 4.59 and 2.96 Å." in caption(rutile, symmetry(rutile))


def test_an_atom_without_bonds_is_said_to_have_none():
    helium = Crystal(4.2 * np.eye(3), np.zeros((1, 3)), np.array([2]))
    assert "He is not bonded." in caption(helium, symmetry(helium))


def test_element_names_agree_with_pymatgen():
    from pymatgen.core import Element

    assert [Element.from_Z(z).long_name.lower() for z in range(1, 119)] == ELEMENTS


def test_positions_of_one_atom_are_not_bonded_to_each_other():
    """Potassium and rubidium share a place in a caesium chloride, 0.2 Å apart; each is there half of the time."""
    sites = np.array([[0, 0, 0], [0.2 / 4.2, 0, 0], [0.5, 0.5, 0.5]])
    occupancies = (((19, 0.5),), ((37, 0.5),), ((17, 1.0),))
    text = caption(split := Crystal(4.2 * np.eye(3), sites, np.array([19, 37, 17]), occupancies), symmetry(split))
    assert "K is bonded to 8 Cl (hexahedral, 3.64 Å)" in text
    assert "Rb is" not in text
    assert "a ternary chloride of chlorine, potassium and rubidium" in text


def test_water_and_hydroxyl_groups_are_no_split_sites():
    lattice = 8.0 * np.eye(3)
    sites = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [4.0, 4.0, 4.0]]) / 8.0
    half = (*(((z, 0.5),) for z in (8, 1, 1)), ((11, 1.0),))
    crystal = Crystal(lattice, sites, np.array([8, 1, 1, 11]), half)
    assert len(one_of_each(crystal)) == 4
    assert one_of_each(whole := Crystal(lattice, sites, np.array([8, 1, 1, 11]))) is whole


def test_the_most_occupied_position_of_a_split_site_is_described():
    sites = np.array([[0, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]])
    crystal = Crystal(4.2 * np.eye(3), sites, np.array([19, 19, 17]), (((19, 0.3),), ((19, 0.7),), ((17, 1.0),)))
    assert one_of_each(crystal).frac_coords.tolist() == sites[1:].tolist()


def test_coincident_atoms_end_in_an_error_and_not_in_a_search_without_end():
    double = Crystal(4.0 * np.eye(3), np.zeros((2, 3)), np.array([29, 29]))
    with pytest.raises(CrystalError, match="remove one"):
        bonds(double)


def test_ions_farther_apart_than_covalent_radii_are_bonded_all_the_same():
    thallium = Crystal(4.2 * np.eye(3), np.array([[0, 0, 0], [0.5] * 3]), np.array([81, 53]))
    text = caption(thallium, symmetry(thallium))
    assert "with the cesium chloride structure" in text
    assert "Tl is bonded to 8 I (hexahedral, 3.64 Å)" in text


def test_two_positions_of_oxygen_are_no_peroxide():
    """A rock salt whose oxygen was refined at two places, 1.4 Å apart, each half occupied."""
    primitive = 4.2 * (np.ones((3, 3)) - np.eye(3)) / 2
    shift = np.array([0.7, 0.0, 0.0]) @ np.linalg.inv(primitive)
    sites = np.array([[0, 0, 0], [0.5] * 3 + shift, [0.5] * 3 - shift])
    split = Crystal(primitive, sites, np.array([12, 8, 8]), (((12, 1.0),), ((8, 0.5),), ((8, 0.5),)))
    text = caption(split, symmetry(split))
    assert "peroxide" not in text
    assert "a binary compound of" in text
    assert "bonded to 2 O" not in text


def test_a_named_polyhedron_is_recognised_where_another_is_nearer():
    """The oxygen atom of tenorite: 17° from both the tetrahedron and the see-saw."""
    cell = Lattice.from_parameters(4.6837, 3.4226, 5.1288, 90, 99.54, 90)
    frac = [[0.25, 0.25, 0], [0.75, 0.75, 0], [0.75, 0.25, 0.5], [0.25, 0.75, 0.5]]
    frac += [[0, 0.4184, 0.25], [0, 0.5816, 0.75], [0.5, 0.9184, 0.25], [0.5, 0.0816, 0.75]]
    tenorite = Crystal(np.array(cell.matrix), np.array(frac), np.array([29] * 4 + [8] * 4))
    assert "with the tenorite structure" in caption(tenorite, symmetry(tenorite))

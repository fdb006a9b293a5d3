from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.physics.structure_types import PROTOTYPES
from crystalign.physics.symmetry import conventional, primitive, symmetry

KNOWN = {
    "Cu": (225, "Fm-3m", "A:225:a"),
    "NaCl": (225, "Fm-3m", "AB:225:a.b"),
    "Si": (227, "Fd-3m", "A:227:a"),
    "CsCl": (221, "Pm-3m", "AB:221:a.b"),
    "TiO2": (136, "P4_2/mnm", "AB2:136:a.f"),
    "ZnO": (186, "P6_3mc", "AB:186:b.b"),
    "SrTiO3": (221, "Pm-3m", "ABC3:221:a.b.c"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_space_groups_and_prototypes_are_those_of_the_textbook(textbook, name):
    found = symmetry(textbook[name])
    assert (found.number, found.symbol, found.prototype) == KNOWN[name]
    assert found.prototype in PROTOTYPES


def test_symmetry_does_not_depend_on_cell_origin_or_element(known, cell, transform):
    other = transform(known, cell)
    moved = Crystal(other.lattice, other.frac_coords + np.array([0.13, 0.27, 0.41]), other.atomic_numbers)
    assert symmetry(moved) == symmetry(known)
    swapped = Crystal(known.lattice, known.frac_coords, known.atomic_numbers.astype(int) + 1)
    assert symmetry(swapped).prototype == symmetry(known).prototype


def test_zinc_blende_is_one_prototype_whichever_tetrahedra_are_filled():
    fcc = 2.7 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]])
    both = [Crystal(fcc, np.array([[0] * 3, [x] * 3]), np.array([30, 16])) for x in (0.25, 0.75)]
    assert {symmetry(c).prototype for c in both} == {"AB:216:a.c"}


def test_standard_cells_hold_the_right_number_of_atoms(textbook, transform):
    big = transform(textbook["NaCl"], [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert len(primitive(big)) == 2
    assert len(conventional(big)) == 8
    assert conventional(big).volume == pytest.approx(5.64**3)


def test_mixed_sites_keep_their_occupancy():
    site = ((26, 0.5), (27, 0.5))
    mixed = Crystal(2.9 * np.eye(3), np.array([[0] * 3, [0.5] * 3]), np.array([26, 13]), (site, ((13, 1.0),)))
    assert symmetry(mixed).prototype == "AB:221:a.b"
    assert site in (primitive(mixed).occupancies or ())

"""Copies of a structure are found whatever their cell, rounding and source, and other structures are not."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.physics import same_structure as same_structure_module
from crystalign.physics.same_structure import Candidate, SameStructure, alike, group, same_structure


def spacegroup(symbol: str, lattice: Lattice, species: list[str], coords: list[list[float]]) -> Crystal:
    return Crystal.from_pymatgen(Structure.from_spacegroup(symbol, lattice, species, coords))


def quartz(symbol: str = "P3_221") -> Crystal:
    """α-quartz at room temperature (Kihara, Eur. J. Mineral. 2, 63 (1990)); P3_121 is its mirror image."""
    sign = 1 if symbol == "P3_221" else -1
    sites = [[0.4697, 0, sign * 2 / 3], [0.4133, 0.2672, sign * 0.7855]]
    return spacegroup(symbol, Lattice.hexagonal(4.9137, 5.4047), ["Si", "O"], sites)


def barium_titanate(shift: float = 0.0, ratio: float = 1.0) -> Crystal:
    """The cubic perovskite, or the ferroelectric with titanium off the centre."""
    lattice = 4.0 * np.diag([1.0, 1.0, ratio])
    sites = np.array(
        [[0, 0, 0], [0.5, 0.5, 0.5 + shift], [0.5, 0.5, -shift], [0.5, 0, 0.5 - shift], [0, 0.5, 0.5 - shift]]
    )
    return Crystal(lattice, sites, np.array([56, 22, 8, 8, 8]))


def rounded(crystal: Crystal, decimals: int) -> Crystal:
    """As a CIF holds it: lengths, angles and positions with so many digits."""
    cell = Lattice(crystal.lattice)
    parameters = [round(x, decimals) for x in (*cell.abc, *cell.angles)]
    lattice = Lattice.from_parameters(*parameters).matrix
    return Crystal(np.array(lattice), crystal.frac_coords.round(decimals), crystal.atomic_numbers)


@pytest.mark.parametrize("decimals", [3, 4, 5])
def test_rounding_another_cell_and_a_strain_leave_a_structure_what_it_is(known, cell, transform, decimals):
    other = rounded(transform(known, cell), decimals)
    assert same_structure(known, other)
    assert same_structure(other, known)
    strained = Crystal(other.lattice * 1.03, other.frac_coords, other.atomic_numbers)
    assert same_structure(known, strained)


def test_noise_of_a_hundredth_of_an_angstrom_is_no_other_structure(known):
    rng = np.random.default_rng(0)
    moved = known.frac_coords + rng.normal(0, 0.004, known.frac_coords.shape) @ np.linalg.inv(known.lattice)
    assert same_structure(known, Crystal(known.lattice, moved, known.atomic_numbers))


def test_different_structures_are_told_apart(textbook):
    names = sorted(textbook)
    found = {(a, b): same_structure(textbook[a], textbook[b]) for a in names for b in names}
    assert all(alike == (a == b) for (a, b), alike in found.items())


def test_polymorphs_are_different_structures():
    rutile = spacegroup("P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]])
    anatase = spacegroup("I4_1/amd", Lattice.tetragonal(3.785, 9.514), ["Ti", "O"], [[0, 0, 0], [0, 0, 0.2081]])
    assert rutile.formula == anatase.formula
    assert not same_structure(rutile, anatase)
    cubic = Crystal(3.61 * (np.ones((3, 3)) - np.eye(3)) / 2, np.zeros((1, 3)), np.array([29]))
    stretched = Crystal(cubic.lattice * np.array([1.0, 1.0, 1.05]), cubic.frac_coords, cubic.atomic_numbers)
    assert not same_structure(cubic, stretched), "a tetragonal metal is not the cubic one"


def test_a_ferroelectric_is_not_its_cubic_parent():
    cubic, ferroelectric = barium_titanate(), barium_titanate(0.015, 1.011)
    assert not same_structure(cubic, ferroelectric)
    assert same_structure(ferroelectric, rounded(barium_titanate(0.0155, 1.013), 4))


def test_mirror_images_are_one_structure():
    assert same_structure(quartz("P3_221"), quartz("P3_121"))


def test_a_compressed_crystal_is_another():
    one = quartz()
    assert not same_structure(one, Crystal(one.lattice * 0.94, one.frac_coords, one.atomic_numbers))


def test_occupancies_are_compared_with_a_tolerance_and_order_is_not_disorder(textbook):
    lattice = textbook["Cu"].lattice

    def alloy(fraction: float) -> Crystal:
        return Crystal(lattice, np.zeros((1, 3)), np.array([29]), (((29, 1 - fraction), (79, fraction)),))

    assert same_structure(alloy(0.25), alloy(0.2501))
    assert not same_structure(alloy(0.25), alloy(0.5))
    ordered = Crystal(
        3.74 * np.eye(3), np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]), np.array([79, 29, 29, 29])
    )
    assert ordered.formula == alloy(0.25).formula
    assert not same_structure(ordered, alloy(0.25))


def test_groups_depend_on_the_crystals_alone_and_each_member_is_like_its_leader():
    crystals = [
        (f"q{n}", Crystal(quartz().lattice * (1 + 0.02 * n), quartz().frac_coords, quartz().atomic_numbers))
        for n in range(5)
    ]
    crystals += [("z", quartz("P3_121"))]
    found = group(crystals, SameStructure())
    assert found == group(crystals[::-1], SameStructure())
    by_name, how = dict(crystals), SameStructure()
    assert all(same_structure(by_name[name], by_name[leader], how) for name, leader in found.items())
    assert found["z"] == found["q2"] == "q0", "6 % of volume per step of two"
    assert found["q3"] == "q3", "a chain of small steps does not make one group"
    assert found["q4"] == "q3"


def test_a_cell_that_cannot_be_reduced_is_tried_once(monkeypatch):
    one, tried = Candidate(quartz()), []

    def fail(crystal):
        tried.append(crystal)
        raise ValueError("no reduced cell")

    monkeypatch.setattr(Crystal, "to_pymatgen", fail)
    with pytest.raises(ValueError, match="no reduced cell"):
        alike(one, one, SameStructure())
    with pytest.raises(CrystalError, match="could not be reduced"):
        alike(one, one, SameStructure())
    assert len(tried) == 1


def test_cells_are_reduced_only_where_volume_and_space_group_agree(monkeypatch):
    monkeypatch.setattr(Crystal, "to_pymatgen", lambda crystal: pytest.fail("a cell was reduced"))
    larger = Crystal(1.2 * quartz().lattice, quartz().frac_coords, quartz().atomic_numbers)
    assert not alike(Candidate(quartz()), Candidate(larger), SameStructure())


def test_a_structure_without_a_space_group_is_nobodys_copy(monkeypatch):
    how = SameStructure()
    assert alike(Candidate(quartz()), Candidate(quartz()), how)
    monkeypatch.setattr(same_structure_module, "_spacegroup", lambda crystal, symprec: None)
    assert not alike(Candidate(quartz()), Candidate(quartz()), how)

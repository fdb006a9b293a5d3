from __future__ import annotations

import warnings

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.physics.coordination import CUTOFF, bonds
from crystalign.physics.polyhedra import pair_angles, shape
from crystalign.sources.prototypes import library


def neighbours_of(crystal: Crystal, site: int) -> list[tuple[int, ...]]:
    found = bonds(crystal)
    mine = (found.near.receivers == site) & found.counted
    return sorted(
        (int(j), *image.tolist()) for j, image in zip(found.near.senders[mine], found.near.images[mine], strict=True)
    )


@pytest.mark.parametrize("number", range(0, 200, 5))
def test_bonds_are_those_of_crystal_nn(number):
    from pymatgen.core.local_env import CrystalNN

    label, crystal = library()[number % len(library())]
    structure = crystal.to_pymatgen()
    for site in range(min(len(crystal), 3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = CrystalNN().get_nn_info(structure, site)
        expected = sorted((int(n["site_index"]), *(int(i) for i in n["image"])) for n in known)
        assert neighbours_of(crystal, site) == expected, label


def test_a_bond_belongs_to_both_of_its_atoms(textbook):
    found = bonds(textbook["SrTiO3"])
    partners = [sorted(found.near.senders[found.bonded & (found.near.receivers == i)].tolist()) for i in range(5)]
    assert [len(p) for p in partners] == [12, 6, 6, 6, 6]
    ends = zip(found.near.receivers, found.near.senders, map(tuple, found.near.images), strict=True)
    edges = {
        (int(a), int(b), *map(int, image)) for (a, b, image), bonded in zip(ends, found.bonded, strict=True) if bonded
    }
    assert {(b, a, -x, -y, -z) for a, b, x, y, z in edges} == edges


def test_coordination_does_not_depend_on_the_cell(known, cell, transform):
    one, other = bonds(known), bonds(transform(known, cell))
    counts = [np.bincount(b.near.receivers[b.bonded], minlength=len(set(b.near.receivers))) for b in (one, other)]
    assert sorted(set(counts[0].tolist())) == sorted(set(counts[1].tolist()))


def test_an_atom_in_a_vacuum_has_no_bonds_and_a_layer_has_those_of_the_layer():
    alone = Crystal(2.5 * CUTOFF * np.eye(3), np.zeros((1, 3)), np.array([2]))
    assert not bonds(alone).bonded.any()
    hexagonal = np.array([[2.46, 0, 0], [-1.23, 2.1304, 0], [0, 0, 3.0 * CUTOFF]])
    layer = Crystal(hexagonal, np.array([[1 / 3, 2 / 3, 0.5], [2 / 3, 1 / 3, 0.5]]), np.array([6, 6]))
    found = bonds(layer)
    assert np.bincount(found.near.receivers[found.bonded]).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("name", "corners"),
    [
        ("linear", [[0, 0, 1], [0, 0, -2]]),
        ("bent", [[0, 0, 1], [1, 0, 0]]),
        ("trigonal planar", [[1, -1, 0], [0, 1, -1], [-1, 0, 1]]),
        ("tetrahedral", [[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]),
        ("square-planar", [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]),
        ("octahedral", [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]),
        ("hexahedral", [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]),
    ],
)
def test_shapes_have_their_names_however_they_are_turned(name, corners):
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    assert shape(np.array(corners, float) @ turn) == name
    assert shape(np.array(corners[::-1], float) @ turn * 2.1) == name


def test_angles_of_an_octahedron():
    corners = np.vstack([np.eye(3), -np.eye(3)])
    assert pair_angles(corners).round().tolist() == [90.0] * 12 + [180.0] * 3

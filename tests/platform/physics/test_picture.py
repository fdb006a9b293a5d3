"""A picture shows the crystal, and not how it was described."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError
from crystalign.physics.picture import covalent_radii, draw_crystal, element_colours, scene


def rotation(seed: int):
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def described_anew(crystal: Crystal, seed: int) -> Crystal:
    """Turned, from another origin, its atoms in another order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(crystal))
    frac = (crystal.frac_coords + rng.random(3))[order]
    return Crystal(crystal.lattice @ rotation(seed), frac, crystal.atomic_numbers[order])


def test_the_picture_does_not_depend_on_the_description(known, cell, transform):
    drawn = draw_crystal(known)
    assert (drawn == draw_crystal(known)).all()
    for seed in range(3):
        other = draw_crystal(described_anew(transform(known, cell), seed))
        assert (other != drawn).any(axis=2).mean() < 0.002


def test_low_symmetry_and_polar_crystals_too(transform):
    rng = np.random.default_rng(5)
    cells = [np.diag([4.0, 5.1, 6.3]), np.array([[4.0, 0, 0], [0.0, 5.1, 0], [-1.5, 0, 6.3]]), 5.0 * np.eye(3)]
    cells.append(np.array([[5.0, 0, 0], [1.1, 4.6, 0], [0.7, -0.9, 5.7]]))
    for lattice in cells:
        crystal = Crystal(lattice, rng.random((4, 3)), np.array([12, 8, 8, 16]))
        drawn = draw_crystal(crystal)
        moved = described_anew(transform(crystal, [[1, 1, 0], [-1, 1, 0], [0, 1, 2]]), 1)
        assert (draw_crystal(moved) != drawn).any(axis=2).mean() < 0.002


def test_different_crystals_look_different(textbook):
    pictures = [draw_crystal(crystal) for crystal in textbook.values()]
    larger = {n: Crystal(1.3 * c.lattice, c.frac_coords, c.atomic_numbers) for n, c in textbook.items()}
    pictures += [draw_crystal(crystal) for crystal in larger.values()]  # balls are smaller beside the cell
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_mirror_images_are_told_apart():
    rng = np.random.default_rng(2)
    lattice, frac = np.array([[5.0, 0, 0], [1.1, 4.6, 0], [0.7, -0.9, 5.7]]), rng.random((4, 3))
    numbers = np.array([12, 8, 8, 16])
    right, left = Crystal(lattice, frac, numbers), Crystal(lattice * [1, 1, -1], frac, numbers)
    assert (draw_crystal(right) != draw_crystal(left)).any(axis=2).mean() > 0.02


CELLS = [("NaCl", 27, 54), ("CsCl", 9, 8), ("Si", 18, 16), ("Cu", 14, 36)]


@pytest.mark.parametrize(("name", "balls", "joined"), CELLS)
def test_the_cell_is_drawn_with_its_faces_and_bonds(textbook, name, balls, joined):
    drawn = scene(textbook[name])
    assert (len(drawn.centres), len(drawn.sticks)) == (balls, joined)
    lengths = np.linalg.norm(np.diff(drawn.edges, axis=1)[:, 0], axis=1)
    conventional = {"NaCl": 5.64, "CsCl": 4.12, "Si": 5.431, "Cu": 3.61}[name]
    np.testing.assert_allclose(lengths, conventional, atol=1e-3)


def test_an_atom_has_its_colour_and_a_mixed_site_the_mean():
    def centre(occupancy):
        site = Crystal(3.0 * np.eye(3), np.zeros((1, 3)), np.array([26]), (occupancy,) if occupancy else None)
        return scene(site).colours[0]

    colours = element_colours()
    np.testing.assert_allclose(centre(None), colours[26])
    np.testing.assert_allclose(centre(((26, 0.25), (27, 0.75))), 0.25 * colours[26] + 0.75 * colours[27])
    np.testing.assert_allclose(centre(((26, 0.5),)), 0.5 * colours[26] + 0.5)


def test_colours_and_radii_are_those_of_ase():
    from ase.data import covalent_radii as radii
    from ase.data.colors import jmol_colors

    np.testing.assert_allclose(element_colours()[1:110], jmol_colors[1:], atol=0.003)
    np.testing.assert_allclose(covalent_radii()[1:97], radii[1:97])
    assert len(element_colours()) == len(covalent_radii()) == 119


@pytest.mark.parametrize("shape", [[2.0, 2.0, 90.0], [40.0, 40.0, 40.0], [30.0, 30.0, 3.0]])
def test_needles_and_slabs_fill_the_frame(shape):
    drawn = draw_crystal(Crystal(np.diag(shape), np.zeros((1, 3)), np.array([118])), 32)
    inked = (drawn < 250).any(axis=2)
    assert max(np.ptp(np.flatnonzero(inked.any(axis=axis))) for axis in (0, 1)) >= 27
    assert not inked[[0, -1]].any()


def test_five_hundred_atoms_are_drawn():
    frac = np.random.default_rng(0).random((500, 3))
    crystal = Crystal(20.0 * np.eye(3), frac, np.full(500, 14))
    assert draw_crystal(crystal, 48).shape == (48, 48, 3)
    with pytest.raises(ConfigError, match="16 to 512"):
        draw_crystal(crystal, 4000)

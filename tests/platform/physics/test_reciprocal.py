"""Reciprocal spectra against extinction rules, a direct sum and other ways to write the same crystal."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.physics import reciprocal
from crystalign.physics.reciprocal import reciprocal_spectra, reflections, structure_factors

GRID = np.linspace(0.4, 5.4, 256)
ROCK_SALT = 5.64 * np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])


def test_rock_salt_shows_its_two_lattices():
    """Counted alike, Na and Cl are a simple cubic lattice of a/2; as charges they differ, and (111) appears."""
    salt = Crystal(ROCK_SALT, np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]), np.array([11, 17]))
    alike, charges = reciprocal_spectra(salt, GRID)
    cubic = Crystal(2.82 * np.eye(3), np.zeros((1, 3)), np.array([1]))
    np.testing.assert_allclose(alike, reciprocal_spectra(cubic, GRID)[0], atol=1e-12)
    q111 = 2.0 * np.pi * np.sqrt(3) / 5.64
    near = np.abs(GRID - q111) < 0.03
    assert alike[near].sum() == pytest.approx(0.0, abs=1e-12)
    assert charges[near].sum() == pytest.approx(8 * (6 / 28) ** 2)  # eight reflections of ((17 − 11)/(17 + 11))²


def test_spectra_are_the_sum_of_their_definition():
    rng = np.random.default_rng(0)
    crystal = Crystal(np.diag([3.0, 4.0, 5.0]) + 0.3 * rng.random((3, 3)), rng.random((4, 3)), np.array([3, 8, 22, 8]))
    hkl = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    hkl = hkl[hkl.any(axis=1)]
    q = 2.0 * np.pi * np.linalg.norm(hkl @ np.linalg.inv(crystal.lattice).T, axis=1)
    triangle = np.maximum(0.0, 1.0 - np.abs(q[:, None] - GRID) / (GRID[1] - GRID[0]))
    for found, weight in zip(reciprocal_spectra(crystal, GRID), (np.ones(4), crystal.atomic_numbers), strict=True):
        s = np.exp(2j * np.pi * hkl @ crystal.frac_coords.T) @ (weight / weight.sum())
        np.testing.assert_allclose(found, np.square(np.abs(s)) @ triangle, atol=1e-12)


def test_factors_are_the_direct_sum_whatever_the_block(monkeypatch):
    rng = np.random.default_rng(1)
    crystal = Crystal(rng.normal(size=(3, 3)) + 5 * np.eye(3), rng.random((7, 3)), np.full(7, 26))
    hkl, g, frac = reflections(crystal, 0.9)
    weights = rng.normal(size=(7, 3))
    direct = np.exp(2j * np.pi * hkl @ frac.T) @ weights
    np.testing.assert_allclose(structure_factors(hkl, frac, weights), direct, atol=1e-12)
    monkeypatch.setattr(reciprocal, "BLOCK", 50)
    np.testing.assert_allclose(structure_factors(hkl, frac, weights), direct, atol=1e-12)
    assert len(structure_factors(hkl[:0], frac, weights)) == 0
    assert ((g > 0) & (g <= 0.9)).all()
    both = np.concatenate([hkl, -hkl])
    assert len(np.unique(both, axis=0)) == 2 * len(hkl)  # one of each Friedel pair


def test_a_supercell_and_other_axes_have_the_same_spectra():
    rng = np.random.default_rng(2)
    crystal = Crystal(rng.normal(size=(3, 3)) + 4 * np.eye(3), rng.random((3, 3)), np.array([12, 8, 22]))
    change = np.array([[2, 0, 0], [1, 1, 0], [0, -1, 1]])
    shifts = np.array([[0, 0, 0], [1, 0, 0]])
    frac = (crystal.frac_coords[None] + shifts[:, None]).reshape(-1, 3) @ np.linalg.inv(change)
    larger = Crystal(change @ crystal.lattice, frac + np.array([0.1, 0.2, 0.3]), np.tile(crystal.atomic_numbers, 2))
    expected = reciprocal_spectra(crystal, GRID)
    np.testing.assert_allclose(reciprocal_spectra(larger, GRID), expected, atol=1e-10)


def test_a_site_that_is_half_one_element_counts_as_half():
    lattice, frac = 4.0 * np.eye(3), np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    z = np.array([26, 26])
    ordered = Crystal(lattice, frac, z)
    written = Crystal(lattice, frac, z, (((26, 0.5), (26, 0.5)), ((26, 1.0),)))
    np.testing.assert_allclose(reciprocal_spectra(written, GRID), reciprocal_spectra(ordered, GRID), atol=1e-12)
    mixed = Crystal(lattice, frac, z, (((27, 0.5), (25, 0.5)), ((26, 1.0),)))
    np.testing.assert_allclose(reciprocal_spectra(mixed, GRID), reciprocal_spectra(ordered, GRID), atol=1e-12)


def test_a_skewed_cell_costs_no_more_than_its_lattice():
    """The vectors are 600 Å long, the cell has 64 Å³."""
    skewed = Crystal(np.array([[4.0, 0, 0], [600.0, 4.0, 0], [-400.0, 80.0, 4.0]]), np.zeros((1, 3)), np.array([29]))
    cubic = Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([29]))
    np.testing.assert_allclose(reciprocal_spectra(skewed, GRID), reciprocal_spectra(cubic, GRID), atol=1e-9)


def test_a_cell_too_large_is_refused_by_name():
    with pytest.raises(CrystalError, match="too many reflections"):
        reflections(Crystal(200.0 * np.eye(3), np.zeros((1, 3)), np.array([1])), 1.0)

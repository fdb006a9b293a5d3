from __future__ import annotations

import numpy as np
import pytest

from crystalign.physics.spectra import broaden, rebin, resample, valence_band_maximum
from crystalign.physics.voxels import change_cell, fourier_resample, random_placement


def test_resampling_conserves_the_integral():
    rng = np.random.default_rng(0)
    energies = np.sort(rng.uniform(-9, 9, 301))
    densities = rng.random((2, 301))
    edges = np.linspace(-10, 10, 401)
    binned = resample(energies, densities, edges)
    expected = np.trapezoid(densities, energies, axis=-1)
    np.testing.assert_allclose((binned * np.diff(edges)).sum(axis=-1), expected, rtol=1e-12)


def test_resampling_a_straight_line_gives_its_middle_values():
    edges = np.linspace(0, 1, 11)
    line = resample(np.array([-1.0, 0.03, 2.0]), np.array([-1.0, 0.03, 2.0]) * 3 + 4, edges)
    np.testing.assert_allclose(line, 3 * 0.5 * (edges[1:] + edges[:-1]) + 4, rtol=1e-12)


def test_what_lies_outside_the_source_is_zero():
    binned = resample(np.array([0.0, 1.0]), np.ones(2), np.linspace(-1, 2, 7))
    np.testing.assert_allclose(binned, [0, 0, 1, 1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("bins", [601, 2001, 400, 150])
def test_other_bins_hold_the_same_states_and_none_are_negative(bins):
    edges, targets = np.linspace(-10, 10, 401), np.linspace(-10, 10, bins + 1)
    averages = np.where(np.random.default_rng(1).random(400) < 0.5, 0.0, np.random.default_rng(2).random(400))
    made = rebin(averages, edges, targets)
    assert made.min() >= 0.0
    assert made.sum() * (20 / bins) == pytest.approx(averages.sum() * 0.05, rel=1e-12)
    half = bins // 2 if bins % 2 == 0 else None
    if half is not None:  # 0 eV is an edge of both, so each half holds its own states
        assert made[:half].sum() * (20 / bins) == pytest.approx(averages[:200].sum() * 0.05, rel=1e-12)


def test_finer_bins_of_a_smooth_spectrum_are_those_of_its_integral():
    def integral(x):
        return 2 * x - 3 * np.cos(x / 3)  # of 2 + sin(x / 3)

    coarse, fine = (np.linspace(-10, 10, n + 1) for n in (400, 2001))
    known, wanted = (np.diff(integral(x)) / np.diff(x) for x in (coarse, fine))
    inside = slice(10, -10)  # what goes on beyond the ends is not known
    np.testing.assert_allclose(rebin(known, coarse, fine)[inside], wanted[inside], atol=2e-4)
    np.testing.assert_allclose(rebin(np.full(400, 1.5), coarse, fine + 0.07), 1.5, rtol=1e-12)


ENERGIES = np.linspace(-8, 8, 1601)


def _bands(vbm: float, cbm: float) -> np.ndarray:
    return np.where((vbm >= ENERGIES) | (cbm <= ENERGIES), 1.0, 0.0)


@pytest.mark.parametrize(("vbm", "cbm"), [(-1.5, 1.5), (0.0, 3.0), (-0.05, 0.3), (-3.0, 0.05)])
def test_a_gap_is_found_wherever_the_fermi_level_lies_in_it(vbm, cbm):
    zero, gap = valence_band_maximum(ENERGIES, _bands(vbm, cbm))
    assert zero == pytest.approx(vbm, abs=0.02)
    assert gap == pytest.approx(cbm - vbm, abs=0.03)


def test_a_metal_keeps_its_fermi_level():
    assert valence_band_maximum(ENERGIES, np.ones(1601)) == (0.0, 0.0)
    assert valence_band_maximum(ENERGIES, _bands(1.0, 3.0)) == (0.0, 0.0)  # a gap, but far above


def test_the_end_of_the_data_is_no_gap():
    only_conduction = np.where(ENERGIES > 0.5, 1.0, 0.0)
    assert valence_band_maximum(ENERGIES, only_conduction) == (0.0, 0.0)


def test_broadening_conserves_states():
    curve = np.zeros(400)
    curve[200] = 1.0
    assert broaden(curve, 0.05, 0.2).sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(broaden(curve, 0.05, 0.0), curve)


@pytest.mark.parametrize(("shape", "n"), [((24, 30, 36), 16), ((7, 9, 8), 12), ((48, 40, 20), 32), ((32, 32, 32), 32)])
def test_fourier_resampling_conserves_the_charge(shape, n):
    rho = np.random.default_rng(0).random(shape)
    made = fourier_resample(rho, n)
    assert made.shape == (n, n, n)
    assert made.mean() == pytest.approx(rho.mean(), rel=1e-13)


def _waves(n: int, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    x, y, z = (np.arange(n)[s] / n + d for s, d in zip(np.ix_(*[range(n)] * 3), shift, strict=True))
    return 2 + np.cos(2 * np.pi * (x + 2 * y)) + 0.5 * np.sin(2 * np.pi * (3 * z - x))


@pytest.mark.parametrize(("source", "target"), [(12, 32), (48, 16), (15, 20), (20, 15)])
def test_a_smooth_density_is_interpolated_exactly(source, target):
    np.testing.assert_allclose(fourier_resample(_waves(source), target), _waves(target), atol=1e-12)


@pytest.mark.parametrize(("source", "target", "steps"), [(32, 16, 2), (16, 32, 1), (48, 32, 3), (30, 20, 3)])
def test_translation_and_resampling_commute(source, target, steps):
    rho = np.random.default_rng(3).random((source,) * 3)
    moved = fourier_resample(np.roll(rho, steps, axis=1), target)
    np.testing.assert_allclose(
        moved, np.roll(fourier_resample(rho, target), steps * target // source, axis=1), atol=1e-12
    )


def test_random_placement_moves_the_density_and_its_lattice_together():
    n, lattice = 8, np.array([[4.0, 0, 0], [0.5, 5.0, 0], [0, 1.0, 6.0]])
    rho = np.random.default_rng(0).random((n, n, n))
    placed, cell = random_placement(rho, lattice, np.random.default_rng(1))
    assert sorted(placed.ravel()) == sorted(rho.ravel())
    assert abs(np.linalg.det(cell)) == pytest.approx(abs(np.linalg.det(lattice)))
    top, second = (np.array(np.unravel_index(np.argsort(-g, axis=None)[:2], g.shape)).T for g in (rho, placed))
    before, after = ((t[1] - t[0]) / n for t in (top, second))
    offsets = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    shortest = [np.linalg.norm((v + offsets) @ m, axis=1).min() for v, m in ((before, lattice), (after, cell))]
    assert shortest[0] == pytest.approx(shortest[1])


def _wave(points, lattice, g):
    """2 + cos(g · r) at fractional points of a cell."""
    return 2.0 + np.cos(points @ lattice @ g)


def _points(n):
    return np.stack(np.meshgrid(*[np.arange(n) / n] * 3, indexing="ij"), axis=-1)


@pytest.mark.parametrize("linear", [np.eye(3), [[1, 1, 0], [0, 1, -1], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, -1, 0]]])
def test_a_density_in_another_cell_is_the_same_function_of_space(linear):
    lattice, linear = np.array([[4.0, 0, 0], [0.5, 5.0, 0], [0, 1.0, 6.0]]), np.array(linear, float)
    g = 2 * np.pi * np.linalg.inv(lattice) @ np.array([1, -2, 1])
    origin = np.array([0.13, 0.4, 0.71])
    made = change_cell(_wave(_points(18), lattice, g), linear, 12, origin)
    np.testing.assert_allclose(made, _wave(_points(12) @ linear.T + origin, lattice, g), atol=1e-12)


def test_a_primitive_cell_takes_what_repeats_from_a_supercell():
    linear = np.diag([0.5, 1.0, 1 / 3])
    one = np.random.default_rng(0).random((6, 6, 6))
    assert change_cell(np.tile(one, (2, 1, 3)), linear, 6) == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(8, 8), (8, 12), (12, 8), (9, 8), (8, 9)])
def test_changing_to_the_same_cell_is_resampling(n, m):
    rho = np.random.default_rng(4).random((n, n, n))
    np.testing.assert_allclose(change_cell(rho, np.eye(3), m), fourier_resample(rho, m), atol=1e-12)


def test_random_placement_draws_rotations_and_all_origins():
    """A hexagonal crystal comes with all twelve directions of its axes in the plane, at any grid point."""
    lattice = np.array([[1.0, 0, 0], [-0.5, np.sqrt(3) / 2, 0], [0, 0, 1.6]])
    rho = np.zeros((4, 4, 4))
    rho[0, 0, 0] = 1.0
    rng = np.random.default_rng(0)
    placed = [random_placement(rho, lattice, rng) for _ in range(600)]
    assert len({int(np.argmax(made)) for made, _ in placed}) == 64
    assert len({tuple(cell.round(6).ravel() + 0.0) for _, cell in placed}) > 100
    lengths = {tuple(sorted(np.linalg.norm(cell, axis=1).round(6))) for _, cell in placed}
    assert lengths == {(1.0, 1.0, 1.6)}


def test_random_placement_is_a_description_of_the_same_crystal():
    """A wave of the density is the same wave of space: its wavevector does not change."""
    lattice = np.array([[3.0, 0, 0], [-1.5, 1.5 * np.sqrt(3), 0], [0, 0, 5.0]])
    g = 2 * np.pi * np.linalg.inv(lattice) @ np.array([1, 1, 2])
    rho = _wave(_points(8), lattice, g)
    rng = np.random.default_rng(7)
    for _ in range(20):
        made, cell = random_placement(rho, lattice, rng)
        spectrum = np.abs(np.fft.fftn(made - 2.0))
        place = tuple(np.rint(cell @ g / (2 * np.pi)).astype(int) % 8)
        assert spectrum[place] == pytest.approx(8**3 / 2)

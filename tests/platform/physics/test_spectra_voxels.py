from __future__ import annotations

import numpy as np
import pytest

from crystalign.physics.spectra import broaden, resample, valence_band_maximum
from crystalign.physics.voxels import fourier_resample, random_placement


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

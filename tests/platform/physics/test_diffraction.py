from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError, SpectrumError
from crystalign.physics.diffraction import (
    MAX_PEAKS,
    REFERENCE_WAVELENGTH,
    PowderPattern,
    draw,
    lorentz_polarisation,
    parse_wavelength,
    powder_peaks,
    remove_background,
)
from crystalign.physics.rendering import Augmentation, Instrument, march_dollase, render

GRID = np.linspace(0.4, 5.7, 1024)


def test_peaks_agree_with_pymatgen_once_the_instrument_is_put_back(known):
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    theirs = XRDCalculator("CuKa").get_pattern(known.to_pymatgen(), two_theta_range=(0, 90))
    ours = powder_peaks(known)
    weighted = ours.intensities * lorentz_polarisation(2 * np.pi / ours.d_spacings, REFERENCE_WAVELENGTH)
    strong = np.flatnonzero(theirs.y > 0.1)
    assert len(strong) >= 3
    for d, height in zip(np.array(theirs.d_hkls)[strong], theirs.y[strong], strict=True):
        match = np.abs(ours.d_spacings - d) < 1e-4 * d
        assert 100 * weighted[match].sum() / weighted.max() == pytest.approx(height, rel=1e-3)


def test_silicon_has_its_textbook_lines(textbook):
    peaks = powder_peaks(textbook["Si"])
    expected = 5.431 / np.sqrt([3, 8, 11, 16, 19, 24])
    np.testing.assert_allclose(peaks.d_spacings[:6], expected, rtol=1e-9)


def test_another_cell_has_the_same_peaks_and_the_same_pattern(known, cell, transform):
    one, other = powder_peaks(known), powder_peaks(transform(known, cell))
    np.testing.assert_allclose(other.d_spacings, one.d_spacings, rtol=1e-7)
    np.testing.assert_allclose(other.intensities, one.intensities, atol=1e-9)
    np.testing.assert_allclose(render(other, GRID), render(one, GRID), rtol=1e-4, atol=1e-4 * render(one, GRID).max())


def test_mirror_images_have_the_same_peaks():
    lattice = np.array([[5.0, 0, 0], [0.4, 6.0, 0], [0.7, -0.3, 7.0]])
    frac = np.random.default_rng(0).random((5, 3))
    one = powder_peaks(Crystal(lattice, frac, np.array([14, 8, 8, 3, 3])))
    mirror = powder_peaks(Crystal(lattice, -frac, np.array([14, 8, 8, 3, 3])))
    np.testing.assert_allclose(one.intensities, mirror.intensities, atol=1e-9)


def test_a_mixed_site_scatters_like_the_mean_of_its_atoms(textbook):
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    site = (((26, 0.25), (27, 0.5)),)
    mixed = Crystal(textbook["Cu"].lattice, np.zeros((1, 3)), np.array([27]), site)
    theirs = XRDCalculator("CuKa").get_pattern(mixed.to_pymatgen(), two_theta_range=(0, 90))
    ours = powder_peaks(mixed)
    weighted = ours.intensities * lorentz_polarisation(2 * np.pi / ours.d_spacings, REFERENCE_WAVELENGTH)
    np.testing.assert_allclose(100 * weighted[: len(theirs.y)] / weighted.max(), theirs.y, rtol=1e-3)


def test_a_big_cell_keeps_its_intensity_and_a_needle_has_some(monkeypatch):
    rng = np.random.default_rng(1)
    lattice = np.array([[19.0, 0, 0], [2.1, 21.0, 0], [1.7, -3.0, 23.0]])
    crystal = Crystal(lattice, rng.random((300, 3)), np.full(300, 14))
    big = powder_peaks(crystal)
    assert 512 < len(big.d_spacings) <= MAX_PEAKS
    monkeypatch.setattr("crystalign.physics.diffraction.MAX_PEAKS", 10**9)
    everything = powder_peaks(crystal)
    assert len(everything.d_spacings) > 2 * MAX_PEAKS
    seen, whole = (render(peaks, GRID, Instrument()) for peaks in (big, everything))
    scale = (seen @ whole) / (seen @ seen)  # each is scaled to its strongest peak
    assert np.abs(scale * seen - whole).sum() < 0.03 * whole.sum()
    assert scale * seen.sum() > 0.98 * whole.sum()


def test_a_needle_has_peaks():
    needle = powder_peaks(Crystal(np.diag([2.0, 2.0, 90.0]), np.zeros((1, 3)), np.array([26])))
    assert needle.d_spacings[0] == pytest.approx(90.0)


def test_an_element_without_scattering_factors_is_named():
    with pytest.raises(CrystalError, match="Og") as caught:
        powder_peaks(Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([118])))
    assert caught.value.reason == "no-scattering-factors"


def test_a_cell_with_no_reflection_in_the_range_is_an_error():
    with pytest.raises(CrystalError) as caught:
        powder_peaks(Crystal(0.9 * np.eye(3), np.zeros((1, 3)), np.array([1])))
    assert caught.value.reason == "no-peaks"


def test_drawn_peaks_have_their_area_place_and_width():
    grid = np.linspace(0.0, 10.0, 2001)
    drawn = draw(np.array([5.003]), np.array([2.0]), np.array([0.1]), grid, lorentzian=0.0)
    assert drawn.sum() * 0.005 == pytest.approx(2.0, rel=1e-4)
    assert (grid * drawn).sum() / drawn.sum() == pytest.approx(5.003, abs=1e-4)
    assert np.interp(5.053, grid, drawn) == pytest.approx(drawn.max() / 2, rel=0.01)


def test_a_peak_narrower_than_a_step_does_not_fall_between_points():
    grid = np.linspace(0.0, 1.0, 101)
    areas = [draw(np.array([x]), np.ones(1), np.array([1e-5]), grid).sum() for x in (0.5, 0.5025, 0.505)]
    np.testing.assert_allclose(areas, areas[0], rtol=0.02)


def test_peaks_outside_the_grid_are_ignored():
    grid = np.linspace(1.0, 2.0, 101)
    assert draw(np.array([-50.0, 80.0]), np.ones(2), np.full(2, 0.02), grid).max() == 0.0


def test_strain_moves_every_peak_by_its_share(textbook):
    peaks = powder_peaks(textbook["Si"])
    plain, wide = (render(peaks, GRID, Instrument(strain=s)) for s in (0.0, 0.02))
    assert GRID[plain.argmax()] / GRID[wide.argmax()] == pytest.approx(1.02, abs=0.004)


def test_peaks_are_as_wide_as_optics_and_grains_make_them(textbook):
    """Scherrer and Caglioti by hand at 2θ = 60° of copper radiation: tan θ = 0.5774, cos θ = 0.8660."""
    q = np.array([4.0 * np.pi * np.sin(np.radians(30.0)) / REFERENCE_WAVELENGTH])
    optics = Instrument(caglioti=(0.03, -0.02, 0.01), crystallite_size=1e9)
    grains = Instrument(caglioti=(0.0, 0.0, 0.0), crystallite_size=20.0, microstrain=0.001)
    width, eta = optics.profile(q)
    assert width[0] == pytest.approx(np.sqrt(0.03 / 3 - 0.02 / 3**0.5 + 0.01), rel=1e-4)
    assert eta[0] == pytest.approx(0.0, abs=1e-4)
    width, eta = grains.profile(q)
    by_hand = np.degrees(0.9 * REFERENCE_WAVELENGTH / 10 / (20.0 * np.cos(np.radians(30.0))) + 0.004 / 3**0.5)
    assert width[0] == pytest.approx(by_hand, rel=5e-3)
    assert eta[0] == pytest.approx(1.0, abs=5e-3)


def test_the_pseudo_voigt_is_the_convolution_of_its_parts():
    """Against a numerical Voigt profile of Γ_G = 0.2°, Γ_L = 0.1°: width and shape."""
    x = np.linspace(-20.0, 20.0, 400_001)
    gauss = np.exp(-4.0 * np.log(2.0) * (x / 0.2) ** 2)
    lorentz = 1.0 / (1.0 + (2.0 * x / 0.1) ** 2)
    voigt = np.fft.fftshift(np.fft.irfft(np.fft.rfft(gauss) * np.fft.rfft(lorentz), len(x)))
    full_width = np.ptp(x[voigt >= voigt.max() / 2])
    size = 0.9 * REFERENCE_WAVELENGTH / 10 / np.radians(0.1)
    width, _ = Instrument(caglioti=(0.0, 0.0, 0.04), crystallite_size=size).profile(np.array([1e-6]))
    assert width[0] == pytest.approx(full_width, rel=5e-3)


@pytest.mark.parametrize("r", [0.4, 0.8, 1.0, 1.7])
def test_preferred_orientation_moves_intensity_and_makes_none(r):
    cosines = (np.arange(200_000) + 0.5) / 200_000  # uniform on the sphere
    factors = march_dollase(cosines, r)
    assert factors.mean() == pytest.approx(1.0, rel=1e-6)
    assert factors[-1] == pytest.approx(r**-3, rel=1e-3)  # along the axis
    assert factors[0] == pytest.approx(r**1.5, rel=1e-3)  # across it


def test_background_removal_keeps_peaks_and_takes_humps():
    hump = 2.0 * np.exp(-0.5 * ((GRID - 2.0) / 1.0) ** 2) + np.exp(-GRID)
    peaks = draw(np.array([1.5, 3.0]), np.ones(2), np.full(2, 0.02), GRID)
    rest = remove_background(hump + peaks, 31)
    far = (np.abs(GRID - 1.5) > 0.2) & (np.abs(GRID - 3.0) > 0.2) & (GRID > 0.5)
    assert rest[far].max() < 0.01 * rest.max()
    assert rest.max() == pytest.approx(peaks.max(), rel=0.05)


def test_augmentation_is_a_function_of_its_random_numbers(textbook):
    peaks, augmentation = powder_peaks(textbook["TiO2"]), Augmentation()
    first, again, other = (augmentation.measure(peaks, GRID, np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05
    assert all(np.isfinite(augmentation.measure(peaks, GRID, np.random.default_rng(s))[0]).all() for s in range(50))


def test_augmentation_covers_its_ranges():
    rng = np.random.default_rng(0)
    drawn = [Augmentation().instrument(rng) for _ in range(2000)]
    strain, width = np.array([i.strain for i in drawn]), np.sqrt([i.caglioti[2] for i in drawn])
    assert strain.min() < -0.029
    assert strain.max() > 0.029
    assert np.abs(strain).max() <= 0.03
    assert width.min() == pytest.approx(0.04, rel=0.02)
    assert width.max() == pytest.approx(0.25, rel=0.02)
    sizes = np.array([i.crystallite_size for i in drawn])
    assert sizes.min() == pytest.approx(20.0, rel=0.02)
    assert sizes.max() == pytest.approx(300.0, rel=0.02)
    angles = np.tan(np.radians(np.linspace(1, 60, 60)))
    assert all((u * angles**2 + v * angles + w > 0.0).all() for u, v, w in (i.caglioti for i in drawn))
    assert 0.45 < np.mean([i.kalpha2 for i in drawn]) < 0.55


@pytest.mark.parametrize(
    ("name", "value"), [("CuKa", 1.54184), ("Cu Kα", 1.54184), ("mo-kalpha1", 0.7093), ("1.5406", 1.5406), (0.4, 0.4)]
)
def test_wavelengths_have_names(name, value):
    assert parse_wavelength(name) == value


@pytest.mark.parametrize("wrong", ["Xx", "", 0.0, -1.5, 154.0, float("nan")])
def test_what_is_no_wavelength_is_refused(wrong):
    with pytest.raises(SpectrumError):
        parse_wavelength(wrong)


def test_wavelengths_agree_with_pymatgen():
    from pymatgen.analysis.diffraction.xrd import WAVELENGTHS as THEIRS

    from crystalign.physics.diffraction import WAVELENGTHS

    for name, value in WAVELENGTHS.items():
        assert value == pytest.approx(THEIRS[name], abs=2e-4), name


@pytest.mark.parametrize(("d", "strength"), [([], []), ([2.0], [0.0]), ([2.0, np.nan], [1, 1]), ([-1.0], [1.0])])
def test_what_is_no_pattern_is_refused(d, strength):
    with pytest.raises(SpectrumError):
        PowderPattern(np.array(d), np.array(strength))

"""Strain-scanned matching finds a stretched, noisy, partial pattern among others, and tells the strain."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import SpectrumError
from crystalign.modalities.profile_match import ProfileMatcher
from crystalign.modalities.xrd import MeasuredPattern
from crystalign.physics.diffraction import REFERENCE_WAVELENGTH, PowderPattern, lorentz_polarisation, powder_peaks

MATCHER = ProfileMatcher()


def crystals(count):
    """Cells of random size and content."""
    rng = np.random.default_rng(3)
    for _ in range(count):
        lattice = np.diag(rng.uniform(3.5, 6.0, 3)) + rng.uniform(-0.4, 0.4, (3, 3))
        yield Crystal(lattice, rng.random((3, 3)), rng.integers(8, 60, 3))


def scan(pattern: PowderPattern, strain=0.0, noise=0.0, low=15.0, high=80.0):
    """What a diffractometer would write: counts over 2θ, with a background."""
    angle = np.arange(low, high, 0.02)
    q = 2.0 * np.pi / (pattern.d_spacings * (1.0 + strain))
    q = q[q < 0.95 * 4.0 * np.pi / REFERENCE_WAVELENGTH]
    centre = np.degrees(2.0 * np.arcsin(q * REFERENCE_WAVELENGTH / (4.0 * np.pi)))
    areas = pattern.intensities[: len(q)] * lorentz_polarisation(q, REFERENCE_WAVELENGTH)
    counts = (areas * np.exp(-0.5 * np.square((angle[:, None] - centre) / 0.08))).sum(axis=1)
    counts = counts / counts.max() + 0.2 + 0.3 * np.exp(-angle / 20.0)
    counts += noise * np.random.default_rng(0).standard_normal(len(angle))
    return MeasuredPattern(angle, counts, REFERENCE_WAVELENGTH)


@pytest.mark.parametrize("strain", [0.0, 0.02, -0.025])
def test_the_phase_comes_first_and_its_strain_is_found(strain):
    patterns = [powder_peaks(c) for c in crystals(40)]
    candidates = MATCHER.profiles(patterns)
    for wanted in (0, 7, 21):
        measured, covered = MATCHER.measured(scan(patterns[wanted], strain, noise=0.01))
        found = MATCHER.match(measured, covered, candidates)
        assert int(found.scores.argmax()) == wanted
        assert found.scores[wanted] > 0.9
        assert found.strains[wanted] == pytest.approx(strain, abs=0.003)


def test_without_the_scan_a_strained_phase_is_lost():
    pattern = powder_peaks(next(crystals(1)))
    rigid = ProfileMatcher(max_strain=0.0)
    measured, covered = rigid.measured(scan(pattern, 0.02))
    assert rigid.match(measured, covered, rigid.profiles([pattern])).scores[0] < 0.5


def test_what_was_not_measured_does_not_count():
    first, second = (powder_peaks(c) for c in crystals(2))
    measured, covered = MATCHER.measured(scan(first, low=30.0, high=60.0))
    candidates = MATCHER.profiles([first, second])
    beyond = candidates.copy()
    beyond[:, : covered.start - 1] = 7.0
    beyond[:, covered.stop + 2 * MATCHER.shifts + 1 :] = 7.0
    np.testing.assert_allclose(
        MATCHER.match(measured, covered, beyond).scores,
        MATCHER.match(measured, covered, candidates).scores,
        rtol=1e-6,
    )


def test_blocks_change_nothing():
    patterns = [powder_peaks(c) for c in crystals(7)]
    measured, covered = MATCHER.measured(scan(patterns[3]))
    candidates = MATCHER.profiles(patterns)
    whole, parts = (MATCHER.match(measured, covered, candidates, block=n) for n in (100, 2))
    np.testing.assert_allclose(whole.scores, parts.scores, rtol=1e-6)


def test_a_range_outside_is_refused():
    pattern = powder_peaks(next(crystals(1)))
    with pytest.raises(SpectrumError, match="covers too little"):
        MATCHER.measured(scan(pattern, low=84.0, high=96.0))

"""From peaks to the pattern an instrument would record, on a grid of Q; what differs between instruments is drawn."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.physics.diffraction import (
    REFERENCE_WAVELENGTH,
    WAVELENGTHS,
    PowderPattern,
    draw,
    lorentz_polarisation,
)

Array = NDArray[np.float64]

KALPHA2 = np.array([[WAVELENGTHS["CuKa1"], 2 / 3], [WAVELENGTHS["CuKa2"], 1 / 3]])
"""The two lines that a tube with the mean wavelength emits: Å, share."""
FAINT = 1e-3
"""Peaks of less than this share of the largest area are not drawn; noise and rounding hide them."""


class Instrument(Config):
    """One powder, measured once. The defaults are a good laboratory diffractometer."""

    width: float = 0.15
    """Full width at half maximum, degrees 2θ at the reference wavelength."""
    broadening: float = 0.0
    """Growth of the width with Q, of strained grains: w ∝ 1 + broadening · Q / (5 Å⁻¹)."""
    lorentzian: float = 0.5
    """η of the pseudo-Voigt profile, 0 to 1."""
    displacement: float = 0.5
    """B of the Debye–Waller factor exp(−2 B (Q/4π)²), Å²."""
    strain: float = 0.0
    """Relative change of every d: computed and measured cells differ by one to three per cent."""
    zero_shift: float = 0.0
    """Degrees 2θ added to every angle."""
    kalpha2: bool = False
    """Whether each peak is the doublet of Kα₁ and Kα₂ rather than one line."""


def render(
    pattern: PowderPattern,
    grid: Array,
    instrument: Instrument | None = None,
    *,
    d_factors: Array | None = None,
    texture: Array | None = None,
) -> Array:
    """The intensity per Q that an instrument at the reference wavelength records, without background.

    Args:
        pattern: the peaks.
        grid: (G,) Q in Å⁻¹, even.
        instrument: how it was measured.
        d_factors: (P,) factors of each d, e.g. of an anisotropic strain.
        texture: (P,) factors of each intensity, e.g. of preferred orientation.

    Returns:
        (G,) in arbitrary units.
    """
    how = instrument or Instrument()
    d = pattern.d_spacings * (1.0 + how.strain)
    q = 2.0 * np.pi / (d if d_factors is None else d * d_factors)
    seen = q < 0.95 * 4.0 * np.pi / REFERENCE_WAVELENGTH
    q, areas = q[seen], pattern.intensities[seen]
    if texture is not None:
        areas = areas * texture[seen]
    areas = areas * lorentz_polarisation(q, REFERENCE_WAVELENGTH)
    areas = areas * np.exp(-2.0 * how.displacement * np.square(q / (4.0 * np.pi)))
    strong = areas > FAINT * areas.max(initial=0.0)
    q, areas = q[strong], areas[strong]
    per_degree = _q_per_degree(q)
    widths = how.width * per_degree * (1.0 + how.broadening * q / 5.0)
    q = q + how.zero_shift * per_degree
    if how.kalpha2:
        q = np.concatenate([q * line / REFERENCE_WAVELENGTH for line in KALPHA2[:, 0]])
        areas, widths = np.concatenate([areas * share for share in KALPHA2[:, 1]]), np.tile(widths, 2)
    return draw(q, areas, widths, grid, lorentzian=how.lorentzian)


@functools.cache
def _unit(size: int) -> Array:
    """(size,) from 0 to 1."""
    return np.linspace(0.0, 1.0, size)


def _q_per_degree(q: Array) -> Array:
    """Slope dQ / d(2θ), Å⁻¹ per degree, at the reference wavelength: (2π/λ) cos θ · π/180."""
    cosine = np.sqrt(np.maximum(1.0 - np.square(q * REFERENCE_WAVELENGTH / (4.0 * np.pi)), 0.0))
    slope: Array = (2.0 * np.pi / REFERENCE_WAVELENGTH) * cosine * (np.pi / 180.0)
    return slope


class Augmentation(Config):
    """The ranges from which training draws an instrument, a grain texture, a background and a range."""

    strain: float = 0.03
    """Isotropic strain up to ± this."""
    jitter: float = 0.003
    """Standard deviation of each d on its own, up to this: a small anisotropic strain."""
    width: tuple[float, float] = (0.05, 0.4)
    """Degrees 2θ, log-uniform."""
    broadening: float = 1.5
    """Up to this."""
    displacement: float = 2.0
    """B up to this, Å²."""
    texture: float = 0.6
    """Standard deviation of the logarithm of each intensity, up to this."""
    zero_shift: float = 0.1
    """Degrees 2θ, up to ± this."""
    kalpha2: float = Field(default=0.5, ge=0, le=1)
    """Probability of a doublet."""
    background: float = 0.3
    """Height of a smooth background relative to the strongest peak, up to this."""
    noise: float = 0.05
    """Counting noise of the strongest peak, relative to it, log-uniform from a hundredth of this up to this."""
    missing: float = Field(default=0.3, ge=0, le=1)
    """Probability, at each end, that the measurement starts late or stops early."""
    missing_share: float = 0.35
    """The most that is missing at one end, as a share of the grid."""

    def instrument(self, rng: np.random.Generator) -> Instrument:
        """One draw."""
        low, high = np.log(self.width)
        strain, zero = rng.uniform(-1, 1, 2)
        width, broadening, lorentzian, displacement, doublet = rng.random(5)
        return Instrument.model_construct(  # the ranges are validated, their draws need not be
            width=float(np.exp(low + width * (high - low))),
            broadening=broadening * self.broadening,
            lorentzian=lorentzian,
            displacement=displacement * self.displacement,
            strain=strain * self.strain,
            zero_shift=zero * self.zero_shift,
            kalpha2=bool(doublet < self.kalpha2),
        )

    def measure(self, pattern: PowderPattern, grid: Array, rng: np.random.Generator) -> tuple[Array, slice]:
        """A measurement of the powder: intensities (G,), background and noise included, and the measured range."""
        n = len(pattern.d_spacings)
        jitter, spread = rng.uniform(0, self.jitter), rng.uniform(0, self.texture)
        clean = render(
            pattern,
            grid,
            self.instrument(rng),
            d_factors=1.0 + jitter * rng.standard_normal(n),
            texture=np.exp(spread * rng.standard_normal(n)),
        )
        clean /= max(clean.max(), 1e-300)
        counted = clean + self._background(len(grid), rng)
        sigma = self.noise * 100.0 ** (-rng.random())
        noisy = counted + sigma * np.sqrt(counted) * rng.standard_normal(len(grid))
        return noisy, self._range(len(grid), rng)

    def _background(self, size: int, rng: np.random.Generator) -> Array:
        """A constant, the scattering of air that falls off from low angles, and a hump of glass."""
        x = _unit(size)
        flat, air, hump = rng.random(3) * rng.random() * self.background
        centre, width = rng.uniform(0.1, 0.6), rng.uniform(0.08, 0.25)
        smooth: Array = flat + air * np.exp(-x / rng.uniform(0.05, 0.3))
        smooth += hump * np.exp(-0.5 * np.square((x - centre) / width))
        return smooth

    def _range(self, size: int, rng: np.random.Generator) -> slice:
        """What of the grid is measured."""
        absent, share = rng.random(2) < self.missing, rng.random(2) * self.missing_share * size
        first, last = (int(s) if gone else 0 for gone, s in zip(absent, share, strict=True))
        return slice(first, size - last)

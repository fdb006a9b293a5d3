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
EQUIVALENTS = 3
"""Directions whose mean stands for the symmetry-equivalent reflections in one peak."""


SCHERRER = 0.9
"""K of the Scherrer equation, of grains of no particular shape."""


class Instrument(Config):
    """One powder, measured once. The defaults are a good laboratory diffractometer and large grains."""

    caglioti: tuple[float, float, float] = (0.02, -0.01, 0.012)
    """U, V, W in square degrees: the optics' Gaussian width is (U tan² θ + V tan θ + W)^½ (Caglioti et al., 1958)."""
    crystallite_size: float = Field(default=80.0, gt=0)
    """Of the grains that diffract, nm; the Lorentzian width K λ / (size cos θ) of Scherrer's equation."""
    microstrain: float = Field(default=0.0, ge=0)
    """Relative spread ε of the lengths within a grain; adds 4 ε tan θ to the Lorentzian width."""
    displacement: float = 0.5
    """B of the Debye–Waller factor exp(−2 B (Q/4π)²), Å²."""
    strain: float = 0.0
    """Relative change of every d: computed and measured cells differ by one to three per cent."""
    zero_shift: float = 0.0
    """Degrees 2θ added to every angle."""
    kalpha2: bool = False
    """Whether each peak is the doublet of Kα₁ and Kα₂ rather than one line."""

    def profile(self, q: Array) -> tuple[Array, Array]:
        """Widths and shapes of peaks: the pseudo-Voigt that is nearest to the Gaussian and the Lorentzian convolved.

        Γ⁵ = Γ_G⁵ + 2.69269 Γ_G⁴Γ_L + 2.42843 Γ_G³Γ_L² + 4.47163 Γ_G²Γ_L³ + 0.07842 Γ_GΓ_L⁴ + Γ_L⁵,
        η = 1.36603 x − 0.47719 x² + 0.11116 x³ with x = Γ_L/Γ (Thompson, Cox & Hastings, J. Appl.
        Cryst. 20, 79 (1987)).

        Args:
            q: (P,) Å⁻¹.

        Returns:
            (P,) full widths at half maximum Γ, degrees 2θ at the reference wavelength, and (P,) η.
        """
        sine = np.minimum(q * REFERENCE_WAVELENGTH / (4.0 * np.pi), 0.999)
        cosine = np.sqrt(1.0 - np.square(sine))
        tangent = sine / cosine
        u, v, w = self.caglioti
        gauss = np.sqrt(np.maximum(u * np.square(tangent) + v * tangent + w, 1e-6))
        lorentz = SCHERRER * 0.1 * REFERENCE_WAVELENGTH / (self.crystallite_size * cosine)
        lorentz = np.degrees(lorentz + 4.0 * self.microstrain * tangent)
        terms = zip((1.0, 2.69269, 2.42843, 4.47163, 0.07842, 1.0), range(6), strict=True)
        width = sum(factor * gauss ** (5 - n) * lorentz**n for factor, n in terms) ** 0.2
        x = lorentz / width
        return width, 1.36603 * x - 0.47719 * np.square(x) + 0.11116 * x**3


def march_dollase(cosines: Array, r: float) -> Array:
    """How much stronger a reflection is in a powder whose plates (r < 1) or needles (r > 1) lie in one direction.

    P = (r² cos² α + sin² α / r)^(−3/2), α between the reflection's normal and the axis of the grains;
    its mean over the sphere is 1 (Dollase, J. Appl. Cryst. 19, 267 (1986)).

    Args:
        cosines: cos α, any shape.
        r: the March coefficient; 1 is a powder without texture.

    Returns:
        Factors of intensity, of the same shape.
    """
    squared = np.square(cosines)
    factors: Array = (r * r * squared + (1.0 - squared) / r) ** -1.5
    return factors


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
    per_degree = _q_per_degree(q)
    degrees, eta = how.profile(q)
    widths = degrees * per_degree
    q = q + how.zero_shift * per_degree
    if how.kalpha2:
        q = np.concatenate([q * line / REFERENCE_WAVELENGTH for line in KALPHA2[:, 0]])
        areas = np.concatenate([areas * share for share in KALPHA2[:, 1]])
        widths, eta = np.tile(widths, 2), np.tile(eta, 2)
    return draw(q, areas, widths, grid, lorentzian=eta)


@functools.cache
def _unit(size: int) -> Array:
    """(size,) from 0 to 1."""
    return np.linspace(0.0, 1.0, size)


def _q_per_degree(q: Array) -> Array:
    """Slope dQ / d(2θ), Å⁻¹ per degree, at the reference wavelength: (2π/λ) cos θ · π/180."""
    cosine = np.sqrt(np.maximum(1.0 - np.square(q * REFERENCE_WAVELENGTH / (4.0 * np.pi)), 0.0))
    slope: Array = (2.0 * np.pi / REFERENCE_WAVELENGTH) * cosine * (np.pi / 180.0)
    return slope


def _log_uniform(bounds: tuple[float, float], x: float) -> float:
    """From a uniform number to one that is uniform in its logarithm."""
    low, high = np.log(bounds)
    return float(np.exp(low + x * (high - low)))


class Augmentation(Config):
    """The ranges from which training draws an instrument, a grain texture, a background and a range."""

    strain: float = 0.03
    """Isotropic strain up to ± this."""
    jitter: float = 0.003
    """Standard deviation of each d on its own, up to this: a small anisotropic strain."""
    optics: tuple[float, float] = (0.04, 0.25)
    """Degrees 2θ, log-uniform: the Gaussian width at θ = 0, √W of Caglioti's formula."""
    dispersion: float = 0.06
    """U of Caglioti's formula up to this, square degrees; V is drawn between 0 and its least, −2 √(UW)."""
    crystallite_size: tuple[float, float] = (20.0, 300.0)
    """nm, log-uniform."""
    microstrain: float = 0.0015
    """Up to this."""
    displacement: float = 2.0
    """B up to this, Å²."""
    orientation: float = 0.4
    """Preferred orientation: |ln r| of March and Dollase up to this. Peaks are kept without their indices, so each
    gets the mean factor of `EQUIVALENTS` directions at random."""
    scatter: float = 0.4
    """Standard deviation of the logarithm of each intensity, up to this: few grains, and errors of the structure."""
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
        strain, zero = rng.uniform(-1, 1, 2)
        optics, u, v, size, microstrain, displacement, doublet = rng.random(7)
        w = _log_uniform(self.optics, optics) ** 2
        u = u * self.dispersion
        return Instrument.model_construct(  # the ranges are validated, their draws need not be
            caglioti=(u, -2.0 * v * np.sqrt(u * w), w),
            crystallite_size=_log_uniform(self.crystallite_size, size),
            microstrain=microstrain * self.microstrain,
            displacement=displacement * self.displacement,
            strain=strain * self.strain,
            zero_shift=zero * self.zero_shift,
            kalpha2=bool(doublet < self.kalpha2),
        )

    def texture(self, size: int, rng: np.random.Generator) -> Array:
        """(size,) factors of intensity: preferred orientation, and scatter."""
        r = float(np.exp(rng.uniform(-1.0, 1.0) * self.orientation))
        oriented = march_dollase(rng.random((size, EQUIVALENTS)), r).mean(axis=1)
        scattered: Array = oriented * np.exp(rng.uniform(0.0, self.scatter) * rng.standard_normal(size))
        return scattered

    def measure(self, pattern: PowderPattern, grid: Array, rng: np.random.Generator) -> tuple[Array, slice]:
        """A measurement of the powder: intensities (G,), background and noise included, and the measured range."""
        n = len(pattern.d_spacings)
        jitter = rng.uniform(0, self.jitter)
        clean = render(
            pattern,
            grid,
            self.instrument(rng),
            d_factors=1.0 + jitter * rng.standard_normal(n),
            texture=self.texture(n, rng),
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

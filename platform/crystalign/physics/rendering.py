"""Powder patterns on a grid of Q as an instrument would record them, and random instruments for training."""

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
"""Wavelength in Å and relative intensity of the lines Kα₁ and Kα₂."""
EQUIVALENTS = 3
"""Number of random directions that stand for the symmetry-equivalent reflections of a peak."""


SCHERRER = 0.9
"""Shape factor K of the Scherrer equation, for grains without a particular shape."""


class Instrument(Config):
    """Parameters of one powder measurement. The defaults are a good laboratory diffractometer and large grains."""

    caglioti: tuple[float, float, float] = (0.02, -0.01, 0.012)
    """U, V, W in square degrees: the optics' Gaussian width is (U tan² θ + V tan θ + W)^½ (Caglioti et al., 1958)."""
    crystallite_size: float = Field(default=80.0, gt=0)
    """Size of the crystallites, nm; their Lorentzian width is K λ / (size cos θ), Scherrer's equation."""
    microstrain: float = Field(default=0.0, ge=0)
    """Relative spread ε of the d-spacings within a grain; adds 4 ε tan θ to the Lorentzian width."""
    displacement: float = 0.5
    """B of the Debye–Waller factor exp(−2 B (Q/4π)²), Å²."""
    strain: float = 0.0
    """Relative change of every d-spacing; computed and measured cells differ by one to three per cent."""
    zero_shift: float = 0.0
    """Zero error of the instrument: degrees 2θ added to every angle."""
    kalpha2: bool = False
    """Whether each peak is the doublet of Kα₁ and Kα₂ instead of a single line."""

    def profile(self, q: Array) -> tuple[Array, Array]:
        """Widths and shapes of peaks: the pseudo-Voigt approximation of the convolved Gaussian and Lorentzian.

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
    """Intensity factors by preferred orientation of plates (r < 1) or needles (r > 1).

    P = (r² cos² α + sin² α / r)^(−3/2) with α the angle between the normal of the reflecting planes and the axis of
    the grains. Its mean over the sphere is 1 (Dollase, J. Appl. Cryst. 19, 267 (1986)).

    Args:
        cosines: cos α, any shape.
        r: the March coefficient; 1 is a powder without texture.

    Returns:
        The factors, of the same shape.
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
        grid: (G,) Q in Å⁻¹, evenly spaced.
        instrument: parameters of the measurement; by default those of `Instrument()`.
        d_factors: (P,) factors by which each d is multiplied, e.g. for an anisotropic strain.
        texture: (P,) factors by which each intensity is multiplied, e.g. for preferred orientation.

    Returns:
        (G,) in arbitrary units.
    """
    settings = instrument or Instrument()
    d = pattern.d_spacings * (1.0 + settings.strain)
    q = 2.0 * np.pi / (d if d_factors is None else d * d_factors)
    seen = q < 0.95 * 4.0 * np.pi / REFERENCE_WAVELENGTH
    q, areas = q[seen], pattern.intensities[seen]
    if texture is not None:
        areas = areas * texture[seen]
    areas = areas * lorentz_polarisation(q, REFERENCE_WAVELENGTH)
    areas = areas * np.exp(-2.0 * settings.displacement * np.square(q / (4.0 * np.pi)))
    per_degree = _q_per_degree(q)
    degrees, eta = settings.profile(q)
    widths = degrees * per_degree
    q = q + settings.zero_shift * per_degree
    if settings.kalpha2:
        q = np.concatenate([q * line / REFERENCE_WAVELENGTH for line in KALPHA2[:, 0]])
        areas = np.concatenate([areas * share for share in KALPHA2[:, 1]])
        widths, eta = np.tile(widths, 2), np.tile(eta, 2)
    return draw(q, areas, widths, grid, lorentzian=eta)


@functools.cache
def _unit(size: int) -> Array:
    """(size,) evenly spaced numbers from 0 to 1."""
    return np.linspace(0.0, 1.0, size)


def _q_per_degree(q: Array) -> Array:
    """Slope dQ / d(2θ), Å⁻¹ per degree, at the reference wavelength: (2π/λ) cos θ · π/180."""
    cosine = np.sqrt(np.maximum(1.0 - np.square(q * REFERENCE_WAVELENGTH / (4.0 * np.pi)), 0.0))
    slope: Array = (2.0 * np.pi / REFERENCE_WAVELENGTH) * cosine * (np.pi / 180.0)
    return slope


def _log_uniform(bounds: tuple[float, float], x: float) -> float:
    """The log-uniform number between `bounds` at the quantile x."""
    low, high = np.log(bounds)
    return float(np.exp(low + x * (high - low)))


class Augmentation(Config):
    """Random measurements for training: the ranges of instrument, texture, background, noise and measured range."""

    strain: float = 0.03
    """Largest isotropic strain, of either sign."""
    jitter: float = 0.003
    """Largest standard deviation of an independent relative change of each d; models a small anisotropic strain."""
    optics: tuple[float, float] = (0.04, 0.25)
    """Range of the Gaussian width at θ = 0, √W of Caglioti's formula; degrees 2θ, log-uniform."""
    dispersion: float = 0.06
    """Largest U of Caglioti's formula, square degrees; V is drawn between 0 and its smallest value, −2 √(UW)."""
    crystallite_size: tuple[float, float] = (20.0, 300.0)
    """Range of the crystallite size; nm, log-uniform."""
    microstrain: float = 0.0015
    """Largest microstrain."""
    displacement: float = 2.0
    """Largest B of the Debye–Waller factor, Å²."""
    orientation: float = 0.4
    """Largest |ln r| of the March–Dollase model of preferred orientation. Peaks are stored without their indices, so
    each gets the mean factor of `EQUIVALENTS` random directions."""
    scatter: float = 0.4
    """Largest standard deviation of the logarithm of each intensity; models poor grain statistics and errors of the
    structure."""
    zero_shift: float = 0.1
    """Largest zero error, of either sign; degrees 2θ."""
    kalpha2: float = Field(default=0.5, ge=0, le=1)
    """Probability of a Kα₁/Kα₂ doublet."""
    background: float = 0.3
    """Largest height of a smooth background, relative to the strongest peak."""
    noise: float = 0.05
    """Largest counting noise of the strongest peak, relative to it; log-uniform between a hundredth of it and it."""
    missing: float = Field(default=0.3, ge=0, le=1)
    """Probability that a range is missing, separately at each end of the grid."""
    missing_share: float = 0.35
    """Largest missing range at one end, as a fraction of the grid."""

    def instrument(self, rng: np.random.Generator) -> Instrument:
        """Draw the parameters of one measurement."""
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
        """(size,) random intensity factors by preferred orientation and scatter."""
        r = float(np.exp(rng.uniform(-1.0, 1.0) * self.orientation))
        oriented = march_dollase(rng.random((size, EQUIVALENTS)), r).mean(axis=1)
        scattered: Array = oriented * np.exp(rng.uniform(0.0, self.scatter) * rng.standard_normal(size))
        return scattered

    def measure(self, pattern: PowderPattern, grid: Array, rng: np.random.Generator) -> tuple[Array, slice]:
        """A random measurement of the powder: (G,) intensities with background and noise, and the measured range."""
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
        """(size,) background: a constant, air scattering at low angles, and a broad amorphous hump."""
        x = _unit(size)
        flat, air, hump = rng.random(3) * rng.random() * self.background
        centre, width = rng.uniform(0.1, 0.6), rng.uniform(0.08, 0.25)
        smooth: Array = flat + air * np.exp(-x / rng.uniform(0.05, 0.3))
        smooth += hump * np.exp(-0.5 * np.square((x - centre) / width))
        return smooth

    def _range(self, size: int, rng: np.random.Generator) -> slice:
        """The part of the grid that is measured."""
        absent, share = rng.random(2) < self.missing, rng.random(2) * self.missing_share * size
        first, last = (int(s) if gone else 0 for gone, s in zip(absent, share, strict=True))
        return slice(first, size - last)
